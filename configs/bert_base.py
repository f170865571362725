"""BERT base: 12 layers, width 768, 12 heads, length 512, masked language modelling (Devlin et al. 2019, section 3).

    python launch.py train --config=configs/bert_base.py --workdir=runs/bert --config.data.corpus=tfds:NAME

The block, the head, the dropout and the optimizer are the paper's (section 3, appendix A.2): post-norm, GELU, a norm on
the embeddings, token types, a transform before the output matrix, 15 % of the tokens hidden; Adam at 1e-4 with a linear
schedule over 1,000,000 steps of 256 rows. Next-sentence prediction is left out (RoBERTa, Liu et al. 2019, section 4.2,
found it of no use), and the tokenizer is GPT-2's: with WordPiece's 30,522 ids instead, `describe` counts the 109.5
million parameters of the published masked model. The paper reports no held-out loss; its measure is GLUE (79.6 on
average, table 1).

The default corpus is Shakespeare, which is there at once and is far too small for this model: name a larger one.
"""

from gpt2jax.config import recipe

BERT = {
    'objective.kind': 'masked',
    'data.tokenizer': 'gpt2',
    'data.length': 512,
    'model.dtype': 'bfloat16',
    'model.scan_layers': True,
    'model.dropout': 0.1,
    'model.attention.dropout': 0.1,
    'model.norm.placement': 'post',
    'model.norm.epsilon': 1e-12,
    'model.feedforward.kind': 'gelu',
    'model.embedding.norm': True,
    'model.embedding.token_types': 2,
    'model.head.transform': True,
    'model.head.bias': True,
    'model.init.residual': 'plain',
    'optimizer.learning_rate': 1e-4,
    'optimizer.b2': 0.999,
    'optimizer.epsilon': 1e-6,
    'optimizer.weight_decay': 0.01,
    'optimizer.schedule': 'linear',
    'optimizer.warmup_steps': 10_000,
    'optimizer.final_fraction': 0.0,
    'training.batch_size': 256,
    'training.accumulation': 8,
    'training.steps': 1_000_000,
    'evaluation.every': 5000,
    'checkpoint.every_minutes': 15.0,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(BERT, argument)
