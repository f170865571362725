"""Transformer-XL Standard on WikiText-103: 16 layers, width 410, 151M parameters (Dai et al. 2019, table 1).

    python launch.py train --config=configs/transformer_xl_wt103.py --workdir=runs/wt103 \\
        --config.data.corpus=text --config.data.path=WIKITEXT_103

Published: 24.0 perplexity a word on the test split (table 1), of their released settings
(github.com/kimiyoung/transformer-xl, pytorch/run_wt103_base.sh: 24.03), which these are: rows and memory of 150 in
training, and in evaluation 64 targets, a memory of 640, distances clamped at 400 and 640 keys for every target
(`--same_length`, here a window). Training never sees a distance beyond 299, so that the clamp and the window can stand
in the recipe. Two things differ. Dropout is where all models here have it, behind the embedding and on what each
sub-layer adds, and theirs also inside the feed-forward, on the waves of the distances and on the output. And the split
is this program's own, by the hash of a text, where theirs is the corpus's: a perplexity of this recipe is near theirs,
and not to be put beside it.

The tokens are words, so there are no bits per byte; the adaptive softmax keeps all 267,735 of them affordable. The
paper trains on 4 GPUs for 200,000 steps of 9,000 tokens, 100 epochs or so.
"""

from gpt2jax.config import recipe

TRANSFORMER_XL = {
    'data.tokenizer': 'symbols:267735',
    'data.length': 150,
    'data.order': 'contiguous',
    'data.cross_documents': True,
    'model.architecture': 'transformer_xl',
    'model.memory_length': 150,
    'model.num_layers': 16,
    'model.width': 410,
    'model.dropout': 0.1,
    'model.scan_layers': True,
    'model.position.kind': 'relative',
    'model.position.clamp_length': 400,
    'model.embedding.scale': True,
    'model.attention.num_heads': 10,
    'model.attention.bias': False,
    'model.attention.window': 640,
    'model.feedforward.kind': 'relu',
    'model.feedforward.width': 2100,
    'model.norm.placement': 'post',
    'model.head.bias': True,
    'model.head.cutoffs': '20000,40000,200000',
    'model.head.divisor': 1.0,
    'model.init.residual': 'plain',
    'training.batch_size': 60,
    'training.steps': 200_000,
    'optimizer.learning_rate': 2.5e-4,
    'optimizer.b2': 0.999,
    'optimizer.weight_decay': 0.0,
    'optimizer.clip_norm': 0.25,
    'optimizer.warmup_steps': 0,
    'optimizer.final_fraction': 0.0,
    'evaluation.every': 4000,
    'evaluation.stride': 64,
    'evaluation.context': 704,
    'checkpoint.every_minutes': 15.0,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(TRANSFORMER_XL, argument)
