"""Suite `sliding`: exact bits per byte with as much context as one says: models of all kinds on equal terms."""

from collections.abc import Callable

from ml_collections import FrozenConfigDict

from gpt2jax.config import overlay
from gpt2jax.errors import UserError
from gpt2jax.evaluation.lengths import likelihood_lengths
from gpt2jax.evaluation.subject import Subject, SuiteResult, split_argument
from gpt2jax.training.loop import evaluate_rows
from gpt2jax.training.setup import Setup
from gpt2jax.validation import resolve


def sliding(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """The likelihood of a split, so many tokens at a time, each predicted from at most so many.

    A model with a fixed window reads a window again for every stride of it; a model with a memory reads a stride at a
    time, and its memory holds the rest of the context (Dai et al. 2019, section 3.2).

    Args:
      argument: 'SPLIT,stride=N,context=N'; by default the validation split, a quarter of a row of training and a row.
    """
    config = subject.setup.config
    length = config.data.length
    defaults = {'stride': max(1, length // 4), 'context': length}
    split, options = split_argument('sliding', argument, defaults)
    split = split or 'validation'
    try:
        setup = with_lengths(subject.setup, **options)
    except UserError as error:
        return SuiteResult({}, [], [f'no figure: {error}'], options)
    lossless, lengths = subject.tokenizer.lossless, likelihood_lengths(setup.config)
    exact = [(measure, step) for measure, step in setup.evaluations(lossless) if measure.name == 'likelihood']
    if not exact:
        return SuiteResult({}, [], ['no figure: such a model gives a text no likelihood'], options)
    rows, byte_lengths = subject.rows(split), subject.tokenizer.byte_lengths
    result = evaluate_rows(setup, exact, subject.params, rows, byte_lengths, 0, track)
    names = [name for name in ('bits_per_byte', 'nats_per_token') if name in result]
    shown = ', '.join(f'{result[name]:.4f} {name.replace("_", " ")}' for name in names)
    figures = {f'{name}_sliding': result[name] for name in names}
    lines = [f'{shown} ({result["predicted"]:,} tokens of {split}; {lengths})']
    return SuiteResult(figures, [result], lines, options | {'split': split} | lengths.figures())


def with_lengths(setup: Setup, stride: int, context: int) -> Setup:
    """The same model, its likelihood measured with these lengths. Raises UserError where the model cannot."""
    changes = {'evaluation.stride': stride, 'evaluation.context': context}
    return Setup(FrozenConfigDict(resolve(overlay(setup.config, changes))), setup.mesh)
