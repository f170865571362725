"""Grapheme to phoneme on CMUdict with the 2017 Transformer: 3 + 3 layers, width 256, 4 heads.

placeholder
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
