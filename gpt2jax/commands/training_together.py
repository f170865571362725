"""`launch.py train_together`."""

import contextlib
from pathlib import Path

import jax

import gpt2jax
from gpt2jax.commands.evaluating import print_evaluation
from gpt2jax.commands.runs import console, make_rows, prepare_data
from gpt2jax.commands.training import about, check_not_imported, check_same_run, now, write_samples
from gpt2jax.config import default_config, overlay, to_dict
from gpt2jax.data import Prepared
from gpt2jax.describe import config_table, tree_bytes
from gpt2jax.errors import UserError
from gpt2jax.processes import Processes, find_cluster
from gpt2jax.report import write_report
from gpt2jax.sharding import keep_compiled
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.group import GroupSetup, check_together, own_values, start_group_devices
from gpt2jax.training.group_loop import LEAST_KEPT, GroupLoop, Member, own_part
from gpt2jax.training.metrics import MetricWriter, SilentWriter
from gpt2jax.training.progress import track
from gpt2jax.training.state import rest_of
from gpt2jax.training.workdir import Workdir
from gpt2jax.validation import resolve


def train_together(config, seeds: str, learning_rates: str, folders: list[str], command: str) -> None:
    """Trains, or continues, runs that differ in their seed and learning rate alone, as one program.

    Args:
      config: as a recipe returns it.
      seeds, learning_rates: '0,1,2' and '1e-3,2e-3,4e-3': one of each run, or one for all; '': the config's.
      folders: of the runs; or one, in which each gets its own.
      command: what the user typed, for the reports.

    Raises:
      Stopped: asked to stop; everything is saved.
      UserError: whatever the user can put right; also where a run failed, after the others have ended.
    """
    changes = run_changes(seeds, learning_rates)
    configs = [resolve(overlay(config, own)) for own in changes]
    workdirs = [Workdir(path) for path in run_folders(folders, changes)]
    check_together(configs)
    if find_cluster(Processes()) is not None:
        raise UserError('train_together is for one process alone; on several hosts use train for each run')
    start_group_devices(configs)
    keep_compiled(config.runtime.compilation_cache)
    with contextlib.ExitStack() as stack:
        for workdir, own in zip(workdirs, configs, strict=True):
            check_not_imported(workdir)
            check_same_run(workdir, own)
            stack.enter_context(workdir.locked())
        setup = GroupSetup.from_configs(configs)
        console.print(config_table(configs[0], default_config()))
        devices = setup.mesh.size
        console.print(f'{len(configs)} runs as one program on {devices} device{"s" if devices > 1 else ""}')
        prepared = prepare_data(configs[0])
        size = (configs[0].checkpoint.keep + 2) * tree_bytes((setup.abstract.params, rest_of(setup.abstract)))
        for workdir, own in zip(workdirs, configs, strict=True):
            prepared.tokenizer.save(workdir.path)
            workdir.save_config(to_dict(own))
            workdir.check_writable_and_space(size)
        run_group(setup, workdirs, prepared, command)


def run_changes(seeds: str, learning_rates: str) -> list[dict]:
    """'0,1' and '' -> [{'seed': 0}, {'seed': 1}]: what each run changes of the config."""
    try:
        own = {'seed': [int(text) for text in seeds.split(',') if seeds]}
        own['optimizer.learning_rate'] = [float(text) for text in learning_rates.split(',') if learning_rates]
    except ValueError as error:
        raise UserError(
            f'--seeds={seeds} --learning_rates={learning_rates}: expected numbers, as 0,1,2: {error}'
        ) from None
    own = {key: values for key, values in own.items() if values}
    count = max(map(len, own.values()), default=0)
    if count < 2:
        raise UserError(
            'train_together needs two or more runs: --seeds=0,1,2, or --learning_rates=1e-3,2e-3; else train'
        )
    if any(len(values) not in (1, count) for values in own.values()):
        raise UserError(f'--seeds={seeds} --learning_rates={learning_rates}: give one of each run, or one for all')
    changes = [{key: values[i % len(values)] for key, values in own.items()} for i in range(count)]
    if any(one in changes[:i] for i, one in enumerate(changes)):
        raise UserError(f'--seeds={seeds} --learning_rates={learning_rates}: two runs would be the same')
    return changes


def run_folders(folders: list[str], changes: list[dict]) -> list[str]:
    """A folder for each run."""
    if len(folders) == len(changes):
        paths = folders
    elif len(folders) == 1:
        words = {'seed': 'seed', 'optimizer.learning_rate': 'rate'}
        names = ['-'.join(f'{words[key]}{value}' for key, value in own.items()) for own in changes]
        paths = [f'{folders[0].rstrip("/")}/{name}' for name in names]
    else:
        raise UserError(
            f'--workdir: {len(folders)} were given for {len(changes)} runs; give one for all, or one of each'
        )
    if len({str(Path(path)) for path in paths}) < len(paths):
        raise UserError('--workdir: two runs have the same folder')
    return paths


def run_group(setup: GroupSetup, workdirs: list[Workdir], prepared: Prepared, command: str) -> None:
    """Trains what is left of the runs in folders that this process holds, and says how each ended."""
    group = [own_values(run.config) for run in setup.runs]
    record = about(setup.runs[0], command) | {'device': f'{setup.mesh.size} x {jax.devices()[0].device_kind}'}
    record |= {'together': group, 'started': now()}
    members = [make_member(run, workdir, prepared, record) for run, workdir in zip(setup.runs, workdirs, strict=True)]
    check_same_group(members, workdirs, group)

    def publish() -> None:
        for workdir in workdirs:
            workdir.publish()

    try:
        loop = GroupLoop(setup, make_rows(setup.config, prepared), prepared.tokenizer, members, publish)
        results = train_group(loop, workdirs, record)
        params = jax.device_get(loop.evaluation_params())
        for place, member in loop.alive.items():
            workdir = workdirs[place]
            console.print(f'\n{workdir.path}', style='bold', soft_wrap=True)
            print_evaluation(results[place], 'validation', setup.config.training.steps, member.setup.config)
            own = jax.device_put(own_part(params, place), jax.devices()[0])
            write_samples(member.setup, own, setup.config.training.steps, prepared.tokenizer, workdir)
            html, _ = write_report(workdir.path, to_dict(default_config()))
            workdir.publish()
            console.print(f'report   {html}', soft_wrap=True)
    finally:
        for member in members:
            member.checkpoints.close()
    failed = {
        str(workdir.path): member.error for workdir, member in zip(workdirs, members, strict=True) if member.error
    }
    if failed:
        raise UserError(
            f'{len(failed)} of {len(members)} runs failed; the others are at their end:\n'
            + '\n'.join(f'  {path}: {error}' for path, error in failed.items())
        )


def train_group(loop: GroupLoop, workdirs: list[Workdir], record: dict) -> list[dict[str, float]]:
    """Trains to the last step; returns the evaluation of each run after it."""
    steps, start = loop.config.training.steps, loop.restore()
    if start >= steps:
        console.print(f'finished already, at step {start}; evaluating again')
        results = loop.evaluate(track)
    else:
        if start:
            console.print(f'continuing from step {start} of {steps}')
        with contextlib.ExitStack() as stack:
            for place, member in loop.alive.items():
                workdirs[place].write_json('run.json', record)
                member.writer = stack.enter_context(MetricWriter(workdirs[place].path, start))
            results = loop.run(start, SilentWriter())
    finished = record | {'finished': now(), 'compile_seconds': loop.compile_seconds}
    for place in loop.alive:
        if start < steps or 'finished' not in workdirs[place].read_json('run.json'):
            workdirs[place].write_json('run.json', finished)
    return results


def make_member(run, workdir: Workdir, prepared: Prepared, record: dict) -> Member:
    """A run of a group with its folder."""
    config = run.config
    metadata = {'config': to_dict(config), 'data': prepared.folder.name, 'version': gpt2jax.__version__}
    checkpoints = Checkpoints(workdir.checkpoints, max(config.checkpoint.keep, LEAST_KEPT), announce=console.print)

    def note_failure(error: str) -> None:
        workdir.write_json('run.json', record | {'failed': now(), 'error': error})

    return Member(run, checkpoints, metadata, note_failure)


def check_same_group(members: list[Member], workdirs: list[Workdir], group: list[dict]) -> None:
    """Refuses to set back a run that was begun alone, or with others than these."""
    for member, workdir in zip(members, workdirs, strict=True):
        if not member.checkpoints.steps():
            continue
        begun = workdir.read_json('run.json').get('together', [])
        if len(begun) != len(group) or any(own not in group for own in begun):
            company = f'with {len(begun) - 1} others that are not the same now' if begun else 'alone'
            raise UserError(
                f'{workdir.path} was begun {company}, so it cannot go on with these runs; continue it with train, '
                'or choose another --workdir'
            )
