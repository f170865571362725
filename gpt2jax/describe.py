"""`launch.py describe`: what a config would run, without data, devices or memory."""

import jax
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt2jax.config import flatten
from gpt2jax.data.rows import batch_shapes
from gpt2jax.files import describe_bytes
from gpt2jax.models import make_model
from gpt2jax.models.cost import count_parameters, parameters_by_module, row_flops
from gpt2jax.objectives import make_objective, phases
from gpt2jax.optimizers import check_groups, make_optimizer
from gpt2jax.training.state import make_init, rest_of
from gpt2jax.training.step import make_loss


def print_description(config, defaults, console: Console) -> None:
    """Prints the config, its parameters by module, and what a step costs. Nothing is allocated or compiled."""
    model, objective = make_model(config.model), make_objective(config)
    optimizer = make_optimizer(config)
    state = jax.eval_shape(make_init(model, optimizer, config.seed, config.training.batch_size))
    check_groups(config.optimizer.groups, state.params)
    console.print(config_table(config, defaults))
    console.print(parameter_table(state.params))
    console.print(cost_table(config, model, objective, state))


def config_table(config, defaults) -> Table:
    """Every key that is not at its default, beside the default."""
    table = Table(title='config (keys that differ from the defaults)', title_justify='left')
    for name in ('key', 'value', 'default'):
        table.add_column(name)
    default = flatten(defaults)
    for key, value in flatten(config).items():
        if value != default[key]:
            table.add_row(key, Text(repr(value)), Text(repr(default[key])))
    return table


def parameter_table(params) -> Table:
    """Path, shape and count of each parameter, with the total."""
    table = Table(title='parameters', title_justify='left', show_footer=True)
    table.add_column('module', 'total')
    table.add_column('shape')
    table.add_column('count', f'{count_parameters(params):,}', justify='right')
    for name, shape, count in parameters_by_module(params):
        table.add_row(name, Text(shape), f'{count:,}')
    return table


def cost_table(config, model, objective, state) -> Table:
    """FLOPs, bytes and tokens of a step and of the run, and the memory of the state and the activations."""
    length, batch, steps = config.data.length, config.training.batch_size, config.training.steps
    costs = phase_flops(config)
    whole, whole_half = (sum(cost[0] * cost[index] for cost in costs.values()) for index in (1, 2))
    tokens = batch * length
    parameters, optimizer, carry = (tree_bytes(tree) for tree in (state.params, state.opt_state, state.carry))
    activations = activation_bytes(config, model, objective, state.params)
    rows = [
        ('tokens a step', f'{tokens:,}', f'{batch} rows of {length}, in {config.training.accumulation} microbatch(es)'),
        ('tokens of the run', f'{tokens * steps:,}', f'{steps:,} steps'),
        *(
            (
                f'FLOPs a step{name}',
                f'{full:.4g}',
                f'matrix products, full attention map ({half:.4g} with the causal half)',
            )
            for name, (_, full, half) in costs.items()
        ),
        ('FLOPs of the run', f'{whole:.4g}', f'full attention map ({whole_half:.4g} with the causal half)'),
        (
            'bytes a step',
            describe_bytes((2 * config.training.accumulation + 4) * parameters + 2 * optimizer),
            'parameters read twice a microbatch and updated, gradients, optimizer state; without activations',
        ),
        ('parameters', describe_bytes(parameters), 'float32'),
        ('gradients', describe_bytes(parameters), 'float32'),
        ('optimizer state', describe_bytes(optimizer), config.optimizer.kind),
        *([('memory of rows before', describe_bytes(carry), 'carried from step to step')] if carry else []),
        ('activations', describe_bytes(activations), 'kept for the backward pass of a microbatch'),
        (
            'memory, all devices',
            describe_bytes(2 * parameters + optimizer + carry + activations),
            'an estimate: their sum',
        ),
        (
            'checkpoint',
            describe_bytes(parameters + tree_bytes(rest_of(state))),
            f'{config.checkpoint.keep} newest and the best are kept',
        ),
    ]
    table = Table(title='cost', title_justify='left', show_header=False)
    table.add_column('what')
    table.add_column('value', justify='right')
    table.add_column('meaning', style='dim')
    for row in rows:
        table.add_row(*row)
    return table


def phase_flops(config) -> dict[str, tuple[int, float, float]]:
    """Steps of each phase of the run, and the FLOPs of one: with the full attention map, with its causal half.

    A run without a switch has one phase, named ''; others are named as in ', masked from step 1000'.
    """
    length, found = config.data.length, phases(config)
    ends = [*(first for first, _ in found[1:]), config.training.steps]
    costs = {}
    for (first, kind), end in zip(found, ends, strict=True):
        row = row_flops(config.model, length, make_objective(config, kind).num_predictions(length))
        full, half = (config.training.batch_size * row.training(name) for name in ('full map', 'causal half'))
        costs[f', {kind} from step {first}' if len(found) > 1 else ''] = end - first, full, half
    return costs


def activation_bytes(config, model, objective, params) -> int:
    """What the forward pass of one microbatch keeps for the backward pass: the residuals that JAX would save."""
    rows, length = config.training.batch_size // config.training.accumulation, config.data.length
    batch = {name: jax.ShapeDtypeStruct(*shape) for name, shape in batch_shapes(rows, length).items()}

    def residuals(params, batch):
        loss = make_loss(model, objective, config.loss)
        memory = model.init_memory(rows)
        return jax.vjp(lambda params: loss(params, batch, memory, jax.random.key(0), 1.0)[0], params)[1]

    saved = jax.eval_shape(residuals, params, batch)
    return max(0, tree_bytes(saved) - tree_bytes(params))


def tree_bytes(tree) -> int:
    """Bytes of a tree of arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
