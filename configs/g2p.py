"""Grapheme to phoneme on CMUdict with the 2017 Transformer: 3 + 3 layers, width 128, 4 heads, 1.4 million parameters.

    python launch.py train --config=configs/g2p.py --workdir=runs/g2p
    python launch.py evaluate --workdir=runs/g2p --suite=pairs:test
    python launch.py sample --workdir=runs/g2p --prompt='p h o n e m e s'

The model and its training are Vaswani et al. 2017 in small: post-norm, sinusoidal positions, embeddings times the root
of the width and shared by both sides, dropout and label smoothing of 0.1, Adam with b2 = 0.98 and the inverse-root
schedule (sections 3 and 5); a moving average of the parameters stands for their average of checkpoints (section 6.1).
Rows of 128 places hold about eight words, and an epoch of the 121,407 pairs has about 1,000 steps.

Words are split 90/5/5 at random by seed 2017 (docs/data.md), phonemes are without stress, and of several pronunciations
the closest counts.

Expect 8.4 % of the phonemes and 33.9 % of the words wrong on the 6,303 words of the test split with 5 beams (8.5 and
34.3 % greedily), after 34 minutes on one core that other work shared: 6 epochs, with the error still falling.

Published on other splits of older dictionaries: 5.45 % of the phonemes and 23.55 % of the words wrong (Yao & Zweig
2015, an LSTM). What compares with this recipe is in the README of cmusphinx/g2p-seq2seq: on the current dictionary its
Transformer (2 layers, width 256) has about 31 % of the words wrong, Phonetisaurus 33.9 %; on PRONALSYL 2007 they have
20.2 and 24.4 %.
"""

from gpt2jax.config import recipe

G2P = {
    'data.corpus': 'cmudict',
    'data.tokenizer': 'symbols:80',
    'data.length': 128,
    'data.whole_documents': True,
    'objective.kind': 'seq2seq',
    'model.architecture': 'encoder_decoder',
    'model.num_layers': 3,
    'model.width': 128,
    'model.dropout': 0.1,
    'model.position.kind': 'sinusoidal',
    'model.embedding.scale': True,
    'model.attention.num_heads': 4,
    'model.feedforward.kind': 'relu',
    'model.norm.placement': 'post',
    'model.init.residual': 'plain',
    'loss.label_smoothing': 0.1,
    'optimizer.learning_rate': 2e-3,
    'optimizer.b2': 0.98,
    'optimizer.epsilon': 1e-9,
    'optimizer.weight_decay': 0.0,
    'optimizer.schedule': 'inverse_sqrt',
    'optimizer.warmup_steps': 500,
    'optimizer.average': 0.998,
    'training.batch_size': 16,
    'training.steps': 6000,
    'evaluation.every': 1000,
    'evaluation.batch_size': 64,
    'sampling.prompt': 'p h o n e m e s',
    'sampling.beams': 5,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(G2P, argument)
