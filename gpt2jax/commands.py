"""What the subcommands of launch.py do: each takes a resolved config or the folder of a run."""

import datetime
import platform
from importlib.metadata import version

import jax
from ml_collections import FrozenConfigDict
from rich.console import Console

import gpt2jax
from gpt2jax.config import default_config, flatten, overlay, to_dict
from gpt2jax.data import Prepared, Tokenizer
from gpt2jax.data import prepare as prepare_corpus
from gpt2jax.data.rows import Rows
from gpt2jax.describe import config_table, print_description, tree_bytes
from gpt2jax.errors import UserError
from gpt2jax.generation import sample_texts
from gpt2jax.models.cost import count_parameters
from gpt2jax.report import write_report
from gpt2jax.sharding import keep_compiled, start_devices
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.loop import Loop, check_same_text, evaluate_rows
from gpt2jax.training.metrics import MetricWriter
from gpt2jax.training.progress import track
from gpt2jax.training.setup import Setup
from gpt2jax.training.workdir import Workdir, differences
from gpt2jax.validation import resolve

# What a resumed run may not change, and the keys of these sections that change no value, so that it may.
FIXED_SECTIONS = ('data', 'objective', 'model')
FREE_KEYS = (
    'data.directory',
    'data.path',
    'data.prefetch',
    'model.scan_layers',
    'model.remat',
    'model.attention.kernel',
)
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets', 'tokenizers', 'numpy')

console = Console(highlight=False, markup=False)


def train(config, path: str, command: str) -> None:
    """Trains, or continues, or says that the run is finished; then evaluates, samples and reports.

    Args:
      config: as a recipe returns it.
      path: the folder of the run.
      command: what the user typed, for the report.

    Raises:
      Stopped: asked to stop; everything is saved.
      UserError: whatever the user can put right.
    """
    config = resolve(config)
    workdir = Workdir(path)
    check_same_run(workdir, config)
    start_devices(config)
    keep_compiled(config.runtime.compilation_cache)
    workdir.lock()
    try:
        console.print(config_table(config, default_config()))
        setup = Setup.from_config(config)  # before the data is prepared: it may refuse the devices
        prepared = prepare_data(config)
        prepared.tokenizer.save(workdir.path)
        workdir.save_config(to_dict(config))
        workdir.check_writable_and_space(tree_bytes(setup.abstract) * (config.checkpoint.keep + 2))
        state = run(setup, workdir, prepared, command)
        write_samples(setup, state, prepared.tokenizer, workdir)
        html, png = write_report(workdir.path, to_dict(default_config()))
        console.print(f'report   {html}\npicture  {png}')
    finally:
        workdir.unlock()


def run(setup: Setup, workdir: Workdir, prepared: Prepared, command: str):
    """Trains what is left of a run in a folder that this process holds; returns the final state."""
    config = setup.config
    metadata = {'config': to_dict(config), 'data': prepared.folder.name, 'version': gpt2jax.__version__}
    checkpoints = open_checkpoints(workdir, config)
    try:
        loop = Loop(setup, make_rows(config, prepared), prepared.tokenizer, checkpoints, metadata)
        start = loop.restore()
        if start >= config.training.steps:
            console.print(f'{workdir.path}: finished already, at step {start}; evaluating it again')
            print_evaluation(loop.evaluate(track), 'validation', start)
            return loop.state
        if start:
            console.print(f'continuing {workdir.path} from step {start} of {config.training.steps}')
        record = about(setup, command) | {'started': now()}
        workdir.write_json('run.json', record)
        with MetricWriter(workdir.path, start) as writer:
            result = loop.run(start, writer)
        workdir.write_json('run.json', record | {'finished': now(), 'compile_seconds': loop.compile_seconds})
        print_evaluation(result, 'validation', config.training.steps)
        return loop.state
    finally:
        checkpoints.close()


def evaluate(path: str, split: str, which: str) -> dict[str, float]:
    """Bits per byte of a run on all of a split, each token once.

    Args:
      split: train, validation or test.
      which: 'best', 'latest' or the number of a step.
    """
    setup, workdir = open_run(path)
    prepared = prepare_data(setup.config)
    rows = make_rows(setup.config, prepared)
    if split not in rows:
        raise UserError(f'--split={split}: there is no such split; one of: {", ".join(rows)}')
    step, params, metadata = restore_params(setup, workdir, which)
    check_same_text(metadata, {'data': prepared.folder.name})
    byte_lengths = prepared.tokenizer.byte_lengths
    result = evaluate_rows(setup, setup.evaluation_step(), params, rows[split], byte_lengths, 0, track)
    print_evaluation(result, split, step)
    return result


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


def prepare(config) -> None:
    """Builds the corpus and the tokens of a config, and says where they are."""
    prepared = prepare_data(resolve(config))
    console.print(prepared.description)


def describe(config) -> None:
    """Prints what a config would run."""
    print_description(resolve(config), default_config(), console)


def check_same_run(workdir: Workdir, config) -> None:
    """Refuses to continue a run with other data, another objective or another model; shows what else changed."""
    saved = workdir.saved_config()
    if saved is None:
        return
    lines = differences(saved, to_dict(config), list(to_dict(config)))
    fixed = [line for line in lines if line.startswith(FIXED_SECTIONS) and not line.startswith(FREE_KEYS)]
    if fixed:
        raise UserError(
            f'{workdir.path} holds a run of another config:\n  '
            + '\n  '.join(fixed)
            + '\nChoose another --workdir, or take these back to continue that run.'
        )
    if lines:
        console.print('changed since this run began:\n  ' + '\n  '.join(lines))


def open_run(path: str, changes: dict | None = None) -> tuple[Setup, Workdir]:
    """The parts of a finished or running run, from the config in its folder."""
    workdir = Workdir(path)
    saved = workdir.saved_config()
    if saved is None:
        raise UserError(
            f'{workdir.path} holds no run (no config.json); train one with: launch.py train --workdir={path}'
        )
    config = resolve(overlay(overlay(default_config(), flatten(saved)), changes or {}))
    start_devices(config)
    keep_compiled(config.runtime.compilation_cache)
    return Setup.from_config(for_these_devices(config)), workdir


def for_these_devices(config):
    """The config of a trained run, for reading it on whatever devices are here: other ones than it was trained on."""
    count, fsdp = jax.device_count(), config.sharding.fsdp
    rows = -(-config.evaluation.batch_size // count) * count
    changes = {
        'sharding.data': -1,
        'sharding.fsdp': fsdp if count % fsdp == 0 else 1,
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


def open_checkpoints(workdir: Workdir, config) -> Checkpoints:
    """The checkpoints of a run."""
    return Checkpoints(workdir.path / 'checkpoints', config.checkpoint.keep, announce=console.print)


def prepare_data(config) -> Prepared:
    """Corpus, tokenizer and tokens of a config; what is there already is not made again."""
    data = config.data
    return prepare_corpus(data.corpus, data.path, data.text_key, data.tokenizer, data.directory, console.print)


def make_rows(config, prepared: Prepared) -> dict[str, Rows]:
    """The rows of every split."""
    tokenizer, data = prepared.tokenizer, config.data
    return {
        name: Rows(tokens, data.length, data.cross_documents, tokenizer.end_of_text, tokenizer.pad)
        for name, tokens in prepared.splits.items()
    }


def write_samples(setup: Setup, state, tokenizer, workdir: Workdir) -> None:
    """Prints the samples that the config asks for and keeps them in samples.json."""
    config = setup.config
    samples = sample_texts(setup.model, state.params, tokenizer, config, config.sampling.prompt, config.seed, console)
    workdir.write_json('samples.json', [entry | {'step': int(state.step)} for entry in samples])


def on_one_device(params, setup: Setup):
    """Parameters for decoding: on one device, which draws a few tokens as fast as many; parts of fsdp stay apart."""
    return params if setup.config.sharding.fsdp > 1 else jax.device_put(params, jax.local_devices()[0])


def print_evaluation(result: dict[str, float], split: str, step: int) -> None:
    """One line a figure."""
    console.print(
        f'step {step}, {split}: {result["bits_per_byte"]:.4f} bits per byte, '
        f'{result["nats_per_token"]:.4f} nats per token, perplexity {result["perplexity"]:.2f} '
        f'({result["predicted"]:,} tokens, {result["bytes"]:,} bytes)',
        style='bold',
    )


def about(setup: Setup, command: str) -> dict:
    """What a report must say of the program and the machine."""
    devices = jax.devices()
    return {
        'command': command,
        'versions': {'gpt2jax': gpt2jax.__version__} | {name: version(name) for name in PACKAGES},
        'python': platform.python_version(),
        'platform': platform.platform(),
        'device': f'{len(devices)} x {devices[0].device_kind}',
        'parameters': count_parameters(setup.abstract.params),
    }


def now() -> str:
    """Local time to the second, with its zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec='seconds')
