"""Rows of a batch on the devices that work on them: each process reads its own rows, and no others."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gpt2jax.sharding import ROWS


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """The rows of a global batch, in order, that the devices of this process work on.

    Where an axis beside rows (`tensor`, `context`) reaches over processes, these share rows, and each reads them.
    """
    return np.concatenate([np.arange(batch_size)[rows] for rows in _parts(batch_size, mesh)])


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of the global batch (`local_rows`) -> global arrays, cut by rows over all devices."""
    sharding, parts = NamedSharding(mesh, ROWS), mesh.shape['data'] * mesh.shape['fsdp']
    size = parts // len(_parts(parts, mesh))

    def place(array: np.ndarray) -> jax.Array:
        shape = (len(array) * size, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, array, shape)

    return {name: place(array) for name, array in batch.items()}


def _parts(batch_size: int, mesh: Mesh) -> list[slice]:
    """The different cuts of the rows that lie on devices of this process, in order."""
    places = NamedSharding(mesh, ROWS).addressable_devices_indices_map((batch_size,)).values()
    return [slice(*bounds) for bounds in sorted({rows.indices(batch_size)[:2] for (rows,) in places})]
