"""The suite `cost`: figures that follow from the config, and speeds that are measured."""

import dataclasses
import json
import math

import pytest
from measuring import LENGTH, make_subject, no_bar

from gpt2jax.errors import UserError
from gpt2jax.evaluation.costs import cost
from gpt2jax.training.metrics import FILE_NAME

WIDTH, VOCABULARY = 16, 260


def test_parameters_flops_and_bytes_are_those_of_the_config():
    figures = cost(make_subject(), 'tokens=8', no_bar).figures
    layer = 4 * (WIDTH**2 + WIDTH) + 8 * WIDTH**2 + 5 * WIDTH + 4 * WIDTH
    assert figures['parameters_without_embeddings'] == layer + 2 * WIDTH
    assert figures['parameters'] == layer + 2 * WIDTH + (VOCABULARY + LENGTH) * WIDTH
    forward = 2 * 12 * WIDTH**2 + 4 * WIDTH * LENGTH + 2 * VOCABULARY * WIDTH
    assert math.isclose(figures['flops_per_token'], 3 * forward)
    assert (figures['state_bytes'], figures['state_bytes_per_token']) == (8 * 2 * WIDTH * 4, 2 * WIDTH * 4)


def test_the_other_speed_is_the_median_of_what_training_wrote(tmp_path):
    lines = [{'kind': 'train', 'step': step, 'tokens_per_second': rate} for step, rate in ((1, 1), (2, 30), (3, 50))]
    (tmp_path / FILE_NAME).write_text(''.join(json.dumps(line) + '\n' for line in lines))
    figures = cost(dataclasses.replace(make_subject(), workdir=tmp_path), 'tokens=2', no_bar).figures
    assert figures['trained_per_second'] == 40
    assert 'trained_per_second' not in cost(make_subject(), 'tokens=2', no_bar).figures


@pytest.mark.parametrize(
    ('kind', 'method'), [('causal', 'causal'), ('masked', 'infilling'), ('span_corruption', 'answer')]
)
def test_texts_are_drawn_as_the_objective_draws_them(kind, method):
    result = cost(make_subject(kind), 'tokens=4,texts=2', no_bar)
    assert result.figures['generated_per_second'] > 0
    assert result.about['method'] == method
    assert f'by {method}, 2 at once, each of 4' in result.lines[3]


def test_an_unknown_option_is_refused():
    with pytest.raises(UserError, match="no option 'beams'"):
        cost(make_subject(), 'beams=3', no_bar)
