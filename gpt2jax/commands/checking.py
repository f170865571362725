"""`launch.py coordinate_check`: does the parametrization keep the size of a step the same at every width?"""

import math
from pathlib import Path

from rich.table import Table

from gpt2jax.commands.runs import console, make_rows, prepare_data
from gpt2jax.config import to_dict
from gpt2jax.errors import UserError
from gpt2jax.files import replace_file, write_json
from gpt2jax.report.coordinates import TITLES, coordinate_picture
from gpt2jax.sharding import keep_compiled, start_devices
from gpt2jax.training.coordinates import PARAMETRIZATIONS, config_at, exponents, faults, measure
from gpt2jax.training.progress import track


def coordinate_check(config, widths: str, steps: int, out: str) -> dict:
    """Trains a few steps at several widths, in the standard parametrization and in muP, and compares activations.

    Writes coordinate_check.json and coordinate_check.png, and prints the exponents: a quantity that grows as
    width^p has the exponent p.

    Args:
      config: as a recipe returns it; all but width and heads, the parametrization and the schedule is kept.
      widths: '64,128,256'.
      steps: of training, at the peak of the learning rate.
      out: the folder to write into.

    Returns:
      What is written as JSON.
    """
    widths = parse_widths(widths)
    if steps < 1:
        raise UserError(f'--steps={steps}: must be at least 1')
    pairs = [(kind, width) for kind in PARAMETRIZATIONS for width in widths]
    configs = {pair: config_at(config, pair[1], pair[0], widths, steps) for pair in pairs}
    first = configs[pairs[0]]
    start_devices(first)
    keep_compiled(first.runtime.compilation_cache)
    rows = make_rows(first, prepare_data(first))['train']
    measured = {kind: [] for kind in PARAMETRIZATIONS}
    for kind, width in track(pairs, 'training at each width'):
        measured[kind].append(list(measure(configs[kind, width], rows, steps)))
    result = {
        'config': to_dict(first),
        'widths': widths,
        'steps': steps,
        'exponents': {kind: exponents(widths, runs) for kind, runs in measured.items()},
        'measured': measured,
    }
    result['faults'] = {kind: faults(result['exponents'][kind]['change']) for kind in PARAMETRIZATIONS}
    console.print(exponent_table(result['exponents']))
    for kind in PARAMETRIZATIONS:
        console.print(verdict(kind, result['faults'][kind]), style='bold')
    write_results(Path(out), result, coordinate_picture(widths, measured))
    return result


def parse_widths(text: str) -> list[int]:
    """'64,128' -> [64, 128]; at least two, from narrow to wide."""
    try:
        widths = sorted({int(item) for item in text.split(',')})
    except ValueError:
        raise UserError(f'--widths={text}: expected whole numbers, as in 64,128,256') from None
    if len(widths) < 2 or widths[0] < 1:
        raise UserError(f'--widths={text}: expected at least two different positive widths')
    return widths


def exponent_table(powers: dict[str, dict[str, dict[str, float]]]) -> Table:
    """The exponents of every quantity under each parametrization."""
    table = Table(title='growth with the width after the last step: p in width^p', title_justify='left')
    table.add_column('quantity')
    for kind in powers:
        table.add_column(f'{TITLES[kind]}, change', justify='right')
        table.add_column(f'{TITLES[kind]}, size', justify='right', style='dim')
    for name in next(iter(powers.values()))['change']:
        cells = (f'{powers[kind][key][name]:+.2f}' for kind in powers for key in ('change', 'size'))
        table.add_row(name, *cells)
    return table


def verdict(kind: str, found: dict[str, float]) -> str:
    """One line a parametrization."""
    if not found:
        return f'{TITLES[kind]}: holds, steps change activations alike at every width'
    listed = ', '.join(f'{name} {power:+.2f}' for name, power in found.items())
    return f'{TITLES[kind]}: does not hold, what a step changes depends on the width: {listed}'


def write_results(folder: Path, result: dict, picture: bytes) -> None:
    """coordinate_check.json and coordinate_check.png."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out={folder}: {error.strerror}') from error
    write_json(folder / 'coordinate_check.json', without_nan(result))
    replace_file(folder / 'coordinate_check.png', picture)
    console.print(f'figures  {folder / "coordinate_check.json"}\npicture  {folder / "coordinate_check.png"}')


def without_nan(value):
    """JSON knows no nan and no infinity: None in their place."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
