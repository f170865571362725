"""What all processes decide together between two steps: to save, to stop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Votes:
    """Whether any process wants to stop, or to save: the same answer in all of them, after the same step.

    A signal reaches one process at one moment, and clocks differ; but all must save the same step. So every process
    casts its vote beside each step, on the devices, and all read the sum one step later, as they do with the metrics.
    One process alone has its answer at once.
    """

    def __init__(self, mesh: Mesh):
        self._alone = jax.process_count() == 1
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        whole = NamedSharding(mesh, PartitionSpec())
        self._any = jax.jit(functools.partial(jnp.max, axis=0), out_shardings=whole)
        self._cast: jax.Array | None = None

    def cast(self, **wishes: bool) -> dict[str, bool]:
        """Casts this process's vote; returns, for each wish, whether any process had it.

        With several processes the answer is that of the votes cast the time before: False at the first time.
        """
        if self._alone:
            return {name: bool(wish) for name, wish in wishes.items()}
        devices = len(self._sharding.addressable_devices)
        votes = np.tile(np.array(list(wishes.values()), np.int32), (devices, 1))
        count = self._sharding.mesh.size
        placed = jax.make_array_from_process_local_data(self._sharding, votes, (count, len(wishes)))
        before, self._cast = self._cast, self._any(placed)
        if before is None:
            return dict.fromkeys(wishes, False)
        return dict(zip(wishes, np.asarray(before).astype(bool).tolist(), strict=True))
