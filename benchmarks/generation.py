"""Cached generation of gpt2jax against transformers' `generate`, in turns on this machine.

    python -m benchmarks.generation [--peer=PYTHON]

GPT-2 124M with random weights in float32, top-k 40, a prompt of 16 tokens, 64 new ones, batch 1 and 8. PYTHON is an
interpreter with requirements-peers.txt installed; by default this one. Compilation is not counted.
"""

import argparse
import sys
import time

from benchmarks.duel import Side, duel, serve

PROMPT, NEW, TOP_K = 16, 64, 40
CASES = ({'batch': 1}, {'batch': 8})
ROUNDS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', default=sys.executable, help='a Python with requirements-peers.txt')
    parser.add_argument('--serve', choices=('gpt2jax', 'transformers'), help='used by the benchmark itself')
    options = parser.parse_args()
    if options.serve:
        serve({'gpt2jax': make_gpt2jax, 'transformers': make_transformers}[options.serve])
        return
    module = ['-m', 'benchmarks.generation', '--serve']
    sides = {
        'gpt2jax': Side([sys.executable, *module, 'gpt2jax']),
        'transformers': Side([options.peer, *module, 'transformers']),
    }
    for case in CASES:
        result = duel(sides, case, 1, ROUNDS, warm=1)
        ours, theirs = (case['batch'] * NEW / result[name] for name in ('gpt2jax', 'transformers'))
        print(
            f'batch {case["batch"]}: {ours:.1f} tokens/s, transformers {theirs:.1f} tokens/s: '
            f'{ours / theirs:.2f} times as fast'
        )
    for side in sides.values():
        side.close()


def make_gpt2jax(batch):
    """The generator that `launch.py sample` uses."""
    import jax
    import numpy as np

    from gpt2jax.config import default_config
    from gpt2jax.data import make_tokenizer
    from gpt2jax.generation.decode import Generator
    from gpt2jax.generation.sampling import Sampling
    from gpt2jax.models import make_model
    from gpt2jax.validation import resolve

    config = resolve(default_config())
    model = make_model(config.model)
    params = jax.jit(model.init)(jax.random.key(0))
    tokenizer = make_tokenizer('gpt2')
    generate = Generator(model, params, 1024, Sampling(1.0, TOP_K, 1.0), tokenizer, False, chunk=NEW)
    prompts = np.random.default_rng(0).integers(0, 50256, (batch, PROMPT)).tolist()

    def run(count):
        began = time.perf_counter()
        for seed in range(count):
            generate(prompts, NEW, seed)
        return time.perf_counter() - began

    return run


def make_transformers(batch):
    """GPT2LMHeadModel in eval mode, with its own cache."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    ids = torch.randint(0, 50256, (batch, PROMPT))
    length = {'max_new_tokens': NEW, 'min_new_tokens': NEW, 'eos_token_id': None, 'pad_token_id': 50256}

    def run(count):
        began = time.perf_counter()
        with torch.no_grad():
            for _ in range(count):
                model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=TOP_K, **length)
        return time.perf_counter() - began

    return run


if __name__ == '__main__':
    main()
