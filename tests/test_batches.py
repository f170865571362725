"""Rows of a batch on the devices that work on them."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from gpt2jax import batches
from gpt2jax.batches import local_rows, place_batch
from gpt2jax.sharding import AXES


class Parts:
    """Stands in for a sharding whose devices are spread over processes: which rows lie on this one's."""

    def __init__(self, cuts):
        self._cuts = cuts

    def addressable_devices_indices_map(self, shape):
        return dict(enumerate((slice(*cut),) for cut in self._cuts))


@pytest.mark.parametrize(
    ('cuts', 'rows'),
    [
        ([(0, 4), (4, 8)], [0, 1, 2, 3, 4, 5, 6, 7]),
        ([(0, 4), (0, 4)], [0, 1, 2, 3]),  # two devices that share the work on the same rows
        ([(12, 14), (4, 6)], [4, 5, 12, 13]),
        ([(None, None)], list(range(16))),
    ],
)
def test_a_process_reads_the_rows_of_its_devices_each_once(monkeypatch, cuts, rows):
    monkeypatch.setattr(batches, 'NamedSharding', lambda mesh, spec: Parts(cuts))
    assert local_rows(16, None).tolist() == rows


def test_one_process_reads_and_places_everything():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape((1,) * len(AXES)), AXES)
    assert local_rows(6, mesh).tolist() == [0, 1, 2, 3, 4, 5]
    placed = place_batch({'tokens': np.arange(12).reshape(6, 2)}, mesh)
    assert placed['tokens'].tolist() == np.arange(12).reshape(6, 2).tolist()
