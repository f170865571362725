"""`launch.py audit`: the drawing says what the Example is, and a model that cheats is found out."""

import io
import random

import jax
import numpy as np
import pytest
from helpers import example_of, random_batch
from matplotlib.image import imread
from rich.console import Console

from gpt2jax.commands import auditing
from gpt2jax.commands.auditing import audit, checked_places
from gpt2jax.config import default_config, overlay
from gpt2jax.data import make_tokenizer
from gpt2jax.errors import UserError
from gpt2jax.models import transformer as transformer_file
from gpt2jax.models.masks import visible
from gpt2jax.objectives import make_objective
from gpt2jax.report.visibility import View, visibility_picture
from gpt2jax.report.visibility_text import visibility_map, visibility_text
from gpt2jax.validation import resolve


@pytest.fixture(name='config')
def make_config(tmp_path):
    """A tiny model on a text of short documents."""
    draw = random.Random(0)
    words = ['king', 'queen', 'rose', '$sword', 'night', 'and', 'the']
    paragraphs = [' '.join(draw.choices(words, k=3)) for _ in range(400)]
    (tmp_path / 'plays.txt').write_text('\n\n'.join(paragraphs))

    def make(**changes):
        options = {
            'data.corpus': 'text',
            'data.path': str(tmp_path / 'plays.txt'),
            'data.directory': str(tmp_path / 'cache'),
            'data.tokenizer': 'bytes',
            'data.length': 40,
            'model.num_layers': 1,
            'model.width': 16,
            'model.attention.num_heads': 2,
            'sharding.cpu_devices': 1,
            'runtime.compilation_cache': '',
        }
        return overlay(default_config(), options | {name.replace('__', '.'): value for name, value in changes.items()})

    return make


@pytest.fixture(name='printed')
def record_console(monkeypatch):
    console = Console(width=120, record=True, file=io.StringIO(), highlight=False, markup=False)
    monkeypatch.setattr(auditing, 'console', console)
    return console


def test_an_audit_draws_the_row_and_finds_the_light_cone_in_order(config, printed, tmp_path):
    config = config(objective__kind='masked', objective__switch='causal@500')
    verdicts = audit(config, 3, 20, str(tmp_path / 'out'))
    assert {kind: verdict.agrees for kind, verdict in verdicts.items()} == {'masked': True, 'causal': True}
    text = printed.export_text()
    for expected in (
        'masked: row 3 of text, the first 20 of 40 places',
        'causal: row 3 of text',
        '[hidden]{',
        '‖',
        'read as <|mask|>',
        'light cone on all 40 places: of 1,600 pairs',
        'the model sees what the objective shows it, and nothing else',
        str(tmp_path / 'out' / 'audit_masked.png'),
    ):
        assert expected in text, expected
    assert imread(tmp_path / 'out' / 'audit_causal.png').shape[2] == 4


def test_a_model_that_sees_too_much_fails_the_audit(config, printed, tmp_path, monkeypatch):
    monkeypatch.setattr(transformer_file, 'visible', lambda *orders: visible(*orders) | True)
    with pytest.raises(UserError, match='the light cone of causal is not that of the objective'):
        audit(config(), 0, 8, str(tmp_path))
    assert 'leak: the output at place 0, the token at 1' in printed.export_text()
    assert (tmp_path / 'audit.png').exists()


def test_a_row_that_is_not_there_is_refused(config, printed, tmp_path):
    with pytest.raises(UserError, match='--row=100000: the training split has the rows 0 to'):
        audit(config(), 100_000, 8, str(tmp_path))


def test_large_models_are_checked_on_a_part_of_the_row():
    small = resolve(overlay(default_config(), {'model.width': 48, 'model.num_layers': 2}))
    assert checked_places(small.model, 256) == 256
    assert checked_places(resolve(default_config()).model, 1024) < 1024
    large = {'model.width': 12288, 'model.num_layers': 96}
    assert checked_places(resolve(overlay(default_config(), large)).model, 1024) == 16


def test_a_part_of_a_row_has_visible_and_hidden_pairs():
    batch = random_batch(1, 64, documents=1)
    prefix = example_of('prefix', batch, data__length=64, objective__prefix=0.7)
    start = auditing.telling_start(prefix, 8)
    assert start < 0.7 * 64 < start + 8 or start >= 0.7 * 64
    assert auditing.telling_start(prefix, 64) == 0


def view_of(places, **changes):
    visible_LL = np.tri(places, dtype=bool)
    given = {
        'title': 'a row',
        'tokens': ['$x_1^', *'abcdefgh'][:places] + ['t'] * (places - 9),
        'targets': ['', *'bcdefgh'][:places] + ['t'] * (places - 8),
        'marks': [''] * places,
        'order': np.arange(places),
        'segment': np.ones(places, int),
        'visible': visible_LL,
    }
    return View(**(given | changes))


@pytest.mark.parametrize('places', [1, 2, 9, 80, 81, 300])
def test_a_row_of_any_length_has_a_picture(places):
    png = visibility_picture(view_of(places))
    pixels = imread(io.BytesIO(png))
    assert pixels.shape[0] > 300
    assert pixels[..., :3].min() < 0.5


def test_the_map_has_half_a_line_for_each_place_that_looks():
    lines = visibility_map(view_of(5), 50).plain.splitlines()
    assert lines == ['    0 █▄···', '    2 ███▄·', '    4 ▀▀▀▀▀']
    assert visibility_map(view_of(9), 4).plain.splitlines() == ['    0 █▄··', '    2 ███▄']


def test_the_text_shows_what_is_hidden_what_is_replaced_and_what_is_predicted():
    view = view_of(
        5,
        tokens=['a', '<|mask|>', 'z', 'd', 'e'],
        targets=['', 'b', 'c', '', ''],
        marks=['', 'hidden', 'random', '', ''],
        segment=np.array([1, 1, 1, 2, 0]),
    )
    assert visibility_text(view).plain == 'a[hidden]{b}~z~{c} ‖ d ‖ '


def test_a_view_of_an_example_says_which_tokens_are_not_the_rows_own(config):
    tokenizer = make_tokenizer('bytes')
    objective = make_objective(resolve(config(objective__kind='masked', objective__rate=0.5)))
    tokens_L = np.frombuffer(b'abcdefghijklmnopqrstuvwxyzabcdefghijklmno', np.uint8).astype(np.int32)
    batch = {'tokens': tokens_L[None], 'segment': np.ones((1, 41), np.int32), 'row': np.zeros(1, np.int32)}
    example = objective(batch | {'begins': np.ones((1, 41), bool)}, jax.random.key(0), 1.0)
    view = auditing.make_view('', objective, example, tokens_L[:-1], tokenizer, 0)
    inputs, hidden = np.asarray(example.inputs)[0], np.asarray(example.weights)[0] > 0
    for place in range(40):
        mask = inputs[place] == tokenizer.mask
        assert view.marks[place] == ('hidden' if mask else 'random' if inputs[place] != tokens_L[place] else '')
        assert bool(view.targets[place]) == hidden[place]
    assert view.marks.count('random') + view.marks.count('hidden') <= hidden.sum() == 20
    assert view.visible.all()
