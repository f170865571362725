"""The encoder-decoder at laptop size, on span corruption: configs/laptop.py with an encoder (Raffel et al. 2020).

    python launch.py train --config=configs/encoder_decoder.py --workdir=runs/encoder_decoder

The same data, tokens, width and optimizer as the GPT-2 of configs/laptop.py, so that the two can be compared: two
layers read a text of which 15 % is hidden, in spans of three tokens on average, and two write what is hidden. Of a row
of 128 places these read the 38 at most that are predicted. Its measure is the nats of a token of the spans, which is
not comparable with bits per byte; with `--config.objective.kind=prefix` the same model has these too.

In runs of half as many steps, with a schedule of that length (docs/studies/history.md), three seeds had 4.713 nats per
token of the spans, from 4.701 to 4.731.
"""

from gpt2jax.config import recipe

ENCODER_DECODER = {
    'data.tokenizer': 'bpe:2048',
    'data.length': 128,
    'objective.kind': 'span_corruption',
    'objective.mean_span': 3.0,
    'model.architecture': 'encoder_decoder',
    'model.num_layers': 2,
    'model.width': 256,
    'model.attention.num_heads': 4,
    'model.init.std': 0.04,
    'training.batch_size': 8,
    'training.steps': 2400,
    'optimizer.learning_rate': 2e-3,
    'optimizer.warmup_steps': 150,
    'evaluation.every': 600,
    'evaluation.batch_size': 32,
    'checkpoint.every_minutes': 0.5,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(ENCODER_DECODER, argument)
