"""Which configs a search tries, and which of them it keeps."""

import pytest
from helpers import tiny_config

from gpt2jax.config import overlay
from gpt2jax.planning.searching import as_flags, candidates, front, guessed_bytes, meshes
from gpt2jax.planning.topologies import read_topology
from gpt2jax.validation import resolve


def results(*pairs):
    """(seconds, bytes) -> results of a search."""
    return [{'seconds': seconds, 'bytes': size} for seconds, size in pairs]


@pytest.mark.parametrize(
    ('pairs', 'kept'),
    [
        ([(1.0, 10), (2.0, 5), (3.0, 7)], [0, 1]),
        ([(2.0, 5), (1.0, 10)], [1, 0]),
        ([(1.0, 10), (1.0, 8), (None, None)], [1]),
        ([(1.0, 10), (2.0, 10)], [0]),
        ([(None, None)], []),
        ([], []),
    ],
)
def test_the_front_holds_what_nothing_else_beats_in_both(pairs, kept):
    assert front(results(*pairs)) == kept


@pytest.mark.parametrize('name', ['v5e:2x4', 'cpu:8', 'h100:8'])
def test_candidates_are_few_different_legal_and_begin_with_the_config_itself(name):
    config, place = tiny_config(training__batch_size=32, evaluation__batch_size=32), read_topology(name)
    found = candidates(config, place, 12)
    assert len(found) == 12
    assert found[0] == {}
    assert len({as_flags(changes) for changes in found}) == 12
    for changes in found:
        resolve(overlay(config, changes))


def test_a_search_covers_meshes_remat_scan_and_accumulation():
    config = tiny_config(training__batch_size=32)
    found = candidates(config, read_topology('cpu:8'), 500)
    for key in ('sharding.fsdp', 'sharding.tensor', 'model.remat', 'model.scan_layers', 'training.accumulation'):
        assert any(key in changes for changes in found), key
    assert any('model.attention.kernel' in changes for changes in found)


def test_what_cannot_fit_comes_after_what_may():
    config = tiny_config(
        model__width=1536, model__num_layers=48, model__attention__num_heads=24, data__length=1024,
        training__batch_size=64, data__tokenizer='gpt2',
    )  # fmt: skip
    place = read_topology('v5e:2x4')
    first = candidates(config, place, 4)[1]
    assert first['sharding.fsdp'] == 8  # copies of it do not fit
    own = {'sharding.fsdp': 1, 'sharding.tensor': 1, 'model.remat': 'none', 'training.accumulation': 1}
    own |= {'loss.chunk_tokens': 4096}
    assert guessed_bytes(config, own, place) > place.chip.memory
    assert guessed_bytes(config, own | first, place) < place.chip.memory


def test_what_the_devices_cannot_take_is_left_out():
    config = tiny_config(training__batch_size=32, evaluation__batch_size=4)
    found = candidates(config, read_topology('cpu:8'), 500)[1:]
    assert found
    assert {changes.get('sharding.tensor') for changes in found} == {2, 4}  # others need 8 rows of an evaluation


def test_meshes_use_all_devices_and_cut_heads_evenly():
    found = meshes(tiny_config(), read_topology('v5e:16x16'))
    assert {'sharding.data': -1, 'sharding.fsdp': 256, 'sharding.tensor': 1} in found
    assert {'sharding.data': -1, 'sharding.fsdp': 16, 'sharding.tensor': 1} in found
    odd = tiny_config(model__attention__num_heads=1)
    assert all(mesh['sharding.tensor'] == 1 for mesh in meshes(odd, read_topology('v5e:16x16')))


def test_changes_are_flags_to_paste():
    changes = {'model.remat': 'full', 'model.scan_layers': True, 'sharding.fsdp': 8}
    assert as_flags(changes) == '--config.model.remat=full --config.model.scan_layers=True --config.sharding.fsdp=8'
