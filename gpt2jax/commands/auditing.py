"""`launch.py audit`: what an objective makes of a real row, and whether the real model keeps to it."""

from pathlib import Path

import jax
import numpy as np
from rich.table import Table

from gpt2jax.commands.runs import console, make_rows, prepare_data
from gpt2jax.errors import UserError
from gpt2jax.evaluation.light_cone import Verdict, check_light_cone, expected_cone, seen_by_queries
from gpt2jax.files import replace_file
from gpt2jax.generation.spelling import spell
from gpt2jax.models import make_model
from gpt2jax.models.cost import row_flops
from gpt2jax.models.masks import visible
from gpt2jax.objectives import Example, make_objective, phases
from gpt2jax.report.visibility import View, visibility_picture
from gpt2jax.report.visibility_text import LEGEND, visibility_map, visibility_text
from gpt2jax.sharding import keep_compiled, start_devices
from gpt2jax.training.progress import track
from gpt2jax.validation import resolve

FLOPS = 2e12  # spent on the light cone: half a minute of a laptop; longer rows are shortened
SHORTEST = 16


def audit(config, row: int, tokens: int, out: str) -> dict[str, Verdict]:
    """Draws who sees whom in a row of the training split, and checks the model's light cone by gradient.

    A run that switches its objective is audited with each of them.

    Args:
      config: as a recipe returns it.
      row: number of the row.
      tokens: how many of its places are drawn; 0: all.
      out: folder of the pictures.

    Returns:
      What was found, by the kind of objective.

    Raises:
      UserError: the model sees what the objective hides from it, or does not see what it may.
    """
    config = resolve(config)
    start_devices(config)
    keep_compiled(config.runtime.compilation_cache)
    prepared = prepare_data(config)
    rows = make_rows(config, prepared)['train']
    if not 0 <= row < len(rows):
        raise UserError(f'--row={row}: the training split has the rows 0 to {len(rows) - 1}')
    batch = rows.batch(np.array([row]))
    verdicts = {}
    kinds = list(dict.fromkeys(kind for _, kind in phases(config)))
    for kind in kinds:
        objective = make_objective(config, kind)
        example = jax.jit(objective)(batch, jax.random.key(config.seed), 1.0)
        title = f'{kind}: row {row} of {config.data.corpus}'
        view = make_view(title, objective, example, batch['tokens'][0, :-1], prepared.tokenizer, tokens)
        print_view(view, count_table(objective, example))
        write_picture(Path(out) / ('audit.png' if len(kinds) == 1 else f'audit_{kind}.png'), view)
        verdicts[kind] = check(config, example)
    broken = [kind for kind, verdict in verdicts.items() if not verdict.agrees]
    if broken:
        raise UserError(f'the light cone of {", ".join(broken)} is not that of the objective; see above')
    return verdicts


def make_view(title: str, objective, example: Example, tokens_L: np.ndarray, tokenizer, places: int) -> View:
    """The first places of an Example of one row, as text; `tokens_L` is the row that it was made of."""
    length = example.inputs.shape[1]
    places = min(places or length, length)
    inputs, order, segment = (
        np.asarray(array)[0, :places] for array in (example.inputs, example.order, example.segment)
    )
    targets, weights, visible_LL = at_places(example)
    replaced = np.zeros(places, bool) if objective.answers else inputs != tokens_L[:places]
    hidden = inputs == tokenizer.mask if example.queries is None else weights[:places] > 0
    marks = np.where(hidden, 'hidden', np.where(replaced, 'random', '')).tolist()
    return View(
        title=title + (f', the first {places} of {length} places' if places < length else ''),
        tokens=[spell(tokenizer, token) for token in inputs],
        targets=[
            spell(tokenizer, token) if weight else ''
            for token, weight in zip(targets[:places], weights[:places], strict=True)
        ],
        marks=marks,
        order=order,
        segment=segment,
        visible=visible_LL[:places, :places],
    )


def at_places(example: Example) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets [L], weights [L] and who sees whom [L, L] in the first row; those of queries stand at their places."""
    targets, weights, seen = (
        np.array(array)[0]
        for array in (
            example.targets,
            example.weights,
            visible(example.order, example.order, example.segment, example.segment),
        )
    )
    if example.queries is None:
        return targets, weights, seen
    place_P, real_P = np.asarray(example.queries.place)[0], weights > 0
    targets_L, weights_L = np.zeros(len(seen), targets.dtype), np.zeros(len(seen), weights.dtype)
    targets_L[place_P[real_P]], weights_L[place_P[real_P]] = targets[real_P], weights[real_P]
    seen[place_P[real_P]] = seen_by_queries(example)[0, real_P]
    return targets_L, weights_L, seen


def count_table(objective, example: Example) -> Table:
    """What the whole row holds."""
    segment, inputs = np.asarray(example.segment)[0], np.asarray(example.inputs)[0]
    weights, length = np.asarray(example.weights)[0], len(segment)
    real, predicted = int((segment > 0).sum()), int((weights > 0).sum())
    counts = {
        'places': f'{length:,}',
        'tokens': f'{real:,}',
        'documents': f'{len(set(segment.tolist()) - {0}):,}',
        'predicted': f'{predicted:,} ({predicted / max(real, 1):.1%} of the tokens), weight {weights.sum():g}',
        'logits made for': f'{objective.num_predictions(length):,} places',
        'read as <|mask|>': f'{int((inputs == objective.vocabulary.mask).sum()):,}',
        'visibility': example.visibility,
    }
    table = Table(title='the whole row', title_justify='left', show_header=False)
    table.add_column()
    table.add_column(justify='right')
    for name, value in counts.items():
        table.add_row(name, value)
    return table


def print_view(view: View, counts: Table) -> None:
    """The map, the tokens and the counts."""
    room = max(8, console.width - 7)
    if len(view.tokens) > room:
        console.print(f'The map shows {room} of {len(view.tokens)} places: the terminal is no wider.', style='dim')
    console.print(view.title, style='bold')
    console.print(visibility_map(view, room))
    console.print(visibility_text(view))
    console.print(LEGEND, style='dim')
    console.print(counts)


def write_picture(path: Path, view: View) -> None:
    """Writes the PNG and says where it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out={path.parent}: {error.strerror}') from error
    replace_file(path, visibility_picture(view))
    console.print(f'picture  {path}')


def check(config, example: Example) -> Verdict:
    """Measures the light cone of the model on as much of the row as its size allows, and prints the verdict."""
    length = example.inputs.shape[1]
    places = checked_places(config.model, length)
    start = telling_start(example, places)
    example = cut(example, start, places)
    model = make_model(config.model)
    verdict = check_light_cone(model, example, track=track)
    cone = expected_cone(model.config, example)
    outputs_P = np.arange(places) if example.queries is None else np.asarray(example.queries.place)[0]
    pairs, allowed = cone.size, int(cone.sum())
    part = f'all {length} places'
    if places < length:
        part = f'the places {start} to {start + places - 1} of {length} (more would take long, as the model is large)'
    console.print(
        f'light cone on {part}: of {pairs:,} pairs, {allowed:,} are visible and {len(verdict.blind):,} of these '
        f'have no gradient; {pairs - allowed:,} are hidden and {len(verdict.leaks):,} of these have one'
    )
    for name, found in (('leak', verdict.leaks), ('blind', verdict.blind)):
        for _, output, key in found[:5].tolist():
            console.print(
                f'  {name}: the output at place {start + outputs_P[output]}, the token at {start + key}', style='red'
            )
    agrees = 'the model sees what the objective shows it, and nothing else'
    console.print(agrees if verdict.agrees else 'the model does not keep to its objective', style='bold')
    return verdict


def cut(example: Example, start: int, places: int) -> Example:
    """Some places of one row alone; of its queries those that stand there and see something there."""
    part = jax.tree.map(
        lambda array: array[:, start : start + places] if array.ndim == 2 else array, example.replace(queries=None)
    )
    if example.queries is None:
        return part
    queries = example.queries.replace(place=example.queries.place - start)
    sees_P = seen_by_queries(part.replace(queries=queries))[0].any(-1)
    place_P = np.asarray(queries.place)[0]
    kept_P = np.flatnonzero(sees_P & (place_P >= 0) & (place_P < places))
    if not len(kept_P):
        return part
    return part.replace(
        targets=example.targets[:, kept_P],
        weights=example.weights[:, kept_P],
        queries=jax.tree.map(lambda array: array[:, kept_P], queries),
    )


def checked_places(model, length: int) -> int:
    """How many places of a row the light cone is measured on: halved until it is cheap enough."""
    places = length
    while places > SHORTEST and places * row_flops(model, places, 0).training('full map') > FLOPS:
        places //= 2
    return places


def telling_start(example: Example, places: int) -> int:
    """Where to begin with a part of the row, so that it has many visible and many hidden pairs."""

    def fewest(start: int) -> int:
        order_BL, segment_BL = (array[:, start : start + places] for array in (example.order, example.segment))
        seen = int(np.sum(visible(order_BL, order_BL, segment_BL, segment_BL)))
        return min(seen, places**2 - seen)

    starts = range(0, example.inputs.shape[1] - places + 1, max(1, places // 2))
    return max(starts, key=fewest)
