"""What the subcommands of launch.py do: each takes a resolved config or the folder of a run."""

from gpt2jax.commands.attending import attention
from gpt2jax.commands.auditing import audit
from gpt2jax.commands.checking import coordinate_check
from gpt2jax.commands.embedding import embed
from gpt2jax.commands.evaluating import evaluate
from gpt2jax.commands.filling import fill
from gpt2jax.commands.finetuning import finetune
from gpt2jax.commands.inspecting import describe, prepare
from gpt2jax.commands.launching import pod
from gpt2jax.commands.planning import plan
from gpt2jax.commands.replaying import replay
from gpt2jax.commands.sampling import sample
from gpt2jax.commands.studying import compare, report, study
from gpt2jax.commands.training import train
from gpt2jax.commands.training_together import train_together
from gpt2jax.commands.transferring import export_model, import_model

__all__ = [
    'attention',
    'audit',
    'compare',
    'coordinate_check',
    'describe',
    'embed',
    'evaluate',
    'export_model',
    'fill',
    'finetune',
    'import_model',
    'plan',
    'pod',
    'prepare',
    'replay',
    'report',
    'sample',
    'study',
    'train',
    'train_together',
]
