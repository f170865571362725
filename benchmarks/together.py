"""Runs trained as one program against the same runs one after the other, in turns on this machine.

    python -m benchmarks.together [--cases=tiny,laptop] [--runs=2,4,8] [--rounds=7]

A figure is how many times as many tokens a second the group reads, of all its runs together, as one run that has the
machine for itself. Both ways to train the runs of a device are measured: in turns, as on CPU, and at once (vmap), as
elsewhere. A step is one of the training loop, its batch placed and its metrics read one step late.
"""

import argparse
import os
import sys
import time

from benchmarks.duel import Side, duel, serve

CASES = {
    'tiny': {'layers': 2, 'width': 64, 'heads': 2, 'length': 32, 'batch': 8, 'vocab': 256},
    'laptop': {'layers': 2, 'width': 256, 'heads': 4, 'length': 128, 'batch': 8, 'vocab': 2052},
}
COUNTS = {'tiny': 48, 'laptop': 8}  # steps of one run in a turn
WARM = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', default='tiny,laptop')
    parser.add_argument('--runs', default='2,4,8', help='how many are trained together')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--serve', choices=('alone', 'turns', 'at_once'), help='used by the benchmark itself')
    options = parser.parse_args()
    if options.serve:
        serve({'alone': make_alone, 'turns': make_turns, 'at_once': make_at_once}[options.serve])
        return
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # three processes share an accelerator
    command = [sys.executable, '-m', 'benchmarks.together', '--serve']
    for name in options.cases.split(','):
        for runs in map(int, options.runs.split(',')):
            sides = {how: Side([*command, how]) for how in ('alone', 'turns', 'at_once')}
            result = duel(sides, CASES[name] | {'runs': runs}, COUNTS[name], options.rounds, WARM)
            for side in sides.values():
                side.close()
            alone = result['alone']
            turns, at_once = alone / result['turns'], alone / result['at_once']
            print(
                f'{name}, {runs} runs: alone {1e3 * alone:.1f} ms a step of each; together {turns:.2f} times the '
                f'tokens a second in turns, {at_once:.2f} times at once',
                flush=True,
            )


def make_alone(runs, **size):
    """The step of one run, on all devices."""
    from gpt2jax.batches import place_batch
    from gpt2jax.sharding import start_devices
    from gpt2jax.training.setup import Setup

    (config,) = make_configs(1, **size)
    start_devices(config)
    setup = Setup.from_config(config)
    batches = [random_batch(number, **size) for number in range(8)]
    return make_run(setup, lambda step: place_batch(batches[step % 8], setup.mesh), size['batch'], 1)


def make_turns(runs, **size):
    return make_group(runs, False, **size)


def make_at_once(runs, **size):
    return make_group(runs, True, **size)


def make_group(runs, at_once, **size):
    """The step of all runs; a repetition is one step of one of them."""
    import jax
    import numpy as np

    from gpt2jax.training.group import GroupSetup, start_group_devices

    configs = make_configs(runs, **size)
    start_group_devices(configs)
    group = GroupSetup.from_configs(configs)
    setup = GroupSetup(group.config, group.mesh, group.runs, at_once)
    batches = [random_batch(number, **size) for number in range(8)]

    def batch(step):
        own = [batches[(step + place) % 8] for place in range(runs)]
        return {name: jax.device_put(np.stack([one[name] for one in own]), setup.sharding) for name in own[0]}

    return make_run(setup, batch, size['batch'], runs)


def make_configs(runs, layers, width, heads, length, batch, vocab):
    """Of runs that differ in their seeds."""
    from ml_collections import FrozenConfigDict

    from gpt2jax.config import default_config, overlay
    from gpt2jax.validation import resolve

    changes = {
        'data.tokenizer': 'bytes',
        'data.length': length,
        'model.num_layers': layers,
        'model.width': width,
        'model.attention.num_heads': heads,
        'training.batch_size': batch,
    }
    # There is no text here, so that the vocabulary may be any.
    vocabulary = {'model.vocab_size': vocab, 'model.vocab_multiple': 1}
    resolved = [resolve(overlay(default_config(), changes | {'seed': seed})) for seed in range(runs)]
    return [FrozenConfigDict(overlay(config, vocabulary)) for config in resolved]


def random_batch(seed, length, batch, vocab, **_):
    """Rows of one document each."""
    import numpy as np

    return {
        'tokens': np.random.default_rng(seed).integers(0, vocab, (batch, length + 1), dtype=np.int32),
        'segment': np.ones((batch, length + 1), np.int32),
        'begins': np.ones((batch, length + 1), bool),
        'continues': np.zeros(batch, bool),
        'row': np.arange(batch, dtype=np.int32),
    }


def make_run(setup, batch, batch_size, runs):
    """Repetitions, steps of one run -> seconds."""
    import jax

    state = setup.initial_state()
    step = setup.train_step().lower(setup.abstract, setup.abstract_batch(batch_size)).compile()

    def run(count):
        nonlocal state
        began, waiting = time.perf_counter(), None
        for number in range(max(1, count // runs)):
            state, metrics = step(state, batch(number))
            jax.device_get(waiting)
            waiting = metrics
        jax.block_until_ready((state, waiting))
        return (time.perf_counter() - began) * count / (runs * max(1, count // runs))

    return run


if __name__ == '__main__':
    main()
