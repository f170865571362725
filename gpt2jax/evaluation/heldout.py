"""Suites of the run's own held-out rows: pseudo-log-likelihood, and bits per byte with rows of another length."""

from collections.abc import Callable

import numpy as np
from ml_collections import FrozenConfigDict

from gpt2jax.batches import rows_of
from gpt2jax.config import overlay
from gpt2jax.errors import UserError
from gpt2jax.evaluation.pseudo import Hidden, pseudo_likelihood
from gpt2jax.evaluation.scoring import FILLING
from gpt2jax.evaluation.subject import Subject, SuiteResult, split_argument
from gpt2jax.training.loop import evaluate_rows
from gpt2jax.training.setup import Setup
from gpt2jax.validation import resolve

VARIANTS = {'pseudo': False, 'pseudo_l2r': True}
LONGEST = 1 << 16  # tokens of a row


def pseudo(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """Pseudo-log-likelihood of held-out rows, each token hidden alone, and with the later ones of its word.

    Args:
      argument: 'SPLIT,rows=N'; by default the validation split and `evaluation.pseudo_rows`, 0: all.
    """
    split, options = split_argument('pseudo', argument, {'rows': subject.setup.config.evaluation.pseudo_rows})
    split = split or 'validation'
    measured = [m.objective for m, _ in subject.setup.evaluations(subject.tokenizer.lossless) if m.name in FILLING]
    if not measured:
        return SuiteResult({}, [], ['no pseudo-log-likelihood: the model was not trained to fill what is hidden'])
    figures, found = {}, {}
    for name, within_word in VARIANTS.items():
        rows = subject.rows(split)
        arguments = subject.setup, subject.params, measured[0], rows, subject.tokenizer, options['rows'], track
        found[name] = pseudo_likelihood(*arguments, within_word=within_word)
        figures |= found[name].figures(subject.tokenizer, name)
    counts = f'{figures["pseudo_predicted"]:,} tokens of {figures["pseudo_rows"]} rows of {split}'
    lines = [
        f'each token hidden alone: {figures["pseudo_nats_per_token"]:.4f} nats per token ({counts})',
        f'with the later tokens of its word: {figures["pseudo_l2r_nats_per_token"]:.4f} nats per token',
        'no likelihood: each token is told by those behind it, so neither compares with bits per byte',
    ]
    return SuiteResult(figures, by_row(found), lines, {'split': split, 'mask_offset': measured[0].mask_offset})


def by_row(found: dict[str, Hidden]) -> list[dict]:
    """One item a row: its number in its split, how many tokens were hidden, and the sum of their nats."""
    any_one = next(iter(found.values()))
    items = []
    for row in np.unique(any_one.row):
        mine_N = any_one.row == row
        nats = {f'{name}_nats': float(hidden.nats[mine_N].sum()) for name, hidden in found.items()}
        items.append({'row': int(row), 'tokens': int(mine_N.sum())} | nats)
    return items


def length(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """Exact bits per byte of a split cut into rows of another length than those of training.

    Angles that `position.scaling` shrinks are shrunk to that length; a table of learned positions has an end.

    Args:
      argument: 'N', tokens in a row, or 'N:SPLIT'.
    """
    number, _, split = argument.partition(':')
    split = split or 'validation'
    if not (number.isdigit() and number.isascii() and 1 <= int(number[:9]) <= LONGEST and len(number) < 9):
        raise UserError(f'--suite=length:{argument}: expected tokens in a row, 1 to {LONGEST}, as in length:256')
    N, config = int(number), subject.setup.config
    position, lossless = config.model.position, subject.tokenizer.lossless
    about = {'split': split, 'row_tokens': N, 'trained_length': config.data.length, 'position': position.kind}
    if position.kind == 'learned' and position.max_length < N:
        reason = f'its table of positions ends at {position.max_length}, and there is none for rows of {N} tokens'
        return SuiteResult({}, [], [f'no figure: {reason}'], about)
    setup = with_length(subject.setup, N)
    exact = [(measure, step) for measure, step in setup.evaluations(lossless) if measure.name == 'likelihood']
    if not exact:
        return SuiteResult({}, [], ['no figure: such a model gives a text no likelihood'], about)
    rows = rows_of(setup.config, subject.rows(split).tokens, subject.tokenizer)
    result = evaluate_rows(setup, exact, subject.params, rows, subject.tokenizer.byte_lengths, 0, track)
    names = [name for name in ('bits_per_byte', 'nats_per_token') if name in result]
    figures = {f'{name}_at_{N}': result[name] for name in names}
    shown = ', '.join(f'{result[name]:.4f} {name.replace("_", " ")}' for name in names)
    lines = [
        f'rows of {N} tokens (trained with {config.data.length}): {shown} ({result["predicted"]:,} tokens of {split})',
        'what is cut into rows of another length has other contexts: compare with length:'
        f'{config.data.length} of the same run',
    ]
    return SuiteResult(figures, [result | {'row_tokens': N, 'rows': len(rows)}], lines, about)


def with_length(setup: Setup, rows_of: int) -> Setup:
    """The same model with rows of another length, about as many tokens at a time."""
    config = setup.config
    batch = max(1, config.evaluation.batch_size * config.data.length // rows_of)
    batch = -(-batch // setup.mesh.size) * setup.mesh.size
    table = config.model.position.max_length
    changes = {
        'data.length': rows_of,
        'evaluation.stride': 0,
        'evaluation.context': 0,
        'model.position.max_length': max(rows_of, table),  # of learned positions it is no less than the rows
        'evaluation.batch_size': batch,
        'training.batch_size': batch,
    }
    return Setup(FrozenConfigDict(resolve(overlay(config, changes))), setup.mesh)
