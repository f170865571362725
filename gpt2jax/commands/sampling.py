"""`launch.py sample`."""

from gpt2jax.commands.runs import console, on_one_device, open_run, restore_params
from gpt2jax.data import Tokenizer
from gpt2jax.generation import sample_texts


def sample(path: str, prompt: str | None, which: str, seed: int, changes: dict) -> list[dict]:
    """Prints continuations of a prompt, token by token.

    Args:
      prompt: None takes the config's.
      changes: {'sampling.top_k': 40, ...} over the config of the run.
    """
    setup, workdir = open_run(path, changes)
    tokenizer = Tokenizer.load(workdir.path)
    step, params, _ = restore_params(setup, workdir, which)
    console.print(f'{workdir.path}, step {step}', style='dim')
    prompt = setup.config.sampling.prompt if prompt is None else prompt
    return sample_texts(setup.model, on_one_device(params, setup), tokenizer, setup.config, prompt, seed, console)
