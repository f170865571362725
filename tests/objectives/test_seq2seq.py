"""seq2seq: all targets are predicted, from all of their own source and what precedes in the target."""

import jax
import numpy as np
from helpers import tiny_config

from gpt2jax.data import Tokens, make_tokenizer
from gpt2jax.data.whole_rows import WholeRows
from gpt2jax.models import make_model
from gpt2jax.objectives import make_objective

BYTES = make_tokenizer('bytes')
END, SEP = BYTES.end_of_text, BYTES.sep
LENGTH = 24
PAIRS = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9]), ([10, 11], [12])]


def batch_of(documents, length=LENGTH):
    parts, offsets = [], [0]
    for ids in documents:
        parts += [END, *ids]
        offsets.append(len(parts))
    tokens = Tokens(np.array([*parts, END], np.uint16), np.array(offsets, np.int64), 0)
    rows = WholeRows(tokens, length, False, BYTES)
    return rows.batch(np.arange(len(rows)))


def objective_of(length=LENGTH):
    return make_objective(tiny_config(data__length=length, objective__kind='seq2seq'))


def make(batch, length=LENGTH):
    return jax.jit(objective_of(length))(batch, jax.random.key(0), 1.0)


def joined(pairs):
    return [[*source, SEP, *target] for source, target in pairs]


def test_every_token_of_a_target_and_its_end_is_predicted_and_nothing_else():
    example = make(batch_of(joined(PAIRS)))
    predicted = np.asarray(example.targets)[np.asarray(example.weights) > 0].tolist()
    assert predicted == [token for _, target in PAIRS for token in [*target, END]]
    assert set(np.unique(example.weights)) == {0.0, 1.0}


def test_the_source_and_its_sep_are_seen_in_both_directions_and_the_target_from_the_left():
    example = make(batch_of(joined(PAIRS)))
    order = np.asarray(example.order)[0]
    assert order[:7].tolist() == [0, 0, 0, 0, 0, 1, 2]  # END 1 2 3 SEP 4 5
    assert order[7:13].tolist() == [0, 0, 0, 1, 2, 3]  # END 6 SEP 7 8 9
    assert example.visibility == 'prefix'


def test_a_second_sep_belongs_to_the_target():
    example = make(batch_of([[1, SEP, 2, SEP, 3]]))
    assert np.asarray(example.targets)[np.asarray(example.weights) > 0].tolist() == [2, SEP, 3, END]


def test_a_document_without_sep_predicts_nothing_and_leaves_the_others_alone():
    alone, beside = make(batch_of(joined(PAIRS[:1]))), make(batch_of([*joined(PAIRS[:1]), [20, 21, 22]]))
    assert beside.weights.sum() == alone.weights.sum() == 3
    assert (np.asarray(beside.order)[0, 7:] == 0).all()


def test_the_bound_on_predictions_holds_when_a_row_is_packed_for_it():
    """A row of pairs whose targets are long: packed by the bound, the loss would gather all of them."""
    objective = objective_of(20)
    documents = joined([([1], [2, 3, 4, 5, 6])] * 30)
    parts = [token for ids in documents for token in (END, *ids)]
    offsets = np.arange(31) * 8
    tokens = Tokens(np.array([*parts, END], np.uint16), offsets, 0)
    rows = WholeRows(tokens, 20, False, BYTES, answers=objective.num_predictions(20))
    example = make(rows.batch(np.arange(len(rows))), 20)
    assert example.answers == objective.num_predictions(20) == 10
    assert example.weights.sum(1).max() <= 10
    assert float(example.weights.sum()) == 6 * 30


def test_a_target_reads_its_own_source_and_no_other():
    """By gradient: what a prediction depends on."""
    config = tiny_config(data__length=LENGTH, objective__kind='seq2seq', model__num_layers=2)
    model, example = make_model(config.model), make(batch_of(joined(PAIRS[:2])))
    params = model.init(jax.random.key(0))

    def hidden_at_second_target(table):
        swapped = {**params, 'embedding': {**params['embedding'], 'token': table}}
        return model.apply(swapped, example)[0][0, 10].sum()

    reads = np.abs(np.asarray(jax.grad(hidden_at_second_target)(params['embedding']['token']))).sum(1) > 0
    assert np.flatnonzero(reads).tolist() == sorted([6, 7, END, SEP])
