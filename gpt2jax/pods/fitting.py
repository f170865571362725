"""Whether a config fits the devices it is to be launched on: asked here, before anything is rented."""

import math

from gpt2jax.errors import UserError
from gpt2jax.pods.machines import Machine
from gpt2jax.sharding import AXES


def check_fits(config, machine: Machine, slices: int) -> dict[str, int]:
    """The sizes of the mesh of a resolved config.

    Raises:
      UserError: as `gpt2jax.sharding.make_mesh` would on the hosts, or a copy of the model that spans slices.
    """
    count = machine.devices * slices
    where = f'{count} devices ({slices} x {machine.name})' if slices > 1 else f'{count} devices ({machine.name})'
    sizes = {axis: config.sharding[axis] for axis in AXES}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    sizes = {axis: max(count // fixed, 1) if size == -1 else size for axis, size in sizes.items()}
    asked = ' x '.join(f'{axis} {config.sharding[axis]}' for axis in AXES)
    if math.prod(sizes.values()) != count:
        raise UserError(
            f'config.sharding ({asked}) does not fit {where}: the product has to be {count}; -1 takes what is left, as '
            f'--config.sharding.data=-1 --config.sharding.fsdp={math.gcd(fixed, machine.devices)}'
        )
    if sizes['data'] % slices:
        raise UserError(
            f'config.sharding ({asked}) spreads a copy of the model over the slow network between {slices} slices: '
            f'config.sharding.data has to be a multiple of {slices}'
        )
    parts = sizes['data'] * sizes['fsdp']
    microbatch = config.training.batch_size // config.training.accumulation
    if microbatch % parts:
        raise UserError(
            f'a microbatch of {microbatch} rows (config.training.batch_size = {config.training.batch_size} / '
            f'accumulation = {config.training.accumulation}) cannot be divided over {parts} parts (data x fsdp) of '
            f'{where}; try --config.training.accumulation={fitting_accumulation(config, parts)}'
        )
    if config.evaluation.batch_size % parts:
        raise UserError(
            f'config.evaluation.batch_size = {config.evaluation.batch_size} cannot be divided over {parts} parts '
            f'(data x fsdp) of {where}: make it a multiple, or 0 for a microbatch of training'
        )
    return sizes


def fitting_accumulation(config, parts: int) -> str:
    """The largest number of microbatches that still divide over the parts, or advice where none does."""
    rows = config.training.batch_size
    if rows % parts:
        return f'1 --config.training.batch_size={math.ceil(rows / parts) * parts}'
    return str(max(n for n in range(1, rows // parts + 1) if rows % (n * parts) == 0))
