"""`launch.py plan`."""

import concurrent.futures
import threading
import time
from pathlib import Path

from gpt2jax.commands.runs import console
from gpt2jax.config import overlay, to_dict
from gpt2jax.errors import UserError
from gpt2jax.files import write_json
from gpt2jax.planning.compiling import plan_step
from gpt2jax.planning.outlook import outlook
from gpt2jax.planning.printing import print_plan
from gpt2jax.planning.searching import candidates, front
from gpt2jax.planning.topologies import Topology, read_topology
from gpt2jax.report.plan_page import write_plan_page
from gpt2jax.training.display import Board, Count, Stage
from gpt2jax.validation import resolve

MODES = ('train', 'evaluate', 'sample')
METHODS = {
    'tpu': "Low: products as the compiler estimates them, other work at 0.9 of the memory's bandwidth, no "
    'communication. High: all estimates of the compiler, and the communication that nothing hides.',
    'cuda': 'The compiler gives no times here: a roofline from FLOPs and bytes, at 0.75 and 0.9 of the peaks (low) to '
    '0.4 and 0.6 (high), and the communication that nothing hides.',
    'cpu': 'A roofline from FLOPs and bytes, at the speed of a product and a copy in cache that were timed on this '
    'machine (low) to a half and a third of it (high).',
}


def plan(config, name: str, topology: str, options: dict) -> tuple[Path, Path]:
    """Compiles the steps of a config for a topology, prints what they need and how long they take, and writes it down.

    Args:
      name: of the recipe.
      options: slices, mode, search, candidates, jobs, price, measure, out: the flags of `plan`.

    Returns:
      The paths of the page and of the JSON.

    Raises:
      UserError: an unknown topology or mode, a config that does not work, a compiler that is missing.
    """
    place, mode = read_topology(topology, options['slices']), options['mode']
    check(place, options)
    resolved = resolve(config)
    board = Board(console, time.monotonic)
    board.start()
    try:
        stage = Stage(f'compiling {name} for {topology}', board.clock)
        with board.shown(stage):
            answer = plan_step(config, topology, slices=place.slices, mode=mode, tick=lambda _: board.tick(stage))
        result = describe_answer(resolved, name, place, answer, options['price'])
        if options['measure']:
            stage = Stage('running the step here', board.clock)
            with board.shown(stage):
                result['measured'] = plan_step(config, topology, mode='measure', tick=lambda _: board.tick(stage))
        if options['search']:
            result['search'] = search(config, place, result, options, board)
    finally:
        board.stop()
    print_plan(result, console)
    base = Path(options['out'] or f'runs/plan/{name}-{topology.replace(":", "_")}-{mode}').expanduser()
    base.parent.mkdir(parents=True, exist_ok=True)
    json_path = base.with_name(f'{base.name}.json')
    write_json(json_path, result)
    html_path = write_plan_page(base, result)
    console.print(f'page  {html_path}\ndata  {json_path}')
    return html_path, json_path


def check(place: Topology, options: dict) -> None:
    """Raises UserError for flags that do not go together."""
    if options['mode'] not in MODES:
        raise UserError(f'--mode={options["mode"]}: expected one of {", ".join(MODES)}')
    if options['mode'] != 'train' and (options['search'] or options['measure']):
        raise UserError(f'--search and --measure are of training: leave out --mode={options["mode"]}')
    if options['price'] is not None and options['price'] < 0:
        raise UserError(f'--price={options["price"]}: expected the price of a chip for an hour, 0 or more')
    for flag in ('candidates', 'jobs'):
        if options[flag] < 1:
            raise UserError(f'--{flag}={options[flag]}: expected 1 or more')
    if options['measure'] and place.slices > 1:
        raise UserError('--measure: one machine has no slices')


def describe_answer(config, name: str, place: Topology, answer: dict, price: float | None) -> dict:
    """The answer of the worker with what follows from it: all that is printed and written."""
    if answer['calibration']:
        place = place.with_peaks(answer['calibration']['flops'], answer['calibration']['bandwidth'])
    return {
        'name': name,
        'topology': place.name,
        'slices': place.slices,
        'chips': place.chips,
        'price': price,
        'method': METHODS[place.chip.platform],
        **{key: answer[key] for key in ('device', 'devices', 'versions', 'mesh', 'calibration')},
        'steps': [step | {'outlook': outlook(config, place, step, price)} for step in answer['steps']],
        'config': to_dict(config),
    }


def search(config, place: Topology, own: dict, options: dict, board: Board) -> dict:
    """Compiles candidates in parallel processes, and says which are worth having.

    Returns:
      results (changes, step_seconds, seconds, bytes, why), front, recommended: an index, None where nothing fits.
    """
    changes = candidates(config, place, options['candidates'])
    count, stop = Count('candidates', len(changes), board.clock), threading.Event()
    results = [None] * len(changes)
    results[0], count.done = result_of({}, own['steps'][0]), 1

    def tick(_: float) -> None:
        if stop.is_set():
            raise UserError('stopped')

    def one(index: int) -> dict:
        try:
            changed = overlay(config, changes[index])
            answer = plan_step(changed, place.name, slices=place.slices, tick=tick)
        except UserError as error:
            return {
                'changes': changes[index],
                'step_seconds': None,
                'seconds': None,
                'bytes': None,
                'why': first(error),
            }
        described = describe_answer(resolve(changed), own['name'], place, answer, None)
        return result_of(changes[index], described['steps'][0])

    with board.shown(count), concurrent.futures.ThreadPoolExecutor(options['jobs']) as pool:
        try:
            waiting = {pool.submit(one, index): index for index in range(1, len(changes))}
            while waiting:
                done, _ = concurrent.futures.wait(waiting, 0.5, concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    results[waiting.pop(future)] = future.result()
                    count.done += 1
                board.tick(count)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    best = front(results)
    return {'results': results, 'front': best, 'recommended': best[0] if best else None}


def first(error: Exception) -> str:
    """The first line of an error, for a table."""
    return str(error).splitlines()[0][:160]


def result_of(changes: dict, step: dict) -> dict:
    """One candidate: the middle of its bracket is what the front is made of."""
    seconds = step['outlook']['step_seconds'] if step['fits'] and step['outlook'] else None
    return {
        'changes': changes,
        'step_seconds': seconds,
        'seconds': sum(seconds) / 2 if seconds else None,
        'bytes': step['memory']['peak'],
        'why': '' if seconds else 'does not fit',
    }
