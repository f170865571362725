"""A training step under each objective against the causal one, at equal shapes, in turns on this machine.

    python -m benchmarks.objectives

The block and the number of tokens are the same; what differs is the work of the objective itself, the attention map
(half of it is skipped when causal) and the positions that logits are made for.
"""

import argparse
import sys
import time

from benchmarks.duel import Side, duel, serve

KINDS = ('causal', 'masked', 'prefix', 'hybrid', 'span_corruption')
CASES = {
    'laptop': {'tokenizer': 'bpe:2048', 'layers': 2, 'width': 256, 'heads': 4, 'length': 128, 'batch': 8},
    'large vocabulary': {'tokenizer': 'gpt2', 'layers': 4, 'width': 256, 'heads': 4, 'length': 256, 'batch': 4},
}
COUNTS = {'laptop': 15, 'large vocabulary': 3}
ROUNDS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--serve', choices=KINDS, help='used by the benchmark itself')
    options = parser.parse_args()
    if options.serve:
        serve(lambda **case: make(options.serve, **case))
        return
    sides = {kind: Side([sys.executable, '-m', 'benchmarks.objectives', '--serve', kind]) for kind in KINDS}
    for name, case in CASES.items():
        result = duel(sides, case, COUNTS[name], ROUNDS, warm=2)
        for kind in KINDS:
            share = result[kind] / result['causal']
            print(f'{name}, {kind}: {1e3 * result[kind]:.1f} ms a step, {share:.2f} of the causal one')
    for side in sides.values():
        side.close()


def make(kind, tokenizer, layers, width, heads, length, batch):
    """The step as the training loop runs it, on random tokens."""
    import jax
    import numpy as np

    from gpt2jax.batches import place_batch
    from gpt2jax.config import default_config, overlay
    from gpt2jax.data.rows import batch_shapes
    from gpt2jax.sharding import start_devices
    from gpt2jax.training.setup import Setup
    from gpt2jax.validation import resolve

    changes = {
        'objective.kind': kind,
        'data.tokenizer': tokenizer,
        'data.length': length,
        'model.num_layers': layers,
        'model.width': width,
        'model.attention.num_heads': heads,
        'training.batch_size': batch,
    }
    config = resolve(overlay(default_config(), changes))
    start_devices(config)
    setup = Setup.from_config(config)
    random = np.random.default_rng(0)
    arrays = {name: np.ones(*shape) for name, shape in batch_shapes(batch, length).items()}
    arrays['tokens'] = random.integers(0, 2048, arrays['tokens'].shape, dtype=np.int32)
    arrays['row'] = np.arange(batch, dtype=np.int32)
    state, placed = setup.initial_state(), place_batch(arrays, setup.mesh)
    step = setup.train_step(kind).lower(setup.abstract, setup.abstract_batch(batch)).compile()

    def run(count):
        nonlocal state
        began = time.perf_counter()
        for _ in range(count):
            state, metrics = step(state, placed)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    return run


if __name__ == '__main__':
    main()
