"""`launch.py replay`: the step whose loss or gradient was no number, run again and taken apart."""

import dataclasses
import math

from rich.table import Table

from gpt2jax.batches import place_batch
from gpt2jax.commands.runs import console, make_rows, prepare_data
from gpt2jax.commands.training import report_start
from gpt2jax.config import overlay
from gpt2jax.data.rows import train_batch, train_indices
from gpt2jax.errors import UserError
from gpt2jax.sharding import keep_compiled, start_devices
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.loop import check_same_text
from gpt2jax.training.nonfinite import FOLDER, read_failure
from gpt2jax.training.progress import track
from gpt2jax.training.replay import GRADIENT_NORM, LOSS_SUM, Findings, examine, layer_of, run_to
from gpt2jax.training.setup import Setup
from gpt2jax.training.starting import plan_start, resolve_saved, starting_params
from gpt2jax.training.state import rest_of, state_from
from gpt2jax.training.workdir import Workdir

NAME = 'replay.json'
SHOWN_BEFORE, SHOWN_ROWS, SHOWN_LETTERS = 10, 5, 200
NOTHING_FOUND = (
    'On one device every tensor and every gradient of this step is finite. What broke may depend on the order of sums, '
    'on the devices or on what the compiler fuses; or the state before the step was not quite the same.'
)
HUGE = 1e15  # the square of a few of these is no float32 any more


def replay(path: str) -> Findings:
    """Runs the step that nonfinite.json names once more, layer by layer on one device, and says where it breaks.

    Writes replay.json with the statistics of every tensor.

    Args:
      path: the folder of the run.

    Raises:
      UserError: nothing was kept, the text has changed, or what was kept is damaged.
    """
    workdir = Workdir(path)
    record = read_failure(workdir.path)
    config = resolve_saved(record['config'], workdir)
    start_devices(config)
    keep_compiled(config.runtime.compilation_cache)
    setup = open_setup(config, record)
    prepared = prepare_data(config)
    check_same_text(record, {'data': prepared.folder.name})
    rows = make_rows(config, prepared)['train']
    step = record['step'] - 1
    state, earlier = run_again(setup, workdir, record, rows, prepared.tokenizer, step)
    if earlier is not None:
        console.print(f'Step {earlier + 1} is not finite here already, {step - earlier} before that of the run.')
        step = earlier
        state, _ = run_again(setup, workdir, record, rows, prepared.tokenizer, step)
    batch = train_batch(rows, config.seed, step, config.training.batch_size)
    findings = examine(setup, state, batch, track)
    again = step_again(setup, state, step, batch)
    number_B = train_indices(rows, config.seed, step, config.training.batch_size)
    workdir.write_json(NAME, as_json(findings, step, again, number_B))
    report(findings, setup, step, again, batch, number_B, prepared.tokenizer)
    console.print(f'all tensors  {workdir.path / NAME}')
    return findings


def open_setup(config, record: dict) -> Setup:
    """The parts of the run on its own mesh; on one device where there are not as many devices as it had."""
    try:
        return Setup.from_config(config)
    except UserError as error:
        one = {'sharding.data': 1, 'sharding.fsdp': 1, 'sharding.tensor': 1}
        try:
            setup = Setup.from_config(overlay(config, one))
        except UserError:
            raise error from None
        console.print(f'The run had {record["devices"]} devices; its sums may end with other digits here.')
        return setup


def run_again(setup: Setup, workdir: Workdir, record: dict, rows, tokenizer, step: int):
    """(state before step `step`, from 0, None); or (some state, the earlier step that is not finite here)."""
    checkpoint = record['checkpoint']
    if checkpoint is None:
        state = setup.initial_state()
        if setup.config.training.init_from:
            start = plan_start(setup.config, setup.abstract.params, setup.mesh)
            state = setup.with_params(state, starting_params(start, state.params, console.print))
            report_start(start, tokenizer)
        return run_to(setup, state, rows, 0, step, track)
    checkpoints = Checkpoints(workdir.store / FOLDER, 1, announce=console.print)
    try:
        restored = checkpoints.restore(setup.abstract.params, rest_of(setup.abstract))
    finally:
        checkpoints.close()
    if restored is None:
        raise UserError(f'{workdir.store / FOLDER} lacks the checkpoint of step {checkpoint} to start from')
    start, params, rest, _ = restored
    return run_to(setup, state_from(params, rest), rows, start, step, track)


def step_again(setup: Setup, state, step: int, batch) -> dict[str, float]:
    """Loss and gradient norm of the step as the run computed it; the state is donated."""
    _, metrics = setup.train_step(setup.kind_at(step))(state, place_batch(batch, setup.mesh))
    return {name: float(metrics[name]) for name in ('loss', 'gradient_norm')}


def report(findings: Findings, setup: Setup, step: int, again: dict, batch, number_B, tokenizer) -> None:
    """Prints what was found: the tensors up to the first that is not finite, its layer, its rows, a hint."""
    console.print(
        f'step {step + 1} ({setup.kind_at(step)}), as in training on {setup.mesh.size} device(s): '
        f'loss {again["loss"]}, gradient norm {again["gradient_norm"]}'
    )
    if all(map(math.isfinite, again.values())):
        console.print('That is finite: the run does not repeat itself on this machine to the last digit.')
    broken = [(name, found) for name, found in findings.parameters if found.nonfinite]
    for name, found in broken[:SHOWN_ROWS]:
        console.print(f'parameter before the step: {name} has {found.nonfinite:,} values that are not finite')
    if len(broken) > SHOWN_ROWS:
        console.print(f'... and {len(broken) - SHOWN_ROWS} parameters more')
    first = findings.first()
    if first is None:
        console.print(NOTHING_FOUND, style='bold')
        return
    phase, name, found = first
    entries = getattr(findings, phase)
    place = [entry[0] for entry in entries].index(name)
    console.print(statistics_table(entries[max(0, place - SHOWN_BEFORE) : place + 1]))
    layer = layer_of(name)
    what = {'forward': 'tensor', 'backward': 'gradient, from the loss backwards,', 'parameters': 'tensor'}[phase]
    where = (
        'outside of the layers' if layer is None else f'in layer {layer} of 0 to {setup.config.model.num_layers - 1}'
    )
    console.print(f'The first {what} that is not finite: {name}, {where} ({found.nonfinite:,} values)', style='bold')
    if phase == 'backward':
        console.print('The forward pass and the loss are finite.')
    largest = sorted(entries[:place], key=lambda entry: -entry[1].largest)[:3]
    if largest:
        console.print('largest before it: ' + ', '.join(f'{other} {s.largest:.3g}' for other, s in largest))
    widest, huge = max(findings.parameters, key=lambda entry: entry[1].largest)
    console.print(f'largest parameter before the step: {widest} {huge.largest:.3g}')
    print_rows(found, batch, number_B, tokenizer)
    console.print('hint: ' + hint(phase, name, entries[:place], bool(broken), step))


def statistics_table(entries) -> Table:
    """One line a tensor."""
    table = Table(title='in the order of computation', title_justify='left')
    table.add_column('tensor')
    for name in ('max |x|', 'mean', 'std', 'not finite'):
        table.add_column(name, justify='right')
    for name, found in entries:
        numbers = (f'{value:.3g}' for value in (found.largest, found.mean, found.std))
        table.add_row(name, *numbers, f'{found.nonfinite:,}', style='red' if found.nonfinite else None)
    return table


def print_rows(found, batch, number_B, tokenizer) -> None:
    """The rows that hold what is not finite, with their text."""
    if not found.rows:
        return
    count = len(batch['row'])
    console.print(f'rows of the batch with such values: {len(found.rows)} of {count}')
    for row, places in list(sorted(found.rows.items()))[:SHOWN_ROWS]:
        where = f', from token {places[0]} on' if places else ''
        text = tokenizer.decode(batch['tokens'][row].tolist())[:SHOWN_LETTERS]
        console.print(f'  {row} of the batch, row {number_B[row]} of the split{where}: {text!r}')
    if len(found.rows) > SHOWN_ROWS:
        console.print(f'  ... and {len(found.rows) - SHOWN_ROWS} more ({NAME} has all)')


def hint(phase: str, name: str, before, broken: bool, step: int) -> str:
    """What to look at next."""
    if broken:
        return (
            f'a parameter was broken before step {step + 1} began, by the update of step {step} or where it was loaded '
            'from: try a lower config.optimizer.learning_rate, a longer warmup_steps or clip_norm = 1.0'
        )
    if name in (LOSS_SUM, GRADIENT_NORM):
        return (
            'each value is finite, but their squares or their sum are no float32: the largest one above is where to '
            'look; the learning rate was too high some steps ago (lower it, or set clip_norm = 1.0)'
        )
    if phase == 'backward':
        return 'the gradient overflowed on its way back: try a lower learning_rate, or float32 in place of bfloat16'
    if name.endswith('attention/read'):
        return 'queries, keys and values are finite, so the attention scores overflowed: try model.attention.qk_norm'
    if before and max(found.largest for _, found in before) > HUGE:
        return (
            'values were huge before it, and their squares or sums overflowed: the learning rate was too high a few '
            'steps ago (lower it, or set clip_norm = 1.0), or a parameter is huge (see replay.json)'
        )
    return 'the values before it are small: look at the input rows above, and at model.dtype'


def as_json(findings: Findings, step: int, again: dict, number_B) -> dict:
    """What replay.json holds; numbers that are not finite are text, as JSON has none."""

    def entries(pairs):
        lines = []
        for name, found in pairs:
            line = {'tensor': name, 'layer': layer_of(name)} | dataclasses.asdict(found)
            line['rows'] = [
                {'batch': row, 'split': number_B[row], 'tokens': places} for row, places in sorted(found.rows.items())
            ]
            lines.append(line)
        return lines

    first = findings.first()
    return {
        'step': step + 1,
        'in_training': {name: str(value) for name, value in again.items()},
        'on_one_device': {'loss': str(findings.loss), 'gradient_norm': str(findings.gradient_norm)},
        'first': first and {'phase': first[0], 'tensor': first[1], 'layer': layer_of(first[1])},
        'parameters': entries(findings.parameters),
        'forward': entries(findings.forward),
        'backward': entries(findings.backward),
    }
