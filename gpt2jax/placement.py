"""Where a model runs: all that it is told of devices. By default it is told that it runs on one, and nothing is done.

On a mesh (gpt2jax.sharding) a step runs on every device's own part: its rows (axes `data` and `fsdp`) and, of these,
its part of the length (`context`). What a device needs of others is fetched by hand, where it is used: weights over
`fsdp`, keys and values over `context`. So nothing is left to the compiler but `tensor`, whose cuts follow from those of
the weights.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax import Array
from jax.sharding import Mesh, PartitionSpec

ROW_AXES = ('data', 'fsdp')
OWN_AXES = ('data', 'fsdp', 'context')  # every device works on its own part, in a shard_map
HEADS = 'tensor'  # the axis that heads, feed-forward and vocabulary are cut over
WHOLE = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Placement:
    """Of a model on a mesh; without one, on one device.

    Attributes:
      mesh: the devices, which need not be here (`launch.py plan` compiles for others).
      cuts: (path of a parameter, the axis that each of its dimensions is cut over), of those that are cut over `fsdp`.
    """

    mesh: Mesh | None = None
    cuts: tuple[tuple[str, tuple], ...] = ()

    @property
    def platform(self) -> str:
        """'cpu', 'gpu' or 'tpu': what the program is compiled for, which is not always what this machine has."""
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform

    def parts(self, axis: str) -> int:
        """Devices along an axis of the mesh."""
        return 1 if self.mesh is None else self.mesh.shape[axis]

    def whole(self, params, path: str = '', dtype: str = 'float32'):
        """Parameters with those that are cut over `fsdp` gathered.

        They travel in the dtype of the products that they are used in, and come out as they went in, so that sums over
        tokens stay in float32. Their gradients are summed in float32, and each device keeps its part.

        Args:
          path: of the tree in the model's.
        """
        if self.parts('fsdp') == 1:
            return params
        cuts = dict(self.cuts)

        def gather(place, leaf: Array) -> Array:
            cut = cuts.get(path + jax.tree_util.keystr(place, simple=True, separator='/'))
            if cut is None:
                return leaf
            gather = functools.partial(_gather, cut.index('fsdp'), dtype)
            return self._apart(gather, PartitionSpec(*(axis if axis == HEADS else None for axis in cut)))(leaf)

        return jax.tree_util.tree_map_with_path(gather, params)

    def rows(self, x: Array) -> Array:
        """Activations [B, ...] between two blocks: cut by rows and length, and whole on every device along `tensor`."""
        return x if self.parts(HEADS) == 1 else jax.lax.with_sharding_constraint(x, WHOLE)

    def own_length(self, x: Array, axis: int = 1) -> Array:
        """Of an array over whole rows the part of the length that this device works on."""
        parts = self.parts('context')
        if parts == 1:
            return x
        size = x.shape[axis] // parts
        return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index('context') * size, size, axis)

    def whole_length(self, x: Array, axis: int = 1, heads: PartitionSpec = WHOLE) -> Array:
        """The same array over whole rows, of every device's part of the length.

        Args:
          heads: where HEADS stands in x.
        """
        if self.parts('context') == 1:
            return x
        return self._apart(lambda x: jax.lax.all_gather(x, 'context', axis=axis, tiled=True), heads)(x)

    def start(self, length: int) -> Array | None:
        """Index in the row of this device's first token, of `length`; None where it has whole rows."""
        return None if self.parts('context') == 1 else jax.lax.axis_index('context') * length

    def over_heads(self, kernel: Callable, in_specs, out_spec: PartitionSpec) -> Callable:
        """A kernel that the compiler cannot cut, run on every device's own heads.

        Args:
          in_specs, out_spec: where HEADS stands in the arrays that go in and in the one that comes out.
        """
        if self.parts(HEADS) == 1:
            return kernel
        return jax.shard_map(kernel, in_specs=in_specs, out_specs=out_spec, axis_names={HEADS}, check_vma=False)

    def _apart(self, function: Callable, spec: PartitionSpec) -> Callable:
        """`function` of each cut along HEADS; the compiler would join these before it gathers along another axis."""
        return self.over_heads(function, (spec,), spec) if HEADS in spec else function


ALONE = Placement()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(axis: int, dtype: str, part: Array) -> Array:
    return jax.lax.all_gather(part.astype(dtype), 'fsdp', axis=axis, tiled=True).astype(part.dtype)


def _gather_forward(axis: int, dtype: str, part: Array):
    return _gather(axis, dtype, part), None


def _gather_backward(axis: int, dtype: str, _, gradient: Array):
    return (jax.lax.psum_scatter(gradient, 'fsdp', scatter_dimension=axis, tiled=True),)


_gather.defvjp(_gather_forward, _gather_backward)
