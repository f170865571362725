"""`launch.py sample`."""

from gpt2jax.commands.runs import console, on_one_device, open_run, restore_params
from gpt2jax.data import Tokenizer
from gpt2jax.generation import sample_texts


def sample(path: str, prompt: str | None, which: str, seed: int, changes: dict, method: str = 'auto') -> list[dict]:
    """Prints continuations of a prompt, token by token.

    Args:
      prompt: None takes the config's.
      changes: {'sampling.top_k': 40, ...} over the config of the run.
      method: one of gpt2jax.generation.text.METHODS; 'auto': what fits the run's objective.
    """
    setup, workdir = open_run(path, changes)
    tokenizer = Tokenizer.load(workdir.path)
    step, params, _ = restore_params(setup, workdir, which)
    console.print(f'{workdir.path}, step {step}', style='dim')
    prompt = setup.config.sampling.prompt if prompt is None else prompt
    params = on_one_device(params, setup)
    return sample_texts(setup.model, params, tokenizer, setup.config, prompt, seed, console, method)
