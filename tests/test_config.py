"""The config tree: strict about keys and types, and every key explained."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

from gpt2jax import config as config_module
from gpt2jax.config import check_key, default_config, flatten, from_json, full_key, overlay, recipe, to_dict
from gpt2jax.errors import UserError

REPOSITORY = Path(__file__).parents[1]


def assigned_lines():
    """{dotted key: its source line} of the assignments in default_config."""
    source = inspect.getsource(default_config)
    lines, names, found = source.splitlines(), {'config': ''}, {}
    for node in ast.parse(source).body[0].body:
        if not isinstance(node, ast.Assign):
            continue
        attribute = next((target for target in node.targets if isinstance(target, ast.Attribute)), None)
        if attribute is None:
            continue
        path = f'{names[attribute.value.id]}{attribute.attr}'
        if isinstance(node.value, ast.Call):
            (alias,) = (target.id for target in node.targets if isinstance(target, ast.Name))
            names[alias] = f'{path}.'
        else:
            found[path] = lines[node.lineno - 1]
    return found


def test_every_key_has_a_comment():
    lines = assigned_lines()
    assert lines.keys() == flatten(default_config()).keys()
    assert [key for key, line in lines.items() if not re.search(r'  # \S', line)] == []


def test_a_comment_that_lists_choices_lists_them_all():
    from gpt2jax.validation import CHOICES

    for key, choices in CHOICES.items():
        comment = assigned_lines()[key].partition('  # ')[2]
        for choice in choices:
            assert re.search(rf'\b{choice}\b', comment), f'{key}: {choice} is missing in {comment!r}'


def test_no_source_file_hides_a_default_behind_get():
    files = [REPOSITORY / 'launch.py']
    for folder in ('gpt2jax', 'configs', 'experiments', 'benchmarks'):
        files += (REPOSITORY / folder).rglob('*.py')
    assert len(files) > 20
    for file in files:
        assert not re.search(r'\b(config|c|cfg|model|optimizer|training)\.get\(', file.read_text()), file


@pytest.mark.parametrize(
    ('key', 'nearest'),
    [
        ('model.widht', 'model.width'),
        ('model.postion.kind', 'model.position.kind'),
        ('learning_rat', 'optimizer.learning_rate'),
        ('optimiser.learning_rate', 'optimizer.learning_rate'),
        ('sede', 'seed'),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(key, nearest):
    with pytest.raises(UserError, match=rf'^config\.{key}: there is no such key; did you mean {nearest}\?$'):
        check_key(key)
    with pytest.raises(UserError, match=nearest):
        overlay(default_config(), {key: 1})


def test_a_key_near_to_none_is_refused_without_a_guess():
    with pytest.raises(UserError, match=r'^config\.zzzz: there is no such key$'):
        check_key('zzzz')


def test_a_section_is_not_a_key():
    with pytest.raises(UserError, match=r'config\.model: there is no such key'):
        overlay(default_config(), {'model': 3})


def test_the_tree_is_locked():
    for config in (default_config(), overlay(default_config(), {}), recipe({}), from_json('{}')):
        with pytest.raises((AttributeError, KeyError)):
            config.model.widht = 3


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('model.width', '512', 'int, not str'),
        ('model.width', 512.0, 'int, not float'),
        ('model.width', None, 'int, not NoneType'),
        ('model.width', True, 'int, not bool'),
        ('model.head.tied', 1, 'bool, not int'),
        ('model.dropout', '0.1', 'float, not str'),
        ('model.dropout', True, 'float, not bool'),
        ('data.corpus', 3, 'str, not int'),
    ],
)
def test_a_wrong_type_is_refused_with_key_value_and_default(key, value, expected):
    default = flatten(default_config())[key]
    message = f'config.{key} = {value!r}: expected {expected} (the default is {default!r})'
    with pytest.raises(UserError, match=re.escape(message)):
        overlay(default_config(), {key: value})


def test_an_int_is_taken_for_a_float_and_becomes_one():
    rate = overlay(default_config(), {'optimizer.learning_rate': 1}).optimizer.learning_rate
    assert (type(rate), rate) == (float, 1.0)


def test_overlay_sets_the_keys_and_no_others():
    changes = {'seed': 3, 'model.width': 512, 'model.attention.num_heads': 8}
    assert flatten(overlay(default_config(), changes)) == flatten(default_config()) | changes


def test_overlay_never_changes_its_input():
    config, changes = default_config(), {'seed': 3, 'model.width': 512, 'model.attention.num_heads': 8}
    before, before_changes = to_dict(config), dict(changes)
    new = overlay(config, changes)
    with new.unlocked():
        new.model.norm.epsilon = 1.0
    assert to_dict(config) == before
    assert changes == before_changes


def test_a_config_survives_json():
    config = recipe({'model.width': 512, 'optimizer.learning_rate': 1, 'data.path': 'höhe "x"\\'}, 'tied=false')
    again = from_json(json.dumps(to_dict(config)))
    assert again == config
    assert {key: type(value) for key, value in flatten(again).items()} == {
        key: type(value) for key, value in flatten(config).items()
    }


def test_json_is_checked_against_the_tree():
    with pytest.raises(UserError, match=r'model\.widht.*did you mean model\.width'):
        from_json('{"model": {"widht": 3}}')
    with pytest.raises(UserError, match=r'model\.width = .*expected int, not str'):
        from_json('{"model": {"width": "3"}}')


def test_flatten_reads_configs_and_dicts_alike():
    assert flatten({'a': 1, 'b': {'c': 2, 'd': {'e': 3}}}) == {'a': 1, 'b.c': 2, 'b.d.e': 3}
    config = default_config()
    assert flatten(config) == flatten(to_dict(config))


def test_a_recipe_argument_goes_over_the_recipe():
    config = recipe({'data.length': 64, 'seed': 5}, 'tokenizer=gpt2,length=256')
    assert (config.data.tokenizer, config.data.length, config.seed) == ('gpt2', 256, 5)


@pytest.mark.parametrize('argument', [None, ''])
def test_a_recipe_without_an_argument_is_its_changes(argument):
    assert recipe({'seed': 5}, argument) == overlay(default_config(), {'seed': 5})


def test_recipe_arguments_take_the_type_of_the_key():
    config = recipe({}, 'learning_rate=1, tied=False,corpus=tfds:lm1b ,model.dropout=1e-1,data=-1')
    assert (config.optimizer.learning_rate, config.model.head.tied) == (1.0, False)
    assert (config.data.corpus, config.model.dropout, config.sharding.data) == ('tfds:lm1b', 0.1, -1)


@pytest.mark.parametrize(
    ('name', 'key'),
    [
        ('seed', 'seed'),
        ('length', 'data.length'),
        ('data.length', 'data.length'),
        ('objective', 'objective.kind'),
        ('optimizer', 'optimizer.kind'),
        ('width', 'model.width'),  # the least nested: model.feedforward.width is another
        ('dropout', 'model.dropout'),
        ('position', 'model.position.kind'),  # a nested section with a kind
        ('norm', 'model.norm.kind'),
        ('model.norm', 'model.norm.kind'),
    ],
)
def test_a_short_name_stands_for_one_key(name, key):
    assert full_key(name, default_config()) == key


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('batch_size=3', 'could be any of evaluation.batch_size, training.batch_size'),
        ('kind=3', 'could be any of objective.kind, optimizer.kind'),
        ('bias=true', 'could be any of model.attention.bias, model.feedforward.bias, model.head.bias, model.norm.bias'),
        ('lenght=3', "'lenght': there is no such key; did you mean length?"),
        ('model.widht=3', "'model.widht': there is no such key; did you mean model.width?"),
        ('zzzz=3', "'zzzz': there is no such key"),
        ('length', "'length': expected NAME=VALUE"),
        ('=3', "'': there is no such key"),
        ('length=', "config.data.length = '': expected int"),
        ('length=1.5', "config.data.length = '1.5': expected int"),
        ('learning_rate=fast', "config.optimizer.learning_rate = 'fast': expected float"),
        ('tied=1', "config.model.head.tied = '1': expected true or false"),
    ],
)
def test_a_recipe_argument_that_cannot_be_read_is_refused(argument, message):
    with pytest.raises(UserError, match=re.escape(message)):
        recipe({}, argument)


def test_the_tree_stays_small_enough_to_read():
    assert len(flatten(default_config())) <= 131
    assert len(Path(config_module.__file__).read_text().splitlines()) <= 300
