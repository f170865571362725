"""What the subcommands of launch.py do: each takes a resolved config or the folder of a run."""

from gpt2jax.commands.evaluating import evaluate
from gpt2jax.commands.inspecting import describe, prepare
from gpt2jax.commands.sampling import sample
from gpt2jax.commands.training import train

__all__ = ['describe', 'evaluate', 'prepare', 'sample', 'train']
