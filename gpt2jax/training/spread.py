"""A step on every device of a mesh: what each of them gets, and how their sums come together."""

from collections.abc import Callable

import jax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from gpt2jax.placement import HEADS, OWN_AXES, ROW_AXES, Placement


def on_every_device(function: Callable, placement: Placement, sums: bool) -> Callable:
    """Runs `function(params, batch, carry, *rest)` on every device's own rows and parts of the parameters.

    Along `tensor` the compiler makes the cuts, following those of the parameters.

    Args:
      sums: the function returns ((a tree like the parameters, sums that are the same everywhere), carry), the former as
        `sum_over_devices` does; else (arrays [B, P] of its rows and its part of their length, carry). What is carried
        is arrays [B, ...] or None.
    """
    mesh = placement.mesh
    if mesh is None or mesh.size == 1:
        return function

    def spread(params, batch, carry, *rest):
        cut, rows = parameter_specs(placement, params), PartitionSpec(ROW_AXES)
        in_specs = cut, rows, rows, *(PartitionSpec() for _ in rest)
        out_specs = (cut, PartitionSpec()) if sums else PartitionSpec(ROW_AXES, 'context'), rows
        axes = set(mesh.axis_names if mesh.shape[HEADS] == 1 else OWN_AXES)
        options = {'mesh': mesh, 'in_specs': in_specs, 'out_specs': out_specs}
        return jax.shard_map(function, axis_names=axes, check_vma=False, **options)(params, batch, carry, *rest)

    return spread


def parameter_specs(placement: Placement, params):
    """How each parameter is cut over `fsdp`, the only one of OWN_AXES that parameters are cut over."""
    cuts = dict(placement.cuts)

    def spec(path, leaf):
        cut = cuts.get(jax.tree_util.keystr(path, simple=True, separator='/'))
        return PartitionSpec(*(axis if axis == 'fsdp' else None for axis in cut or ()))

    return jax.tree_util.tree_map_with_path(spec, params)


def sum_over_devices(placement: Placement, gradients, sums):
    """Every device's gradients and sums -> those of the whole batch.

    Gradients of parameters that are cut are already summed over `fsdp`. On CPU all that is left is summed as one
    vector: its collectives cost by their number. Elsewhere parameter by parameter, so that the compiler may join and
    overlap them as it likes, without a copy of all.
    """
    mesh = placement.mesh
    if mesh is None or mesh.size == 1:
        return gradients, sums
    if placement.platform == 'cpu' and mesh.shape['fsdp'] == mesh.shape[HEADS] == 1:
        vector, unravel = ravel_pytree((gradients, sums))
        return unravel(jax.lax.psum(vector, OWN_AXES))

    def total(leaf, spec: PartitionSpec):
        return jax.lax.psum(leaf, ('data', 'context') if 'fsdp' in spec else OWN_AXES)

    return jax.tree.map(total, gradients, parameter_specs(placement, gradients)), jax.lax.psum(sums, OWN_AXES)
