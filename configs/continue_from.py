"""A run that starts from the parameters of another one, imported or trained: fine-tuning, or more pretraining.

    python launch.py import --from=FOLDER --workdir=runs/gpt2
    python launch.py train --config=configs/continue_from.py:from=runs/gpt2,steps=500 --workdir=runs/gpt2_shakespeare

`from` names the run: its model, its tokenizer, its objective and the length of its rows are taken over, and its
parameters are where this run begins (`training.init_from`). Any other key can be given behind it, NAME=VALUE. Without
`from` it goes on from runs/laptop with the model of configs/laptop.py. The learning rate is one of those that fine-tune
BERT well (Devlin et al. 2019, appendix A.3); what to expect depends on the run it starts from.
"""

from gpt2jax.config import recipe
from gpt2jax.training.starting import changes_from_run

LAPTOP = {
    'data.tokenizer': 'bpe:2048',
    'data.length': 128,
    'model.num_layers': 2,
    'model.width': 256,
    'model.attention.num_heads': 4,
    'model.init.std': 0.04,
    'training.init_from': 'runs/laptop',
}
FINE_TUNING = {
    'training.batch_size': 8,
    'training.steps': 500,
    'optimizer.learning_rate': 5e-5,
    'optimizer.warmup_steps': 50,
    'optimizer.weight_decay': 0.01,
    'evaluation.every': 100,
    'evaluation.batch_size': 8,
    'evaluation.num_rows': 256,
    'checkpoint.every_minutes': 5.0,
}


def get_config(argument: str = ''):
    """`argument`: from=RUN, then NAME=VALUE,... over this recipe."""
    items = [item.strip() for item in argument.split(',') if item.strip()]
    folders = [item.removeprefix('from=') for item in items if item.startswith('from=')]
    base = changes_from_run(folders[-1]) if folders else LAPTOP
    return recipe(base | FINE_TUNING, ','.join(item for item in items if not item.startswith('from=')))
