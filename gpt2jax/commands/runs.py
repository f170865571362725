"""Opening a run: its config, its parts, its data, its parameters. What every command needs."""

import dataclasses

import jax
from ml_collections import FrozenConfigDict
from rich.console import Console

from gpt2jax.batches import rows_of
from gpt2jax.config import overlay
from gpt2jax.data import Prepared, Tokenizer
from gpt2jax.data import prepare as prepare_corpus
from gpt2jax.data.rows import Rows
from gpt2jax.errors import UserError
from gpt2jax.objectives import Objective
from gpt2jax.processes import ALONE, Peers
from gpt2jax.sharding import keep_compiled, start_devices
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.setup import Setup
from gpt2jax.training.starting import resolve_saved
from gpt2jax.training.workdir import Workdir

console = Console(highlight=False, markup=False)


def open_run(path: str, changes: dict | None = None) -> tuple[Setup, Workdir]:
    """The parts of a finished or running run, from the config in its folder."""
    workdir = Workdir(path)
    saved = workdir.saved_config()
    if saved is None:
        raise UserError(
            f'{workdir.path} holds no run (no config.json); train one with: launch.py train --workdir={path}'
        )
    config = resolve_saved(saved, workdir, changes)
    start_devices(config)
    keep_compiled(config.runtime.compilation_cache)
    return Setup.from_config(for_these_devices(config)), workdir


@dataclasses.dataclass(frozen=True)
class Opened:
    """A trained model with what it takes to use it.

    Attributes:
      step: of its checkpoint.
      params: on the devices of `setup.mesh`.
      objective: of the run; of one that switches, the one it ends with.
    """

    setup: Setup
    workdir: Workdir
    tokenizer: Tokenizer
    step: int
    params: dict
    objective: Objective


def open_model(path: str, which: str, changes: dict | None = None) -> Opened:
    """Opens a run to use its model.

    Args:
      path: the folder of the run.
      which: 'best', 'latest' or the number of a step.
      changes: {'sampling.top_k': 40, ...} over the config of the run.
    """
    setup, workdir = open_run(path, changes)
    tokenizer = Tokenizer.load(workdir.path)
    step, params, _ = restore_params(setup, workdir, which)
    objective = setup.objective(setup.kind_at(setup.config.training.steps))
    return Opened(setup, workdir, tokenizer, step, params, objective)


def for_these_devices(config):
    """The config of a trained run, for reading it on whatever devices are here: other ones than it was trained on."""
    count, fsdp = jax.device_count(), config.sharding.fsdp
    rows = -(-config.evaluation.batch_size // count) * count
    changes = {
        'sharding.data': -1,
        'sharding.fsdp': fsdp if count % fsdp == 0 else 1,
        'sharding.tensor': 1,
        'evaluation.batch_size': rows,
        'training.batch_size': rows,
        'training.accumulation': 1,
    }
    return FrozenConfigDict(overlay(config, changes))


def restore_params(setup: Setup, workdir: Workdir, which: str):
    """(step, params, metadata) of 'best', 'latest' or the number of a step."""
    step = {'best': 'best', 'latest': None}.get(which, which)
    if step not in ('best', None):
        if not which.isdigit():
            raise UserError(f'--step={which}: expected best, latest or the number of a step')
        step = int(which)
    checkpoints = open_checkpoints(workdir, setup.config)
    try:
        return checkpoints.restore_params(setup.abstract.params, step)
    finally:
        checkpoints.close()


def open_checkpoints(workdir: Workdir, config, peers: Peers = ALONE) -> Checkpoints:
    """The checkpoints of a run; `peers` are the processes that save together."""
    return Checkpoints(workdir.checkpoints, config.checkpoint.keep, announce=console.print, peers=peers)


def prepare_data(config) -> Prepared:
    """Corpus, tokenizer and tokens of a config; what is there already is not made again."""
    data = config.data
    return prepare_corpus(data.corpus, data.path, data.text_key, data.tokenizer, data.directory, console.print)


def make_rows(config, prepared: Prepared) -> dict[str, Rows]:
    """The rows of every split; says how many documents are in none of them."""
    rows = {name: rows_of(config, tokens, prepared.tokenizer) for name, tokens in prepared.splits.items()}
    for name, split in rows.items():
        if split.left_out:
            console.print(
                f'Left out: {split.left_out:,} of {split.tokens.num_documents:,} documents of {name}, which do not fit '
                f'into a row of {config.data.length} tokens.'
            )
    return rows


def on_one_device(params, setup: Setup):
    """Parameters for decoding: on one device, which draws a few tokens as fast as many; parts of fsdp stay apart."""
    return params if setup.config.sharding.fsdp > 1 else jax.device_put(params, jax.local_devices()[0])
