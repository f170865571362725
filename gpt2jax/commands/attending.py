"""`launch.py attention`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from gpt2jax.commands.runs import Opened, console, on_one_device, open_model
from gpt2jax.errors import UserError
from gpt2jax.generation.spelling import spell
from gpt2jax.generation.text import context_of
from gpt2jax.objectives.texts import text_example
from gpt2jax.report.attention import STATISTICS, AttentionReport, head_statistics, show, write_attention

LONGEST = 256  # tokens of a text; maps of longer ones are too fine to look at
LARGEST_MAPS = 16 << 20  # weights on a page
FULL_TABLE = 48  # heads; of more, the terminal shows the mean of each layer
SEEN = {'causal': 'a token sees itself and those before it', 'full': 'every token sees all of them'}


def attention(path: str, text: str, out: str | None, which: str) -> tuple[Path, Path]:
    """Writes a page and a picture of what every head of a run reads in a text, and prints a table.

    Of an encoder-decoder these are the heads of its encoder.

    Args:
      text: cut where it is longer than the context, or than a page can show.
      out: path of both files without their endings; None: 'attention' in the folder of the run.
      which: 'best', 'latest' or the number of a step.

    Returns:
      The paths of the page and of the picture.
    """
    run = open_model(path, which)
    if not hasattr(run.setup.model, 'attention_maps'):
        architecture = run.setup.config.model.architecture
        raise UserError(f'{path}: config.model.architecture = {architecture!r} has no attention maps to show')
    tokens, note = shortened(run, run.tokenizer.wrap(run.tokenizer.encode(text)))
    maps_NHLL = attention_maps(run.setup.model, on_one_device(run.params, run.setup), tokens, run.objective.reads)
    side = ', the encoder' if run.setup.config.model.architecture == 'encoder_decoder' else ''
    special = (run.tokenizer.end_of_text, run.tokenizer.mask, run.tokenizer.pad, run.tokenizer.sep)
    report = AttentionReport(
        name=f'{run.workdir.path.resolve().name}, step {run.step}{side}',
        tokens=[spell(run.tokenizer, token) for token in tokens],
        special=[token in special for token in tokens],
        visibility=SEEN[run.objective.reads],
        maps=maps_NHLL,
        note=note,
    )
    base = Path(out).expanduser() if out else run.workdir.path / 'attention'
    base.parent.mkdir(parents=True, exist_ok=True)
    html, png = write_attention(base, report)
    if note:
        console.print(note, style='dim')
    console.print(statistics_table(maps_NHLL))
    for name, what in STATISTICS.values():
        console.print(f'{name:9} {what}', style='dim')
    console.print(f'page     {html}\npicture  {png}')
    return html, png


def attention_maps(model, params, tokens: list[int], visibility: str) -> np.ndarray:
    """[N, H, L, L] float32: the weights of all layers for one text."""

    def maps(params, tokens_1L):
        example = text_example(tokens_1L, jnp.array([len(tokens)]), visibility)
        return jnp.concatenate(model.attention_maps(params, example)).astype(jnp.float32)

    return np.asarray(jax.jit(maps)(params, np.array([tokens], np.int32)))


def shortened(run: Opened, tokens: list[int]) -> tuple[list[int], str]:
    """As many tokens as the model may see and a page can show, and what to say of the rest."""
    model = run.setup.config.model
    heads = max(model.num_layers, model.encoder_layers) * model.attention.num_heads
    limit = min(context_of(run.setup.config), LONGEST, int((LARGEST_MAPS / heads) ** 0.5))
    if len(tokens) <= limit:
        return tokens, ''
    return tokens[:limit], f'The text has {len(tokens)} tokens; the first {limit} are shown.'


def statistics_table(maps_NHLL: np.ndarray) -> Table:
    """The numbers of each head; of a large model the mean of each layer."""
    N, H = maps_NHLL.shape[:2]
    statistics, by_layer = head_statistics(maps_NHLL), N * H > FULL_TABLE
    title = 'attention, mean of the heads of each layer (the page has them all)' if by_layer else 'attention'
    table = Table(title=title, title_justify='left')
    for name in ('layer', *(() if by_layer else ('head',)), *(name for name, _ in STATISTICS.values())):
        table.add_column(name, justify='right')
    for layer in range(N):
        if by_layer:
            table.add_row(str(layer + 1), *(show(name, values[layer].mean()) for name, values in statistics.items()))
            continue
        for head in range(H):
            cells = (show(name, values[layer, head]) for name, values in statistics.items())
            table.add_row(str(layer + 1), str(head + 1), *cells, end_section=head == H - 1)
    return table
