"""Experiment files: what they say, and what is refused before anything runs."""

import pytest

from gpt2jax.config import flatten, overlay
from gpt2jax.errors import UserError
from gpt2jax.studies import arm, cells, chain, param, product, recipe_arm
from gpt2jax.studies import zip as zip_arms
from gpt2jax.studies.cells import config_digest, make_cell, slug
from gpt2jax.studies.study import ROOT, load_base, load_experiment
from gpt2jax.validation import resolve

FILE = '''"""Is wide better?

Read the differences.
"""

from gpt2jax.studies import Study, arm, chain, param, product


def get_study():
    return Study({})
'''
GOOD = "base='configs/laptop.py:length=64', arms=param('model.width', 64, 128)"


@pytest.fixture(name='write')
def make_write(tmp_path):
    """Writes an experiment file with these arguments of Study; returns its path."""

    def write(arguments, text=FILE):
        path = tmp_path / 'wide.py'
        path.write_text(text.format(arguments))
        return str(path)

    return write


def test_arms_are_named_after_their_keys():
    assert [(a.name, a.changes) for a in param('model.norm.kind', 'layernorm', 'rmsnorm')] == [
        ('norm=layernorm', {'model.norm.kind': 'layernorm'}),
        ('norm=rmsnorm', {'model.norm.kind': 'rmsnorm'}),
    ]
    assert [a.name for a in param('model.width', 64, 128)] == ['width=64', 'width=128']
    assert [a.name for a in param('model.width', 64, 128, names=('s', 'l'))] == ['s', 'l']
    with pytest.raises(UserError, match='2 values and 1 names'):
        param('model.width', 64, 128, names=('s',))


def test_combinators_combine():
    widths, layers = param('model.width', 64, 128), param('model.num_layers', 2, 4)
    assert [a.changes for a in product(widths, layers)] == [
        {'model.width': width, 'model.num_layers': count} for width in (64, 128) for count in (2, 4)
    ]
    assert product(widths, layers)[1].name == 'width=64, num_layers=4'
    assert [tuple(a.changes.values()) for a in zip_arms(widths, layers)] == [(64, 2), (128, 4)]
    assert [a.name for a in chain(arm('base'), widths)] == ['base', 'width=64', 'width=128']
    assert len(product(widths, chain(arm('a'), product(layers, arm('', {'seed': 1}))))) == 6


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: product(param('a', 1), param('a', 2)), 'sets a, which another part'),
        (lambda: zip_arms(param('a', 1, 2), param('b', 1)), 'the parts have 2, 1 arms'),
        (lambda: chain(param('a', 1), param('a', 1)), "two arms have the name 'a=1'"),
    ],
)
def test_arms_that_clash_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_an_experiment_is_its_docstring_and_its_study(write):
    experiment = load_experiment(write(GOOD))
    assert (experiment.name, experiment.question, experiment.reading) == (
        'wide',
        'Is wide better?',
        'Read the differences.',
    )
    assert experiment.study.base_arm.name == 'width=64'
    assert experiment.config({'model.width': 128}).data.length == 64
    assert experiment.changed == ()


def test_what_the_command_line_changes_is_said(write):
    experiment = load_experiment(write(GOOD), ['training.steps=20', 'length=32'], seeds=5)
    assert experiment.changed == ('training.steps = 20', 'data.length = 32', '5 seeds an arm')
    assert experiment.study.seeds == (0, 1, 2, 3, 4)
    assert (experiment.steps, experiment.config().data.length) == (20, 32)
    assert load_experiment(write(GOOD), seeds=1).study.seeds == (0,)


def test_everything_that_is_wrong_is_said_at_once(write):
    arms = "param('model.widht', 1, 2) + arm('b', {'model.norm.kind': 3, 'optimizer.learning_rat': 1.0})"
    with pytest.raises(UserError) as caught:
        load_experiment(write(f"base='configs/laptop.py', arms={arms}, match='time', baseline='x'"))
    text = str(caught.value)
    for part in (
        "match = 'time': one of tokens, predicted",
        "arm 'widht=1': config.model.widht: there is no such key; did you mean model.width?",
        "arm 'widht=2'",
        "arm 'b': config.optimizer.learning_rat: there is no such key; did you mean optimizer.learning_rate?",
        "baseline = 'x': no arm has this name",
    ):
        assert part in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            "base='configs/laptop.py', arms=param('model.width', 64, 'big')",
            "arm 'width=big': config.model.width = 'big'",
        ),
        ("base='configs/laptop.py', arms=param('model.width', 64, 63)", "arm 'width=63': config.model.width = 63"),
        ("base='configs/laptop.py', arms=param('training.steps', 5, 6)", 'is set by the runner'),
        ("base='configs/laptop.py', arms=param('model.width', 64)", 'at least two arms'),
        ("base='configs/none.py', arms=param('model.width', 64, 128)", 'configs/none.py: there is no such file'),
        (GOOD + ', seeds=(1, 1)', 'one comes twice'),
        (GOOD + ", tune=param('optimizer.learning_rate', 0.1), tune_seeds=(0,)", 'must be others than seeds'),
        (GOOD + ", tune=param('model.width', 256)", 'is what arms differ in'),
        (GOOD + ", tune={'x': param('optimizer.learning_rate', 0.1)}", 'the names must be those of the arms'),
        (GOOD + ", test='z'", "test = 'z': one of t, permutation"),
    ],
)
def test_a_study_that_cannot_work_is_refused(write, arguments, message):
    with pytest.raises(UserError, match=r'wide\.py:\n  |no such file') as caught:
        load_experiment(write(arguments))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x = 1\n', 'has no function get_study'),
        ('def get_study():\n    return Studdy()\n', 'failed: NameError'),
        (FILE.replace('{}', 'arm=3'), r"get_study\(\) failed: TypeError: .*'arm'"),
        ('def get_study(:\n', 'cannot be loaded: SyntaxError'),
        ('def get_study():\n    return 3\n', 'returned int, not a gpt2jax.studies.Study'),
        (FILE.replace('Is wide better?', '').replace('Read the differences.', ''), 'the docstring is missing'),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(write, text, message):
    with pytest.raises(UserError, match=message):
        load_experiment(write(GOOD, text))


def test_a_missing_file_names_those_that_are_there():
    with pytest.raises(UserError, match=r'there are: experiments/causal_or_masked\.py'):
        load_experiment('experiments/no_such.py')


def test_a_recipe_as_an_arm_is_that_recipe_but_for_its_length():
    base = 'configs/laptop.py:length=64'
    (found,) = recipe_arm('BERT base', 'configs/bert_base.py', base)
    recipe, config = flatten(load_base('configs/bert_base.py')), flatten(overlay(load_base(base), found.changes))
    assert {key for key in config if config[key] != recipe[key]} == {'training.steps'}
    assert 'data.length' in found.changes
    assert recipe_arm('the same', base, base)[0].changes == {}


@pytest.mark.parametrize('path', sorted((ROOT / 'experiments').glob('*.py')), ids=lambda path: path.stem)
def test_every_shipped_experiment_is_sound(path):
    experiment = load_experiment(str(path))
    assert experiment.question.endswith('?')
    assert f'--experiment=experiments/{path.name}' in experiment.reading
    assert len(experiment.study.seeds) >= 3 or experiment.study.is_scaling  # whose intervals are over runs


def test_a_cell_has_a_folder_of_its_own_config(write, tmp_path):
    experiment = load_experiment(write(GOOD))
    both = [(seed, width) for seed in (0, 1) for width in (64, 128)]
    made = [make_cell(experiment, tmp_path, 'a', seed, [{'model.width': width}]) for seed, width in both]
    assert len({cell.folder for cell in made}) == 4
    again = make_cell(experiment, tmp_path, 'a', 0, [{'model.width': 64, 'runtime.compilation_cache': '/elsewhere'}])
    assert again.folder == made[0].folder
    assert made[1].changes == {'model.width': 128}
    flags = '--config.model.width=64 --config.seed=1'
    assert made[2].typed() == (
        f'python launch.py train --config=configs/laptop.py:length=64 {flags} --workdir={made[2].folder}'
    )


def test_a_new_key_at_its_default_changes_no_folder(write, monkeypatch):
    """A finished run is still the same one when the program learns a new option."""
    config = resolve(load_experiment(write(GOOD)).config())
    digest = config_digest(config)
    grown, defaults = config.to_dict() | {'new_option': 3}, cells.default_config().to_dict() | {'new_option': 3}
    monkeypatch.setattr(cells, 'default_config', lambda: defaults)
    assert config_digest(grown) == digest
    assert config_digest({**grown, 'new_option': 4}) != digest


def test_names_become_folders_that_differ():
    names = ['GPT-2', 'a/b', 'a-b', '15 %', '15', '../x', 'é' * 80]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert slugs[0] == 'GPT-2'
    assert all('/' not in one and not one.startswith('.') and len(one) < 80 for one in slugs)
