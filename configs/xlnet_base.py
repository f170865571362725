"""XLNet base: 12 layers, width 768, 12 heads, length 512, permutation language modelling (Yang et al. 2019).

    python launch.py train --config=configs/xlnet_base.py --workdir=runs/xlnet --config.data.corpus=tfds:NAME

The block, the two streams, the relative positions and the segment encodings are the paper's (sections 2.2 to 2.5), the
sizes those of BERT base (section 3.4): post-norm, GELU, no biases in attention, a sixth of the tokens predicted (K = 6,
section 2.3), in spans of 1 to 5. The optimizer is that of XLNet-Large (appendix A.4: Adam at 4e-4 with a linear
schedule over 500,000 steps, 40,000 of them warmup), but for 256 rows a step at 1e-4, BERT's, in place of 8192: the
paper tells of none for this size. What differs: the length of a span is geometric with a
mean of 2.2, near the authors' code, which draws n with weight 1 / n; rows are of the text as it comes and not of two
segments; the memory, which the paper trains with, is off, as in the released model's config:
config.model.memory_length=384 with config.data.order=contiguous turns it on.

The paper reports no held-out loss; its measures are fine-tuned tasks. XLNet-Base with K = 6, trained on the text of
BERT, has 66.66 on RACE and 85.63 / 85.12 on MNLI m / mm, BERT base 64.3 and 84.34 / 84.65 (table 6). The tokenizer is
GPT-2's; with SentencePiece's 32,000 ids instead `describe` counts 116.8 million parameters.

The default corpus is Shakespeare, which is there at once and is far too small for this model: name a larger one.
"""

from gpt2jax.config import recipe

XLNET = {
    'objective.kind': 'permutation',
    'objective.rate': 1 / 6,
    'objective.mean_span': 3.0,
    'objective.max_span': 5,
    'data.tokenizer': 'gpt2',
    'data.length': 512,
    'model.architecture': 'xlnet',
    'model.dtype': 'bfloat16',
    'model.scan_layers': True,
    'model.dropout': 0.1,
    'model.position.kind': 'relative',
    'model.position.segments': True,
    'model.attention.bias': False,
    'model.attention.dropout': 0.1,
    'model.norm.placement': 'post',
    'model.norm.epsilon': 1e-12,
    'model.feedforward.kind': 'gelu',
    'model.head.bias': True,
    'model.init.residual': 'plain',
    'optimizer.learning_rate': 1e-4,
    'optimizer.b2': 0.999,
    'optimizer.epsilon': 1e-6,
    'optimizer.weight_decay': 0.01,
    'optimizer.schedule': 'linear',
    'optimizer.warmup_steps': 40_000,
    'optimizer.final_fraction': 0.0,
    'training.batch_size': 256,
    'training.accumulation': 8,
    'training.steps': 500_000,
    'evaluation.every': 5000,
    'checkpoint.every_minutes': 15.0,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(XLNET, argument)
