"""A plan as text for a terminal."""

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gpt2jax.planning.outlook import CONVENTIONS
from gpt2jax.planning.searching import as_flags
from gpt2jax.training.display import clock_time, short_number

GIB = 2**30
SHOWN_BUFFERS, SHOWN_WORK = 6, 8
LABEL = 'Predicted by compiling, not measured: times are estimates of the compiler and of bandwidths.'


def gib(count: float | None) -> str:
    """Bytes as memory is sold for accelerators."""
    if count is None:
        return '?'
    if count >= 0.1 * GIB:
        return f'{count / GIB:.2f} GiB'
    return f'{count / 2**20:.1f} MiB' if count >= 0.1 * 2**20 else f'{count / 2**10:.1f} KiB'


def span(pair, shown='{:.3g}'.format) -> str:
    """[low, high] -> '0.46 to 0.71', once where both look the same."""
    low, high = shown(pair[0]), shown(pair[1])
    return low if low == high else f'{low} to {high}'


def money(value: float) -> str:
    """In whole units where it is much."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.2f}'


def seconds_text(value: float) -> str:
    """0.0123 -> 12.3 ms."""
    return f'{value * 1e3:.3g} ms' if value < 0.9995 else f'{value:.3g} s'


def print_plan(plan: dict, console: Console) -> None:
    """Prints everything of a plan (gpt2jax.commands.planning.plan)."""
    console.print(heading(plan))
    for step in plan['steps']:
        console.print(step_text(plan, step))
    if 'measured' in plan:
        console.print(measured_text(plan))
    if 'search' in plan:
        console.print(search_table(plan['search']))
        console.print(recommendation(plan['search']), soft_wrap=True)


def heading(plan: dict) -> Text:
    """What was compiled, for what, and what kind of figures follow."""
    mesh = ' x '.join(f'{name} {size}' for name, size in plan['mesh'].items())
    versions = ', '.join(f'{name} {version}' for name, version in plan['versions'].items())
    slices = f'{plan["slices"]} slices of ' if plan['slices'] > 1 else ''
    lines = [
        f'{plan["name"]} on {slices}{plan["topology"]}: {plan["devices"]} x {plan["device"]}, mesh {mesh}',
        f'{LABEL} ({versions})',
        plan['method'],
    ]
    return Text('\n'.join(lines))


def step_text(plan: dict, step: dict) -> Group:
    """The verdict, the memory, the time and the communication of one program."""
    parts = [Text(verdict(plan, step), style='bold'), memory_table(step)]
    if step['buffers']:
        parts.append(buffer_table(step))
    if 'time' in step:
        parts += [outlook_table(plan, step), work_table(step)]
        if step['time']['collectives']:
            parts.append(collective_table(step))
    return Group(*parts)


def verdict(plan: dict, step: dict) -> str:
    """One line: fits or not, with the numbers."""
    memory = step['memory']
    name = f'{step["name"]}: '
    limit = f' of {gib(memory["limit"])}' if memory['limit'] else ''
    if step['fits']:
        return f'{name}fits. {gib(memory["peak"])}{limit} a device; compiled in {step["compiling_seconds"]:.0f} s'
    told = f'; the compiler: {step["message"]}' if 'message' in step else ''
    return f'{name}does NOT fit: {gib(memory["peak"])}{limit} a device{told}'


def memory_table(step: dict) -> Table:
    """By kind, with shares of the limit."""
    memory = step['memory']
    kinds = memory.get('kinds') or step['held']
    table = Table(title='memory of a device', title_justify='left')
    table.add_column('kind')
    table.add_column('size', justify='right')
    table.add_column('of the limit', justify='right')
    for kind, size in kinds.items():
        table.add_row(kind, gib(size), f'{size / memory["limit"]:.1%}' if memory['limit'] else '')
    if 'allotted' in memory:
        table.add_row('(sum of all temporaries)', gib(memory['allotted']), '', style='dim')
    return table


def buffer_table(step: dict) -> Table:
    """The largest temporaries."""
    table = Table(title='largest buffers', title_justify='left')
    table.add_column('size', justify='right')
    table.add_column('places', justify='right')
    table.add_column('shape')
    table.add_column('made by', overflow='fold')
    for buffer in step['buffers'][:SHOWN_BUFFERS]:
        table.add_row(gib(buffer['bytes']), str(buffer['count']), Text(buffer['shape']), Text(buffer['source']))
    return table


def outlook_rows(plan: dict, step: dict) -> list[tuple[str, str, str]]:
    """(what, value, meaning) of the time of a step and what follows from it."""
    outlook, time = step['outlook'], step['time']
    rows = [
        ('step', span(outlook['step_seconds'], seconds_text), 'low to high'),
        ('  matrix products', span(time['products'], seconds_text), 'attention kernels among them'),
        ('  other work', span(time['other'], seconds_text), 'norms, activations, optimizer, copies'),
        ('  exposed communication', span([0, time['exposed']], seconds_text),
         f'of {seconds_text(time["communication"])} in all; the low figure has none'),
        ('tokens a second', span(outlook['tokens_per_second'][::-1], short_number), f'{step["tokens"]:,} each step'),
    ]  # fmt: skip
    for name, pair in outlook.get('mfu', {}).items():
        rows.append(('MFU', span(pair[::-1], '{:.1%}'.format), f'{CONVENTIONS[name]}, of the bfloat16 peak'))
    if 'hours' in outlook:
        hours = [hour * 3600 for hour in outlook['hours']]
        rows += [
            ('the whole run', span(hours, clock_time), f'{short_number(outlook["tokens"])} tokens'),
            ('chip-hours', span(outlook['chip_hours'], short_number), f'{plan["chips"]} chips'),
        ]
    if 'cost' in outlook:
        rows.append(('cost', span(outlook['cost'], money), f'at {plan["price"]:g} a chip-hour'))
    if time['unknown_loops']:
        rows.append(('loops', str(time['unknown_loops']), 'counted once: the program does not tell how often they run'))
    return rows


def outlook_table(plan: dict, step: dict) -> Table:
    """The time of a step and what follows from it."""
    table = Table(title='prediction', title_justify='left', show_header=False)
    table.add_column('what')
    table.add_column('value', justify='right')
    table.add_column('meaning', style='dim')
    for row in outlook_rows(plan, step):
        table.add_row(*row)
    return table


def work_table(step: dict) -> Table:
    """What takes most of the time."""
    table = Table(title='where the time goes', title_justify='left')
    for name in ('low', 'high', 'runs'):
        table.add_column(name, justify='right')
    table.add_column('kind')
    table.add_column('source', overflow='fold')
    for row in step['time']['ranking'][:SHOWN_WORK]:
        cells = seconds_text(row['low']), seconds_text(row['high']), f'{row["times"]:g}', row['kind'], Text(row['name'])
        table.add_row(*cells)
    return table


def collective_table(step: dict) -> Table:
    """Communication by axes of the mesh."""
    table = Table(title='communication of a device', title_justify='left')
    table.add_column('axes')
    table.add_column('kind')
    for name in ('runs', 'sent', 'seconds if alone'):
        table.add_column(name, justify='right')
    for row in step['time']['collectives']:
        table.add_row(
            row['axes'], row['kind'], f'{row["count"]:g}', gib(row['sent_bytes']), seconds_text(row['seconds'])
        )
    return table


def measured_text(plan: dict) -> Text:
    """Predicted against measured."""
    measured, outlook = plan['measured'], plan['steps'][0]['outlook']
    low, high = outlook['step_seconds']
    text = (
        f'measured here: {seconds_text(measured["seconds"])} (median of {measured["runs"]} runs, slowest / fastest '
        f'{measured["spread"]:.2f}); predicted {span([low, high], seconds_text)}: measured / predicted '
        f'{span([measured["seconds"] / high, measured["seconds"] / low], "{:.2f}".format)}'
    )
    return Text(text, style='bold')


def search_table(search: dict) -> Table:
    """All candidates, those of the front marked."""
    table = Table(title='search: step time against memory; * on the Pareto front', title_justify='left')
    table.add_column('')
    table.add_column('step', justify='right')
    table.add_column('memory', justify='right')
    table.add_column('changes', overflow='fold')
    for index, result in enumerate(search['results']):
        mark = '*' if index in search['front'] else ''
        time = span(result['step_seconds'], seconds_text) if result['step_seconds'] else result['why']
        table.add_row(mark, time, gib(result['bytes']), Text(as_flags(result['changes']) or '(the config as it is)'))
    return table


def recommendation(search: dict) -> Text:
    """What to paste."""
    if search['recommended'] is None:
        return Text('None of the candidates fits: more chips, or a smaller batch, are needed.', style='bold')
    flags = as_flags(search['results'][search['recommended']]['changes'])
    return Text(f'recommended: {flags or "the config as it is"}', style='bold')
