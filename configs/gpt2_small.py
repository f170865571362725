"""GPT-2 124M: 12 layers, width 768, 12 heads, length 1024, the real GPT-2 tokenizer (Radford et al. 2019, table 2).

    python launch.py train --config=configs/gpt2_small.py --workdir=runs/gpt2 --config.data.corpus=tfds:NAME

The architecture, the initial values and the batch of 512 rows are the paper's; its training data (WebText) and its
schedule are not public. The optimizer is that of nanoGPT's reproduction (github.com/karpathy/nanoGPT, train_gpt2.py),
which reports 2.85 nats per token on held-out OpenWebText after 600,000 such steps; the paper's own 124M model has
37.5 perplexity on WikiText-103 and 1.16 bits per byte on enwik8 without training on them (table 3).

The default corpus is Shakespeare, which is there at once and is far too small for this model: name a larger one. A
step is 0.45 PFLOP (`describe` counts it), seconds on a TPU or GPU host and most of an hour on a laptop; there, shrink
it: --config.training.batch_size=4 --config.training.accumulation=1.
"""

from gpt2jax.config import recipe

GPT2 = {
    'data.tokenizer': 'gpt2',
    'data.length': 1024,
    'model.dtype': 'bfloat16',
    'model.scan_layers': True,
    'model.remat': 'full',
    'training.batch_size': 512,
    'training.accumulation': 32,
    'training.steps': 600_000,
    'optimizer.warmup_steps': 2000,
    'evaluation.every': 2000,
    'checkpoint.every_minutes': 15.0,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(GPT2, argument)
