"""`launch.py train`."""

import datetime
import platform
from importlib.metadata import version

import jax

import gpt2jax
from gpt2jax.commands.evaluating import print_evaluation
from gpt2jax.commands.runs import console, make_rows, open_checkpoints, prepare_data
from gpt2jax.config import default_config, flatten, to_dict
from gpt2jax.data import Prepared, Tokenizer
from gpt2jax.describe import config_table, tree_bytes
from gpt2jax.errors import UserError
from gpt2jax.generation import sample_texts
from gpt2jax.models.cost import count_parameters
from gpt2jax.optimizers import evaluation_params
from gpt2jax.report import write_report
from gpt2jax.sharding import keep_compiled, start_devices
from gpt2jax.training.loop import Loop
from gpt2jax.training.metrics import MetricWriter
from gpt2jax.training.progress import track
from gpt2jax.training.setup import Setup
from gpt2jax.training.starting import Start, plan_start, resolve_saved, starting_params
from gpt2jax.training.state import rest_of
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
PACKAGES = (
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'tensorflow-datasets',
    'tokenizers',
    'safetensors',
    'numpy',
)


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
    check_not_imported(workdir)
    check_same_run(workdir, config)
    start_devices(config)
    keep_compiled(config.runtime.compilation_cache)
    workdir.lock()
    try:
        console.print(config_table(config, default_config()))
        setup = Setup.from_config(config)  # before the data is prepared: it may refuse the devices
        start_from = find_start(setup, workdir)
        prepared = prepare_data(config)
        prepared.tokenizer.save(workdir.path)
        workdir.save_config(to_dict(config))
        checkpoint = tree_bytes((setup.abstract.params, rest_of(setup.abstract)))
        workdir.check_writable_and_space(checkpoint * (config.checkpoint.keep + 2))
        state = run(setup, workdir, prepared, command, start_from)
        write_samples(setup, state, prepared.tokenizer, workdir)
        html, png = write_report(workdir.path, to_dict(default_config()))
        console.print(f'report   {html}\npicture  {png}')
    finally:
        workdir.unlock()


def run(setup: Setup, workdir: Workdir, prepared: Prepared, command: str, start_from: Start | None = None):
    """Trains what is left of a run in a folder that this process holds; returns the final state.

    Args:
      start_from: whose parameters a new run starts from; None: the seed's.
    """
    config = setup.config
    metadata = {'config': to_dict(config), 'data': prepared.folder.name, 'version': gpt2jax.__version__}
    checkpoints = open_checkpoints(workdir, config)
    try:
        loop = Loop(setup, make_rows(config, prepared), prepared.tokenizer, checkpoints, metadata)
        start = loop.restore()
        if start_from is not None:
            params = starting_params(start_from, loop.state.params, console.print)
            loop.state = setup.with_params(loop.state, params)
            report_start(start_from, prepared.tokenizer)
        if start >= config.training.steps:
            console.print(f'{workdir.path}: finished already, at step {start}; evaluating it again')
            print_evaluation(loop.evaluate(track), 'validation', start, config)
            return loop.state
        if start:
            console.print(f'continuing {workdir.path} from step {start} of {config.training.steps}')
        record = about(setup, command) | {'started': now()}
        workdir.write_json('run.json', record)
        with MetricWriter(workdir.path, start) as writer:
            result = loop.run(start, writer)
        workdir.write_json('run.json', record | {'finished': now(), 'compile_seconds': loop.compile_seconds})
        print_evaluation(result, 'validation', config.training.steps, config)
        return loop.state
    finally:
        checkpoints.close()


def check_not_imported(workdir: Workdir) -> None:
    """Refuses to train in the folder of imported weights, which stay what they were."""
    if workdir.imported() is not None:
        raise UserError(
            f'{workdir.path} holds imported weights, which are not trained in place; start a run from them: '
            f'--config.training.init_from={workdir.path} and another --workdir'
        )


def find_start(setup: Setup, workdir: Workdir) -> Start | None:
    """What `training.init_from` gives a new run; a run that goes on has its own parameters already."""
    checkpoints = open_checkpoints(workdir, setup.config)
    goes_on = bool(checkpoints.steps())
    checkpoints.close()
    if goes_on or not setup.config.training.init_from:
        return None
    return plan_start(setup.config, setup.abstract.params, setup.mesh)


def report_start(start: Start, tokenizer) -> None:
    """Says what was loaded, what is new and what was left, and whether the ids mean what they meant."""
    console.print('\n'.join(start.lines()))
    if Tokenizer.load(start.workdir.path).fingerprint != tokenizer.fingerprint:
        console.print(
            f'warning: {start.workdir.path} has another tokenizer, so its token embeddings are those of other tokens; '
            f'config.data.tokenizer=file:{start.workdir.path} is the one they were trained with'
        )


def check_same_run(workdir: Workdir, config) -> None:
    """Refuses to continue a run with other data, another objective or another model; shows what else changed."""
    saved = workdir.saved_config()
    if saved is None:
        return
    if flatten(config).keys() - flatten(saved).keys():  # begun by an earlier version: what it lacks is at its default
        saved = to_dict(resolve_saved(saved, workdir))
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


def write_samples(setup: Setup, state, tokenizer, workdir: Workdir) -> None:
    """Prints the samples that the config asks for and keeps them in samples.json."""
    config, params = setup.config, evaluation_params(state.opt_state, state.params)
    samples = sample_texts(setup.model, params, tokenizer, config, config.sampling.prompt, config.seed, console)
    workdir.write_json('samples.json', [entry | {'step': int(state.step)} for entry in samples])


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
