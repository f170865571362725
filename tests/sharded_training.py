"""Run by test_sharding in its own process, on 8 forced CPU devices: writes what every mesh trained to standard output.

    python sharded_training.py [all]

One JSON object: {name of the run: {'losses': [...], 'difference': largest difference of final parameters, and of
those to evaluate, from the run on one device, 'evaluated': difference of what is measured, 'spread': largest movement
of a parameter, 'whole': the large matrices that were not cut, 'collectives': [kind, dtype, size, where from] of the
step}}. Runs are named 'KIND: MESH', and compared with 'KIND: one device'. The default is a choice in which each axis
meets each objective and each way to compute; 'all' is every mesh with every objective.
"""

import functools
import itertools
import json
import math
import re
import sys

import jax
import numpy as np
from helpers import XLNET, largest_difference, one_device_setup, random_batch, tiny_config

from gpt2jax.batches import place_batch
from gpt2jax.optimizers import evaluation_params
from gpt2jax.training.setup import Setup

STEPS = 5
SCAN = {'model__scan_layers': True, 'model__remat': 'full'}
DOTS = {'model__remat': 'dots'}
CUT = {'training__accumulation': 2}
RING = {'model__attention__kernel': 'ring'}


def mesh(data=1, fsdp=1, context=1, tensor=1):
    """The options of a mesh."""
    sizes = {'data': data, 'fsdp': fsdp, 'context': context, 'tensor': tensor}
    return {f'sharding__{axis}': size for axis, size in sizes.items()}


# (what is trained, {mesh: how}). The optimizers are those that look beyond single numbers: at whole matrices, at rows
# and columns. Adafactor has no epsilon (see below).
KINDS = {
    'causal': (
        {},
        {
            'data 8': mesh(data=8),
            'fsdp 8': mesh(fsdp=8),
            'data 2 x fsdp 4, accumulation 2': mesh(data=2, fsdp=4) | CUT,
            'data 2 x tensor 4': mesh(data=2, tensor=4),
            'fsdp 2 x tensor 4, accumulation 2': mesh(fsdp=2, tensor=4) | CUT,
            'data 2 x context 4': mesh(data=2, context=4),
            'fsdp 2 x context 2 x tensor 2, scan': mesh(fsdp=2, context=2, tensor=2) | SCAN,
        },
    ),
    'muon': (
        {'optimizer__kind': 'muon', 'optimizer__average': 0.5, 'model__num_layers': 1},
        {'data 2 x fsdp 4': mesh(data=2, fsdp=4)},
    ),
    'adafactor': (
        {'optimizer__kind': 'adafactor', 'model__attention__bias': False, 'model__num_layers': 1},
        {'data 2 x fsdp 4': mesh(data=2, fsdp=4)},
    ),
    # Objectives that draw: which rows are causal, which tokens hidden. The rate moves from step to step.
    'hybrid': (
        {'objective__kind': 'hybrid', 'objective__rate': 0.2, 'objective__start_rate': 0.8, 'model__num_layers': 1},
        {'data 8': mesh(data=8) | CUT, 'context 4 x tensor 2, dots': mesh(context=4, tensor=2) | DOTS},
    ),
    'masked': (
        {'objective__kind': 'masked', 'objective__rate': 0.3, 'model__position__kind': 'alibi', 'model__num_layers': 1},
        {'fsdp 4 x context 2, accumulation 2': mesh(fsdp=4, context=2) | CUT},
    ),
    'prefix': (
        {'objective__kind': 'prefix', 'model__attention__num_kv_heads': 2, 'model__attention__value_residual': True},
        {'data 2 x context 2 x tensor 2, scan': mesh(data=2, context=2, tensor=2) | SCAN},
    ),
    'span_corruption': (
        {'objective__kind': 'span_corruption', 'objective__mean_span': 2.0, 'model__num_layers': 1},
        {'fsdp 4 x tensor 2, dots': mesh(fsdp=4, tensor=2) | DOTS},
    ),
    'ring': (
        {'model__attention__dropout': 0.0, 'model__position__kind': 't5', 'model__num_layers': 1},
        {'data 2 x context 4': mesh(data=2, context=4) | RING},
    ),
    'ring, window': (
        {
            'model__attention__dropout': 0.0,
            'model__attention__num_kv_heads': 2,
            'model__attention__softcap': 5.0,
            'model__attention__window': 4,
            'model__attention__global_every': 2,
        },
        {'context 4 x tensor 2, scan': mesh(context=4, tensor=2) | SCAN | RING},
    ),
    'ring, masked': (
        {'model__attention__dropout': 0.0, 'objective__kind': 'masked', 'model__num_layers': 1},
        {'fsdp 4 x context 2': mesh(fsdp=4, context=2) | RING},
    ),
    # Blocks of 128, interpreted on CPU.
    'splash': (
        {
            'model__attention__dropout': 0.0,
            'model__attention__window': 200,
            'model__attention__global_every': 2,
            'data__length': 256,
            'training__batch_size': 4,
        },
        {'data 2 x context 2 x tensor 2, scan': mesh(2, 1, 2, 2) | SCAN | {'model__attention__kernel': 'splash'}},
    ),
}

# What is trained of the rest of the family: with memories of the rows before; with two streams and a drawn order.
FAMILY = {
    'lstm': {
        'model__architecture': 'lstm',
        'data__order': 'contiguous',
        'model__recurrent__weight_drop': 0.2,
        'model__recurrent__hidden_drop': 0.2,
        'model__recurrent__word_drop': 0.1,
    },
    'transformer_xl': {
        'model__architecture': 'transformer_xl',
        'model__memory_length': 24,
        'model__position__kind': 'relative',
        'model__head__cutoffs': '60,150',
        'model__head__divisor': 2.0,
        'data__order': 'contiguous',
    },
    'xlnet': {
        **XLNET,
        'model__memory_length': 12,
        'objective__kind': 'permutation',
        'objective__rate': 0.3,
        'data__order': 'contiguous',
    },
    'encoder_decoder': {
        'model__architecture': 'encoder_decoder',
        'objective__kind': 'span_corruption',
        'objective__rate': 0.3,
        'model__num_layers': 1,
        'model__encoder_layers': 2,
        'model__embedding__shared': False,
    },
}
KINDS |= {
    kind: (changes, {'data 2 x fsdp 2 x tensor 2, accumulation 2': mesh(data=2, fsdp=2, tensor=2) | CUT})
    for kind, changes in FAMILY.items()
}
MESHES = {
    'data 8': mesh(data=8),
    'fsdp 8': mesh(fsdp=8),
    'tensor 4': mesh(data=2, tensor=4),
    'context 8': mesh(context=8),
    **{
        f'{a} {m} x {b} {n}': mesh(**{a: m, b: n})
        for a, b in itertools.combinations(('data', 'fsdp', 'context', 'tensor'), 2)
        for m, n in ((4, 2), (2, 4))
        if not (a == 'data' and b == 'tensor' and n == 4)
    },
}
WAYS = {'': {}, ', scan': SCAN, ', dots': DOTS, ', accumulation 2': CUT, ', scan, accumulation 2': SCAN | CUT}


def every_mesh():
    """Every mesh with every objective, the ways to compute dealt out in turn; the family on others than by default."""
    ways, kinds = itertools.cycle(WAYS.items()), {}
    for kind in ('causal', 'masked', 'prefix', 'hybrid', 'span_corruption'):
        runs = {name + way: changes | how for (name, changes), (way, how) in zip(MESHES.items(), ways, strict=False)}
        kinds[kind] = ({'objective__kind': kind, 'objective__rate': 0.3}, runs)
    for kind, changes in FAMILY.items():
        runs = {'data 8': mesh(data=8), 'fsdp 2 x tensor 4': mesh(fsdp=2, tensor=4)}
        if kind != 'lstm':
            runs = {'fsdp 4 x tensor 2, scan': mesh(fsdp=4, tensor=2) | SCAN}
        kinds[kind] = changes, runs
    return kinds


def run_config(**changes):
    """Dropout on, and a learning rate at which five steps really move the parameters.

    The gradient of the key bias is zero but for rounding, as softmax does not see a shift of all scores; Adam would
    blow that rounding up, so its epsilon is large.
    """
    options = {
        'training__batch_size': 16,
        'evaluation__batch_size': 16,
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
    """Losses, initial and final parameters on the host, what is measured, the final state, and the compiled step."""
    rows, length = setup.config.training.batch_size, setup.config.data.length
    batch = functools.partial(random_batch, rows, length)
    step = setup.train_step().lower(setup.abstract, setup.abstract_batch(rows)).compile()
    state, losses = setup.initial_state(), []
    start = jax.device_get(read(state))
    for index in range(STEPS):
        state, metrics = step(state, place_batch(batch(seed=index), setup.mesh))
        losses.append(float(metrics['loss']))
    evaluated = []
    for measure, evaluate in setup.evaluations(lossless=True):
        carry = setup.memory(measure)
        for seed in (9, 10):
            found, carry = evaluate(state.params, place_batch(batch(seed=seed), setup.mesh), carry)
            weights, nats = (np.asarray(found[name], np.float64) for name in ('weights', 'nats'))
            evaluated.append([float(np.sum(nats[weights > 0]) / np.sum(weights)), float(np.sum(weights))])
    evaluated += [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(state.carry)]
    return losses, evaluated, start, jax.device_get(read(state)), state, step


def read(state):
    """The parameters that are trained and those that are evaluated."""
    return state.params, evaluation_params(state.opt_state, state.params)


def whole_matrices(state) -> list[str]:
    """Large arrays of parameters, optimizer and memory of which a device holds all."""
    leaves = jax.tree_util.tree_flatten_with_path((state.params, state.opt_state, state.carry))[0]
    return [
        jax.tree_util.keystr(path, simple=True, separator='/')
        for path, leaf in leaves
        if leaf.size >= 512 and leaf.addressable_shards[0].data.size == leaf.size
    ]


COLLECTIVE = re.compile(
    r'= \(?(\w+)\[([\d,]*)\][^=]*? (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\('
)


def collectives(step) -> list[tuple[str, str, int, str]]:
    """(kind, dtype, size of what comes out, where from) of everything that the devices of a compiled step exchange."""
    found = []
    for line in step.as_text().splitlines():
        if match := COLLECTIVE.search(line):
            dtype, shape, kind = match.groups()
            source = re.search(r'op_name="([^"]*)"', line)
            size = math.prod(map(int, filter(None, shape.split(','))))
            found.append((kind, dtype, size, source[1] if source else ''))
    return found


def travels_as(**changes) -> list[list[str]]:
    """(kind, dtype) of what a bfloat16 step asks for, before a backend has its own way."""
    setup = Setup.from_config(run_config(model__dtype='bfloat16', **changes))
    text = setup.train_step().lower(setup.abstract, setup.abstract_batch(16)).as_text()
    gathered = re.findall(r'"stablehlo.(all_gather)".*?-> tensor<[\dx]*x(\w+)>', text)
    reduced = re.findall(r'"stablehlo.(reduce_scatter)"\(.*?\}\) : .*?-> tensor<[\dx]*x(\w+)>', text, re.DOTALL)
    return sorted(set(gathered + reduced))


def main() -> None:
    """Trains every run and prints the comparison."""
    assert jax.device_count() == 8
    results, everything = {}, sys.argv[1:] == ['all']
    for kind, (options, runs) in (every_mesh() if everything else KINDS).items():
        reference = None
        for name, changes in {'one device': {}, **runs}.items():
            config = run_config(**(options | changes))
            setup = Setup.from_config(config) if changes else one_device_setup(config)
            losses, evaluated, start, final, state, step = train(setup)
            reference = reference or (final, evaluated)
            results[f'{kind}: {name}'] = {
                'losses': losses,
                'difference': largest_difference(final, reference[0]),
                'evaluated': largest_difference(evaluated, reference[1]),
                'spread': largest_difference(final, start),
                'whole': whole_matrices(state),
                'collectives': collectives(step),
                'devices': len(state.params['embedding']['token'].sharding.device_set),
            }
    results['bfloat16'] = travels_as(**mesh(data=2, fsdp=4))
    json.dump(results, sys.stdout)


if __name__ == '__main__':
    main()
