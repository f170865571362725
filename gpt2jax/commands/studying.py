"""`launch.py study`, `report` and `compare`."""

import contextlib
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from rich.table import Table

from gpt2jax.commands.runs import console, prepare_data
from gpt2jax.errors import UserError
from gpt2jax.files import describe_bytes
from gpt2jax.report.study_files import write_study_report
from gpt2jax.studies.board import CellsBoard
from gpt2jax.studies.cells import Cell, forget_attempts, progress_of
from gpt2jax.studies.costs import run_bytes
from gpt2jax.studies.evidence import Evidence, runs_evidence, study_evidence
from gpt2jax.studies.executors import make_executor
from gpt2jax.studies.layout import Layout, lay_out
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.results import read_result
from gpt2jax.studies.running import run
from gpt2jax.studies.study import Experiment, load_experiment
from gpt2jax.studies.words import spent
from gpt2jax.training.display import clock_time, short_number
from gpt2jax.training.signals import stop_on_signals
from gpt2jax.training.workdir import Workdir, check_space

FAILED_CELLS = 1  # exit status of a study that is at its end with runs that failed
USUAL_SHARE = 0.5  # of the speed of a matrix product that training reaches: 0.53 was measured of configs/laptop.py


def study(path: str, options: dict, command: str) -> int:
    """Runs what is missing of a study, then renders its report.

    Args:
      path: of the experiment file.
      options: the values of the command's flags, by name.
      command: what the user typed, for the report.

    Returns:
      0, or FAILED_CELLS.

    Raises:
      Stopped: asked to stop; everything is saved.
      UserError: whatever the user can put right.
    """
    for name in ('parallel', 'together'):
        if options[name] < 1:
            raise UserError(f'--{name}={options[name]}: must be at least 1')
    experiment, directory = open_experiment(path, options)
    jax.config.update('jax_platforms', 'cpu')  # the runs are other processes, which need the accelerator
    if options['dry_run']:
        show_matrix(experiment, lay_out(experiment, directory, prepare_once(), lambda cells: None, assume=True))
        return 0
    executor = make_executor(options['executor'], options['option'], directory)
    with Workdir(directory).locked(), stop_on_signals() as stop:

        def run_stage(cells: list[Cell]) -> None:
            if options['retry_failed']:
                for cell in cells:
                    if progress_of(cell).status == 'failed':
                        forget_attempts(cell)
            if not any(progress_of(cell).status in ('waiting', 'begun') for cell in cells):
                return
            missing = [cell for cell in cells if cell.role != 'suites' and progress_of(cell).status == 'waiting']
            check_space(directory, sum(run_bytes(cell.config) for cell in missing), f'{len(missing)} runs')
            # Runs that measure seconds must not disturb each other.
            parallel = 1 if cells[0].role == 'speed' else options['parallel']
            with CellsBoard(console, cells) as board:
                run(cells, executor, parallel, board, stop, options['together'])

        layout = lay_out(experiment, directory, prepare_once(), run_stage)
        evidence = write_report_of(experiment, directory, layout, command)
    failed = [run for run in evidence.results if run.status == 'failed']
    for one in failed:
        console.print(f'failed: {one.arm}, seed {one.seed}: {one.error} ({one.folder})', style='red')
    return FAILED_CELLS if failed else 0


def report(path: str, options: dict, command: str) -> None:
    """Renders the report of a study from what is on disk; nothing runs."""
    experiment, directory = open_experiment(path, options)
    if not directory.is_dir():
        raise UserError(f'{directory}: there is no such study yet; python launch.py study --experiment={path}')
    jax.config.update('jax_platforms', 'cpu')
    layout = lay_out(experiment, directory, prepare_once(), lambda cells: None)
    write_report_of(experiment, directory, layout, command)
    if options['open']:
        webbrowser.open((directory / 'report.html').resolve().as_uri())


def compare(paths: list[str], out: str | None, command: str) -> None:
    """The tables and plots of a study for any runs; those that differ in their seed alone are seeds of one arm."""
    evidence = runs_evidence(paths, command)
    folder = Path(out or f'runs/compare/{"-".join(Path(path).resolve().name for path in paths[:4])}')
    folder.mkdir(parents=True, exist_ok=True)
    show_answers(evidence, folder)


def open_experiment(path: str, options: dict) -> tuple[Experiment, Path]:
    """The study of an experiment file, and its folder: changed on the command line, it has another one."""
    experiment = load_experiment(path, options['set'], options['seeds'])
    default = f'runs/studies/{experiment.name}{"-try" if experiment.changed else ""}'
    return experiment, Path(options['directory'] or default)


def prepare_once() -> Callable:
    """`prepare_data` that does, and says, the same thing once: arms mostly share their text."""
    known = {}

    def prepare(config):
        key = str(config.data)
        if key not in known:
            known[key] = prepare_data(config)
        return known[key]

    return prepare


def write_report_of(experiment: Experiment, directory: Path, layout: Layout, command: str) -> Evidence:
    """Reads all cells, writes the report and prints the answers."""
    evidence = study_evidence(experiment, layout.cells, layout.chosen, command)
    show_answers(evidence, directory)
    return evidence


def show_answers(evidence: Evidence, folder: Path) -> None:
    """Writes the report and says what it says."""
    page, answers = write_study_report(evidence, folder)
    console.print(f'\n{evidence.question}', soft_wrap=True)
    for text in answers:
        console.print(text, style='bold', soft_wrap=True)
    console.print(f'\nreport   {page}\nalso     {folder}/report.md, report.json, runs.csv, figures/')


def show_matrix(experiment: Experiment, layout: Layout) -> None:
    """The cells of a study and what they would cost; nothing is trained."""
    console.print(f'{experiment.question}\n', soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style='dim')
    for heading in ('arm', 'runs', 'done', 'steps', 'tokens', 'predicted', 'FLOPs', 'causal half', 'time', 'storage'):
        table.add_column(heading, justify='left' if heading == 'arm' else 'right', no_wrap=heading != 'arm')
    speed, total = None, dict.fromkeys(MEASURES, 0.0) | {'bytes': 0.0}
    groups: dict[tuple, list[Cell]] = {}
    for cell in layout.cells:
        about = {'run': '', 'tune': ' (tuning)', 'speed': ' (timing)'}[cell.role]
        groups.setdefault((f'{cell.arm}{about}', cell.steps), []).append(cell)
    for (name, steps), cells in groups.items():
        cost, seconds = layout.plan.costs[cells[0].arm], measured_seconds(layout, cells[0].arm)
        if seconds is None:
            speed = speed or machine_speed()
            seconds = cost.flops / (USUAL_SHARE * speed)
        amounts = {m: len(cells) * steps * (seconds if m == 'seconds' else cost.of(m)) for m in MEASURES}
        size = len(cells) * run_bytes(cells[0].config)
        done = sum(progress_of(cell).status == 'finished' for cell in cells)
        shown = [spent(measure, amount) for measure, amount in amounts.items()]
        table.add_row(name, str(len(cells)), str(done), f'{steps:,}', *shown, describe_bytes(size))
        total = {key: total[key] + (amounts | {'bytes': size})[key] for key in total}
    console.print(table)
    console.print(
        f'\nall: {len(layout.cells)} runs, {short_number(total["tokens"])} tokens, {total["flops"]:.3g} FLOPs (full '
        f'attention map), {clock_time(total["seconds"])} of training one after the other, at most '
        f'{describe_bytes(int(total["bytes"]))} of checkpoints'
    )
    if speed:
        console.print(
            f'seconds that were not measured yet are a guess: FLOPs at {USUAL_SHARE:.0%} of the {speed / 1e9:.0f} '
            'GFLOP/s of a matrix product on this CPU; evaluation and compilation come on top',
            style='dim',
        )
    if not layout.complete:
        console.print('the main runs follow from timings that are not made yet', style='dim')


def measured_seconds(layout: Layout, arm: str) -> float | None:
    """Seconds of a step of an arm, from the runs that are on disk; None where there are none."""
    if layout.plan.costs[arm].seconds:
        return layout.plan.costs[arm].seconds
    for cell in layout.cells:
        if cell.arm == arm:
            with contextlib.suppress(UserError):
                result = read_result(cell)
                if result.step and result.totals['seconds']:
                    return result.totals['seconds'] / result.step
    return None


def machine_speed() -> float:
    """FLOP/s of a matrix product on this CPU: the fastest of many, as others may be at work here now."""
    size, times = 512, []
    matrix = np.ones((size, size), np.float32)
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
