"""`launch.py train`."""

import contextlib
import datetime
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version

import jax
from jax.sharding import NamedSharding, PartitionSpec

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
from gpt2jax.processes import ALONE, Peers, Processes, find_cluster, is_supervised, join, supervise
from gpt2jax.processes.peers import CommonError
from gpt2jax.processes.supervisor import end_with_supervisor, local_commands, this_command
from gpt2jax.report import write_report
from gpt2jax.sharding import keep_compiled, start_devices
from gpt2jax.training.loop import Loop
from gpt2jax.training.metrics import MetricWriter, SilentWriter
from gpt2jax.training.progress import track
from gpt2jax.training.setup import Setup
from gpt2jax.training.starting import Start, plan_start, resolve_saved, starting_params
from gpt2jax.training.startup import check_processes
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


def train(config, path: str, command: str, processes: tuple = ()) -> int:
    """Trains, or continues, or says that the run is finished; then evaluates, samples and reports.

    Args:
      config: as a recipe returns it.
      path: the folder of the run.
      command: what the user typed, for the report.
      processes: values of gpt2jax.processes.Processes: what the user says of processes that train together.

    Returns:
      The exit status, which is not 0 only where processes were started that failed.

    Raises:
      Stopped: asked to stop; everything is saved.
      UserError: whatever the user can put right.
    """
    config, processes = resolve(config), Processes(*processes)
    if processes.local > 1:
        return supervise(local_commands(processes.local))
    cluster = find_cluster(processes)
    if cluster is not None and not is_supervised():
        return supervise([this_command()])
    if cluster is not None:
        end_with_supervisor()
    start_devices(config, cluster.count if cluster else 1)
    peers = join(cluster, flatten(config), config.runtime.start_seconds, config.runtime.patience_seconds)
    with peers.watched(), only_first_speaks(peers):
        train_together(config, Workdir(path), command, peers)
    return 0


def train_together(config, workdir: Workdir, command: str, peers: Peers) -> None:
    """`train`, in each of the processes; process 0 alone writes into the folder of the run, and speaks."""
    check_not_imported(workdir)
    check_same_run(workdir, config)
    keep_compiled(config.runtime.compilation_cache)
    first = peers.index == 0
    with workdir.locked() if first else contextlib.nullcontext():
        console.print(config_table(config, default_config()))
        setup = Setup.from_config(config)  # before the data is prepared: it may refuse the devices
        check_processes(setup, workdir.store, peers, config.runtime.start_seconds)
        start_from = find_start(setup, workdir)
        peers.at('preparing the data', unhurried=True)
        prepared = prepare_data(config)
        check_same_data(peers.exchange('data', prepared.folder.name), peers)
        checkpoint = tree_bytes((setup.abstract.params, rest_of(setup.abstract)))
        if first:
            prepared.tokenizer.save(workdir.path)
            workdir.save_config(to_dict(config))
            workdir.check_writable_and_space(checkpoint * (config.checkpoint.keep + 2))
        peers.exchange('folder ready', True)
        state = run(setup, workdir, prepared, command, peers, start_from)
        peers.at('sampling and reporting', unhurried=True)
        params = on_this_process(evaluation_params(state.opt_state, state.params), setup, peers)
        if first:
            write_samples(setup, params, int(state.step), prepared.tokenizer, workdir)
            html, png = write_report(workdir.path, to_dict(default_config()))
            workdir.publish()
            console.print(f'report   {html}\npicture  {png}')
            if workdir.store != workdir.path:
                console.print(f'both are also in {workdir.store}')
        peers.exchange('reported', True)


def run(
    setup: Setup,
    workdir: Workdir,
    prepared: Prepared,
    command: str,
    peers: Peers = ALONE,
    start_from: Start | None = None,
):
    """Trains what is left of a run in a folder that process 0 holds; returns the final state.

    Args:
      start_from: whose parameters a new run starts from; None: the seed's.
    """
    config = setup.config
    first = peers.index == 0
    publish = workdir.publish if first else lambda: None
    metadata = {'config': to_dict(config), 'data': prepared.folder.name, 'version': gpt2jax.__version__}
    checkpoints = open_checkpoints(workdir, config, peers)
    try:
        loop = Loop(setup, make_rows(config, prepared), prepared.tokenizer, checkpoints, metadata, peers, publish)
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
        if first:
            workdir.write_json('run.json', record)
        with MetricWriter(workdir.path, start) if first else SilentWriter() as writer:
            result = loop.run(start, writer)
        if first:
            workdir.write_json('run.json', record | {'finished': now(), 'compile_seconds': loop.compile_seconds})
        print_evaluation(result, 'validation', config.training.steps, config)
        return loop.state
    finally:
        checkpoints.close()


def on_this_process(params, setup: Setup, peers: Peers):
    """The parameters where one process alone can use them; all processes take part."""
    if peers.count == 1:
        return params
    whole = NamedSharding(setup.mesh, PartitionSpec())
    gathered = jax.jit(lambda tree: tree, out_shardings=whole)(params)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), gathered)


def check_same_data(folders: list[str], peers: Peers) -> None:
    """Refuses processes that have prepared other text, or another tokenizer, than process 0; `folders` are of all."""
    for index, folder in enumerate(folders):
        if folder != folders[0]:
            raise CommonError(
                f'{peers.name(index)} has other data than {peers.name(0)} ({folder}, not {folders[0]}): '
                'config.data.path or data.directory holds other files there; copy them, or use a folder that all share'
            )


@contextlib.contextmanager
def only_first_speaks(peers: Peers) -> Iterator[None]:
    """Drops what the other processes than process 0 would print: they would say the same."""
    if peers.index == 0:
        yield
        return
    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        yield


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


def write_samples(setup: Setup, params, step: int, tokenizer, workdir: Workdir) -> None:
    """Prints the samples that the config asks for and keeps them in samples.json."""
    config = setup.config
    samples = sample_texts(setup.model, params, tokenizer, config, config.sampling.prompt, config.seed, console)
    workdir.write_json('samples.json', [entry | {'step': step} for entry in samples])


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
