"""GPT-2 1558M: 48 layers, width 1600, 25 heads, length 1024, the real GPT-2 tokenizer (Radford et al. 2019, table 2).

    python launch.py train --config=configs/gpt2_xl.py --workdir=runs/gpt2_xl --config.data.corpus=tfds:NAME

All else is as in configs/gpt2_small.py, with a lower learning rate for the wider model (Brown et al. 2020, table 2.1).
The paper's own model of this size has 17.5 perplexity on WikiText-103 and 0.93 bits per byte on enwik8 without
training on them (table 3).
"""

from configs.gpt2_small import GPT2
from gpt2jax.config import recipe

SIZE = {
    'model.num_layers': 48,
    'model.width': 1600,
    'model.attention.num_heads': 25,
    'optimizer.learning_rate': 2e-4,
}


def get_config(argument: str = ''):
    """`argument`: NAME=VALUE,... over this recipe."""
    return recipe(GPT2 | SIZE, argument)
