"""An LSTM at laptop size (Merity et al. 2018): configs/laptop.py with a state instead of attention.

    python launch.py train --config=configs/lstm.py --workdir=runs/lstm

The same data, tokens, width, batch and steps as the GPT-2 of configs/laptop.py, so that the two can be compared: three
layers of 256 have as many parameters as its two blocks (1.58 million without embeddings), as many FLOPs but for its
attention map, and take as long a step on a CPU core. What differs: rows go on where those of the step before ended, and
their state with them.

In runs of half as many steps, with a schedule of that length (docs/studies/history.md), three seeds had 2.402 bits per
byte of the held-out plays, from 2.398 to 2.410; that GPT-2 had 2.241.

Tried, each with a decay of its own: in runs of 120 steps learning rates of 2e-3, 5e-3, 1e-2 and 2e-2 ended at 5.79,
5.60, 5.56 and 5.46 nats on the training text, with a weight decay of 0.1; in runs of 240 steps without weight decay
1e-2 and 2e-2 at 5.12 and 5.21. Dropout is off, as the run sees its text one and a half times; configs/lstm_wikitext2.py
has the paper's.
"""

from gpt2jax.config import recipe

LSTM = {
    'data.tokenizer': 'bpe:2048',
    'data.length': 128,
    'data.order': 'contiguous',
    'model.architecture': 'lstm',
    'model.num_layers': 3,
    'model.width': 256,
    'model.embedding.scale': True,
    'model.init.std': 0.058,
    'training.batch_size': 8,
    'training.steps': 2400,
    'optimizer.learning_rate': 1e-2,
    'optimizer.weight_decay': 0.0,
    'optimizer.warmup_steps': 150,
    'evaluation.every': 600,
    'evaluation.batch_size': 16,
    'checkpoint.every_minutes': 0.5,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(LSTM, argument)
