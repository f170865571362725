"""A training step of gpt2jax against Hugging Face's GPT2LMHeadModel in PyTorch eager, in turns on this machine.

    python -m benchmarks.train_step [--peer=PYTHON]

PYTHON is an interpreter with requirements-peers.txt installed; by default this one. Both sides do forward, backward,
clipping by global norm and AdamW on the same shapes, in float32, without dropout, on two threads or two devices.
"""

import argparse
import sys
import time

from benchmarks.duel import Side, duel, serve

CASES = {
    'small': {'layers': 4, 'width': 128, 'heads': 4, 'length': 64, 'batch': 12, 'vocab': 65},
    'medium': {'layers': 6, 'width': 384, 'heads': 6, 'length': 256, 'batch': 8, 'vocab': 65},
}
COUNTS = {'small': 40, 'medium': 3}
WARM = {'small': 20, 'medium': 2}
ROUNDS = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', default=sys.executable, help='a Python with requirements-peers.txt')
    parser.add_argument('--serve', choices=('gpt2jax', 'torch'), help='used by the benchmark itself')
    options = parser.parse_args()
    if options.serve:
        serve({'gpt2jax': make_gpt2jax, 'torch': make_torch}[options.serve])
        return
    module = ['-m', 'benchmarks.train_step', '--serve']
    sides = {'gpt2jax': Side([sys.executable, *module, 'gpt2jax']), 'torch': Side([options.peer, *module, 'torch'])}
    for name, case in CASES.items():
        result = duel(sides, case, COUNTS[name], ROUNDS, WARM[name])
        ours, theirs = result['gpt2jax'], result['torch']
        print(f'{name}: {1e3 * ours:.1f} ms, PyTorch {1e3 * theirs:.1f} ms a step: {theirs / ours:.2f} times as fast')
    for side in sides.values():
        side.close()


def make_gpt2jax(layers, width, heads, length, batch, vocab):
    """The step exactly as the training loop runs it."""
    import jax
    import numpy as np
    from ml_collections import FrozenConfigDict

    from gpt2jax.batches import place_batch
    from gpt2jax.config import default_config, overlay
    from gpt2jax.sharding import start_devices
    from gpt2jax.training.setup import Setup
    from gpt2jax.validation import resolve

    config = overlay(
        default_config(),
        {
            'data.tokenizer': 'bytes',
            'data.length': length,
            'model.num_layers': layers,
            'model.width': width,
            'model.attention.num_heads': heads,
            'training.batch_size': batch,
        },
    )
    # A vocabulary below any tokenizer's: there is no text here.
    small = {'model.vocab_size': vocab, 'model.vocab_multiple': 1}
    resolved = FrozenConfigDict(overlay(resolve(config), small))
    start_devices(resolved)
    setup = Setup.from_config(resolved)
    state = setup.initial_state()
    random = np.random.default_rng(0)
    batches = [
        {
            'tokens': random.integers(0, vocab, (batch, length + 1), dtype=np.int32),
            'segment': np.ones((batch, length + 1), np.int32),
            'begins': np.ones((batch, length + 1), bool),
            'continues': np.zeros(batch, bool),
            'row': np.arange(batch, dtype=np.int32),
        }
        for _ in range(16)
    ]
    abstract_batch = setup.abstract_batch(batch)
    step = setup.train_step().lower(setup.abstract, abstract_batch).compile()

    def run(count):
        nonlocal state
        began = time.perf_counter()
        for number in range(count):
            state, metrics = step(state, place_batch(batches[number % 16], setup.mesh))
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    return run


def make_torch(layers, width, heads, length, batch, vocab):
    """Its own AdamW, with decay on matrices alone; scaled dot-product attention, its default and its fastest."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(2)
    torch.manual_seed(0)
    no_dropout = dict.fromkeys(('resid_pdrop', 'embd_pdrop', 'attn_pdrop'), 0.0)
    sizes = {'n_positions': length, 'n_embd': width, 'n_layer': layers, 'n_head': heads}
    special = {'bos_token_id': 0, 'eos_token_id': 0, 'use_cache': False}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab, **sizes, **no_dropout, **special)).train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{'params': matrices, 'weight_decay': 0.1}, {'params': others, 'weight_decay': 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), eps=1e-8)
    rows = [torch.randint(0, vocab, (batch, length)) for _ in range(16)]

    def run(count):
        began = time.perf_counter()
        for number in range(count):
            loss = model(input_ids=rows[number % 16], labels=rows[number % 16]).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss.item()
        return time.perf_counter() - began

    return run


if __name__ == '__main__':
    main()
