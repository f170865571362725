"""Run by test_sharding in its own process, on 8 forced CPU devices: writes what every mesh trained to standard output.

One JSON object: {name of the run: {'losses': [...], 'difference': largest difference of final parameters, and of
those to evaluate, from the run on one device, 'spread': largest movement of a parameter, 'whole': the large matrices
that were not cut, 'gathered': sizes of the arrays that the step gathers}}. Runs of other optimizers and objectives are
named 'KIND: MESH' and compared among themselves.
"""

import json
import math
import re
import sys

import jax
from helpers import largest_difference, one_device_setup, random_batch, tiny_config

from gpt2jax.optimizers import evaluation_params
from gpt2jax.sharding import place_batch
from gpt2jax.training.setup import Setup

STEPS = 5
RUNS = {
    'one device': {},
    'data 8': {'sharding__data': 8},
    'fsdp 8': {'sharding__fsdp': 8},
    'data 2 x fsdp 4, accumulation 2': {'sharding__data': 2, 'sharding__fsdp': 4, 'training__accumulation': 2},
    'data 2 x tensor 4': {'sharding__tensor': 4},
    'fsdp 2 x tensor 4, accumulation 2': {'sharding__fsdp': 2, 'sharding__tensor': 4, 'training__accumulation': 2},
}
# Those that look beyond single numbers: at whole matrices, at rows and columns. Adafactor has no epsilon (see below).
OPTIMIZERS = {
    'muon': {'optimizer__kind': 'muon', 'optimizer__average': 0.5},
    'adafactor': {'optimizer__kind': 'adafactor', 'model__attention__bias': False},
}
for kind, changes in OPTIMIZERS.items():
    RUNS[f'{kind}: one device'] = changes | {'model__num_layers': 1}
    RUNS[f'{kind}: data 2 x fsdp 4'] = RUNS[f'{kind}: one device'] | {'sharding__data': 2, 'sharding__fsdp': 4}
# An objective that draws: which rows are causal, which tokens hidden. The rate moves from step to step.
HYBRID = {'objective__kind': 'hybrid', 'objective__rate': 0.2, 'objective__start_rate': 0.8, 'model__num_layers': 1}
RUNS['hybrid: one device'] = HYBRID
RUNS['hybrid: data 8'] = HYBRID | {'sharding__data': 8, 'training__accumulation': 2}


def run_config(**changes):
    """Dropout on, and a learning rate at which five steps really move the parameters.

    The gradient of the key bias is zero but for rounding, as softmax does not see a shift of all scores; Adam would
    blow that rounding up, so its epsilon is large.
    """
    options = {
        'training__batch_size': 16,
        'model__num_layers': 2,
        'model__vocab_multiple': 8,
        'model__dropout': 0.1,
        'model__attention__dropout': 0.1,
        'loss__chunk_tokens': 64,
        'optimizer__learning_rate': 3e-3,
        'optimizer__epsilon': 1e-5,
    }
    return tiny_config(**(options | changes))


def train(setup: Setup):
    """Losses, initial and final parameters on the host, the final state on its devices, and the compiled step."""
    step = setup.train_step().lower(setup.abstract, setup.abstract_batch(16)).compile()
    state, losses = setup.initial_state(), []
    start = jax.device_get(read(state))
    for index in range(STEPS):
        state, metrics = step(state, place_batch(random_batch(16, 16, seed=index), setup.mesh))
        losses.append(float(metrics['loss']))
    return losses, start, jax.device_get(read(state)), state, step


def read(state):
    """The parameters that are trained and those that are evaluated."""
    return state.params, evaluation_params(state.opt_state, state.params)


def whole_matrices(state) -> list[str]:
    """Large arrays of parameters and optimizer of which a device holds all."""
    leaves = jax.tree_util.tree_flatten_with_path((state.params, state.opt_state))[0]
    return [
        jax.tree_util.keystr(path, simple=True, separator='/')
        for path, leaf in leaves
        if leaf.size >= 512 and leaf.addressable_shards[0].data.size == leaf.size
    ]


def gathered(step) -> list[int]:
    """Sizes of the arrays that a compiled step gathers from all devices."""
    shapes = re.findall(r'= \(?\w+\[([\d,]*)\][^=]*? all-gather(?:-start)?\(', step.as_text())
    return [math.prod(map(int, shape.split(','))) for shape in shapes]


def main() -> None:
    """Trains every run and prints the comparison."""
    assert jax.device_count() == 8
    results, reference = {}, None
    for name, changes in RUNS.items():
        config = run_config(**changes)
        alone = 'one device' in name
        setup = one_device_setup(config) if alone else Setup.from_config(config)
        losses, start, final, state, step = train(setup)
        reference = final if alone else reference
        results[name] = {
            'losses': losses,
            'difference': largest_difference(final, reference),
            'spread': largest_difference(final, start),
            'whole': whole_matrices(state),
            'gathered': gathered(step),
            'devices': len(state.params['embedding']['token'].sharding.device_set),
        }
    json.dump(results, sys.stdout)


if __name__ == '__main__':
    main()
