"""Whether a config fits the devices it is to be launched on: asked here, before anything is rented."""

from gpt2jax.errors import UserError
from gpt2jax.pods.machines import Machine
from gpt2jax.sharding import AXES, mesh_shape


def check_fits(config, machine: Machine, slices: int) -> dict[str, int]:
    """The sizes of the mesh of a resolved config. Raises UserError as the hosts would, with the name of the machine."""
    try:
        return dict(zip(AXES, mesh_shape(config, machine.devices * slices, slices), strict=True))
    except UserError as error:
        where = f'{slices} x {machine.name}' if slices > 1 else machine.name
        raise UserError(f'{where}: {error}') from error
