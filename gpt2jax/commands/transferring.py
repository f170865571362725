"""`launch.py import` and `launch.py export`."""

from pathlib import Path

import jax

import gpt2jax
from gpt2jax import interop
from gpt2jax.commands.runs import console, open_checkpoints, open_run, restore_params
from gpt2jax.commands.training import about, now
from gpt2jax.config import default_config, overlay, to_dict
from gpt2jax.data import Tokenizer, make_tokenizer, vocabulary_of
from gpt2jax.errors import UserError
from gpt2jax.interop.importing import Source
from gpt2jax.models.cost import count_parameters
from gpt2jax.sharding import start_devices
from gpt2jax.training.progress import track
from gpt2jax.training.setup import Setup
from gpt2jax.training.workdir import Workdir
from gpt2jax.validation import resolve


def import_model(folder: str, path: str, tokenizer: str | None, command: str) -> None:
    """Makes a run of a Hugging Face folder: config.json, tokenizer.json, run.json and checkpoints/0.

    Args:
      folder: with config.json, safetensors files, and a tokenizer.
      path: of the run; it must hold none.
      tokenizer: name of the one to take instead of the folder's; None: the folder's.
      command: what the user typed.

    Raises:
      UserError: the folder is not what it should be, or the run is there already; nothing is left behind.
    """
    source = interop.open_folder(Path(folder).expanduser())
    found = find_tokenizer(source.folder, tokenizer)
    workdir = Workdir(path)
    if workdir.saved_config() is not None:
        raise UserError(f'{workdir.path} holds a run already: choose another --workdir')
    name = found.name if found.name in ('gpt2', 'bytes') else f'file:{source.folder}'
    config = resolve(overlay(default_config(), source.changes | {'data.tokenizer': name}))
    setup = import_setup(config)
    abstract = setup.abstract.params
    left = interop.check(source, config.model, abstract)
    workdir.lock()
    try:
        workdir.check_writable_and_space(2 * 4 * count_parameters(abstract))
        params = interop.load(source, config.model, abstract, track)
        found.save(workdir.path)
        record = about(setup, command) | {'imported': describe_source(source), 'finished': now()}
        save(workdir, config, params)
        workdir.write_json('run.json', record)
        # Last, since a folder with a config is a run.
        workdir.save_config(to_dict(config) | {'data': to_dict(config.data) | {'tokenizer': saved_name(name, workdir)}})
    finally:
        workdir.unlock()
    report_import(source, workdir, found, abstract, left)


def export_model(path: str, folder: str, which: str, dtype: str) -> None:
    """Writes a run as a folder that AutoModelForCausalLM or AutoModelForMaskedLM and AutoTokenizer load.

    Args:
      path: of the run.
      folder: to write; it must be missing or empty.
      which: 'best', 'latest' or the number of a step.
      dtype: float32, bfloat16 or float16.

    Raises:
      UserError: transformers has no such model (all keys in the way are listed), or the folder cannot be written.
    """
    target = Path(folder).expanduser().absolute()
    interop.check_target(target, dtype)
    setup, workdir = open_run(path, {'sharding.cpu_devices': 1})  # each device of a CPU would hold a copy
    config = setup.config
    family, hf_config = interop.express(config, vocabulary_of(config.data.tokenizer), encoder_only(workdir))
    step, params, _ = restore_params(setup, workdir, which)
    tokenizer = Tokenizer.load(workdir.path)
    interop.write_folder(target, family, hf_config, config.model, params, tokenizer, dtype, track)
    console.print(
        f'{target}: {hf_config["architectures"][0]} of step {step}, {dtype}, '
        f'{count_parameters(setup.abstract.params):,} parameters'
    )


def find_tokenizer(folder: Path, name: str | None):
    """The one that the user names, or else the folder's."""
    try:
        return make_tokenizer(name or f'file:{folder}')
    except UserError as error:
        raise error if name else UserError(f'{error}; --tokenizer names another one (gpt2, file:FOLDER)') from error


def import_setup(config) -> Setup:
    """The parts of a run that is read onto all devices at once, a part of each parameter on each; a CPU is one."""
    here = overlay(config, {'sharding.cpu_devices': 1})
    start_devices(here)
    count = jax.device_count()
    return Setup.from_config(
        overlay(here, {'sharding.fsdp': count, 'training.batch_size': count, 'evaluation.batch_size': count})
    )


def saved_name(name: str, workdir: Workdir) -> str:
    """What a run's config says of its tokenizer: a file is the copy in the run's own folder."""
    return f'file:{workdir.path}' if name.startswith('file:') else name


def save(workdir: Workdir, config, params) -> None:
    """checkpoints/0, of parameters alone, trained on no text that is known here."""
    checkpoints = open_checkpoints(workdir, config)
    try:
        metadata = {'config': to_dict(config), 'data': None, 'version': gpt2jax.__version__}
        checkpoints.save(0, params, {}, metadata)
    finally:
        checkpoints.close()


def describe_source(source: Source) -> dict:
    """What run.json says of imported weights."""
    return {
        'from': str(source.folder.absolute()),
        'model_type': source.model_type,
        'architectures': source.hf_config.get('architectures'),
        'predicts': source.predicts,
        'sha256': source.digests(),
    }


def encoder_only(workdir: Workdir) -> bool:
    """Whether a run is imported and came without a head to predict with."""
    imported = workdir.imported()
    return imported is not None and not imported['predicts']


def report_import(source: Source, workdir: Workdir, tokenizer, abstract, left: list[str]) -> None:
    """What was imported, what was not, and what to do next."""
    console.print(
        f'{workdir.path}: {source.model_type} from {source.folder}, {count_parameters(abstract):,} parameters, '
        f'tokenizer {tokenizer.name}'
    )
    if left:
        console.print(f'left: {", ".join(left[:6])}' + (f' and {len(left) - 6} more' if len(left) > 6 else ''))
    if not source.predicts:
        console.print(
            'These weights have no head that predicts tokens: embed and attention mean something, evaluate and fill '
            'do not until it is trained (config.training.init_from).'
        )
