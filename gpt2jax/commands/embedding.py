"""`launch.py embed`."""

import io
import json
from pathlib import Path

import numpy as np
from rich.table import Table

from gpt2jax.commands.runs import console, open_model
from gpt2jax.errors import UserError
from gpt2jax.evaluation.embeddings import Embedder, check_pooling
from gpt2jax.files import replace_file
from gpt2jax.generation.text import context_of
from gpt2jax.training.progress import track

FORMATS = ('.npz', '.jsonl')
FEW = 8  # texts whose similarities are printed
LARGEST_FILE = 1 << 30
LARGEST_TEXTS = 1 << 28  # bytes of the array of texts, which makes room for the longest in every line


def embed(
    path: str,
    texts: list[str],
    file: str | None,
    pooling: str,
    normalize: bool,
    batch_size: int,
    out: str | None,
    which: str,
) -> np.ndarray:
    """Embeds texts, or the lines of a file, and writes or shows the vectors.

    Args:
      texts, file: one of them.
      pooling: mean, first, last or pooler (gpt2jax.evaluation.embeddings).
      normalize: make every vector one of length 1.
      out: a .npz or .jsonl file; None: print what can be told of a few.
      which: 'best', 'latest' or the number of a step.

    Returns:
      [N, D] float32.
    """
    if bool(texts) == bool(file):
        raise UserError('give either --text=... (as often as you like) or --file=lines.txt')
    if out and Path(out).suffix not in FORMATS:
        raise UserError(f'--out={out}: the ending decides about the format; one of: {", ".join(FORMATS)}')
    if batch_size < 1:
        raise UserError(f'--batch_size={batch_size}: must be at least 1')
    texts = read_lines(Path(file).expanduser()) if file else texts
    run = open_model(path, which)
    check_pooling(pooling, run.setup.config.model, run.objective.reads)
    context = context_of(run.setup.config)
    rows, shortened = wrap(run.tokenizer, texts, context)
    if shortened:
        console.print(f'{shortened} of {len(texts)} texts are longer than the context of {context} tokens and were cut')
    embedder = Embedder(run.setup, run.params, run.objective.reads, pooling, normalize, batch_size)
    vectors_ND = embedder(rows, context, track)
    shape = ' x '.join(map(str, vectors_ND.shape))
    console.print(f'{run.workdir.path}, step {run.step}: {shape}, {pooling}{", normalized" if normalize else ""}')
    if out:
        write_vectors(Path(out).expanduser(), texts, vectors_ND)
        console.print(f'vectors  {out}')
    elif len(texts) > 1:
        console.print(similarity_table(texts[:FEW], vectors_ND[:FEW]))
    else:
        console.print(' '.join(f'{value:.4f}' for value in vectors_ND[0, :FEW]) + ' ...')
    return vectors_ND


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, empty ones too, so that line n of the file is row n of the vectors."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f'--file={path}: larger than {LARGEST_FILE >> 30} GiB; cut it into parts')
        lines = path.read_text('utf-8').removesuffix('\n').split('\n')
    except (OSError, ValueError) as error:
        raise UserError(f'--file={path}: cannot be read ({error})') from error
    if lines == ['']:
        raise UserError(f'--file={path}: there is no text in it')
    return lines


def wrap(tokenizer, texts: list[str], context: int) -> tuple[list[list[int]], int]:
    """Token ids as the model reads a text alone, cut to the context inside their wrapping; and how many were cut."""
    room, rows, shortened = context - len(tokenizer.wrap([])), [], 0
    for text in texts:
        ids = tokenizer.encode(text).tolist()
        shortened += len(ids) > room
        rows.append(tokenizer.wrap(ids[:room]))
    return rows, shortened


def write_vectors(path: Path, texts: list[str], vectors_ND: np.ndarray) -> None:
    """`embeddings` and `texts` as .npz, to be read without pickle, or an object a line as .jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.jsonl':
        pairs = zip(texts, vectors_ND.tolist(), strict=True)
        lines = [json.dumps({'text': text, 'embedding': vector}) for text, vector in pairs]
        replace_file(path, ('\n'.join(lines) + '\n').encode())
        return
    arrays = {'embeddings': vectors_ND}
    if 4 * len(texts) * max(map(len, texts)) <= LARGEST_TEXTS:
        arrays['texts'] = np.array(texts)
    else:
        console.print('the texts are too long for an array of their own; .jsonl keeps them beside their vectors')
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    replace_file(path, buffer.getvalue())


def similarity_table(texts: list[str], vectors_ND: np.ndarray) -> Table:
    """The cosine of every pair."""
    unit_ND = vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=-1, keepdims=True), 1e-12)
    table = Table(title='cosine similarity', title_justify='left')
    table.add_column('')
    table.add_column('text', overflow='ellipsis', no_wrap=True, max_width=50)
    for number in range(1, len(texts) + 1):
        table.add_column(str(number), justify='right')
    for number, (text, cosines) in enumerate(zip(texts, unit_ND @ unit_ND.T, strict=True), 1):
        table.add_row(str(number), text, *(f'{cosine:.3f}' for cosine in cosines))
    return table
