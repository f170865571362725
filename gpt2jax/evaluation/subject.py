"""A trained model that is to be measured, and what a suite of measurements returns.

A suite is a function `suite(subject, argument, track) -> SuiteResult` in a file of its own beside this one, with its
name in SUITES of gpt2jax/evaluation/suites.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from gpt2jax.batches import rows_of
from gpt2jax.data import Prepared, Tokenizer
from gpt2jax.data.builder import Pair
from gpt2jax.data.corpora import make_corpus
from gpt2jax.data.rows import Rows
from gpt2jax.errors import UserError
from gpt2jax.objectives import phases
from gpt2jax.training.setup import Setup


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained model with its tokenizer and its text.

    Attributes:
      setup: its config, model and mesh.
      params: on the devices of the mesh.
      tokenizer: the run's own.
      step: of the checkpoint that `params` come from.
      workdir: the folder of the run.
      prepare: makes or finds the run's corpus and tokens; called when a suite first asks for them.
    """

    setup: Setup
    params: dict
    tokenizer: Tokenizer
    step: int
    workdir: Path
    prepare: Callable[[], Prepared]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The objectives that the run was trained with, the last one first, each once."""
        return tuple(dict.fromkeys(kind for _, kind in reversed(phases(self.setup.config))))

    @functools.cached_property
    def prepared(self) -> Prepared:
        """The tokens of the run's corpus."""
        return self.prepare()

    def rows(self, split: str) -> Rows:
        """The rows of a split, as long as those of training. Raises UserError for a split that is not there."""
        return rows_of(self.setup.config, self._split(split), self.tokenizer)

    def documents(self, split: str) -> Sequence[str]:
        """The texts of a split of the run's corpus, in order. Raises UserError for a split that is not there."""
        tokens = self._split(split)
        return _Decoded(tokens, self.tokenizer) if self.tokenizer.lossless else self._stored(split)

    def pairs(self, split: str) -> Sequence[Pair]:
        """The pairs of a split of the run's corpus, in order. Raises UserError for what is not there."""
        self._split(split)
        stored = self._stored(split)
        if not isinstance(stored[0], Pair):
            raise UserError(f'--suite: config.data.corpus = {self.setup.config.data.corpus!r} has no pairs')
        return stored

    def _stored(self, split: str) -> Sequence[str] | Sequence[Pair]:
        data, directory = self.setup.config.data, Path(self.setup.config.data.directory).expanduser()
        return make_corpus(data.corpus, data.path, data.text_key, directory).sources(directory)[split]

    def _split(self, split: str):
        if split not in self.prepared.splits:
            raise UserError(f'--suite: there is no split {split!r}; one of: {", ".join(self.prepared.splits)}')
        return self.prepared.splits[split]


@dataclasses.dataclass(frozen=True)
class SuiteResult:
    """What was measured.

    Attributes:
      figures: by name; one that the model cannot have is left out. A name with an end in HIGHER
        (gpt2jax.evaluation.measures) is higher where a model is better.
      items: one JSON object for each thing that was scored, so that every figure can be checked.
      lines: for a person to read, with what the figures do not say.
      about: JSON: what was scored and how, with its sizes.
    """

    figures: dict[str, float]
    items: list[dict]
    lines: list[str]
    about: dict = dataclasses.field(default_factory=dict)


class _Decoded(Sequence):
    """The texts of a split whose tokenizer keeps every byte."""

    def __init__(self, tokens, tokenizer: Tokenizer):
        self._tokens, self._tokenizer = tokens, tokenizer

    def __len__(self) -> int:
        return self._tokens.num_documents

    def __getitem__(self, index: int) -> str:
        return self._tokenizer.decode(self._tokens.document(index))


def split_argument(suite: str, argument: str, options: dict[str, int | tuple[float, ...]]) -> tuple[str, dict]:
    """'FOLDER,limit=100' -> ('FOLDER', {'limit': 100}), over the given defaults.

    An option whose default is a tuple takes numbers with + between, as 'rates=1e-4+3e-4', since a comma ends it.

    Raises:
      UserError: an unknown option, or a value that is no number from 0 on.
    """
    found = dict(options)
    parts = argument.split(',')
    while parts and '=' in parts[-1] and (name := parts[-1].partition('=')[0].strip()).isidentifier():
        value = parts.pop().partition('=')[2].strip()
        if name not in options:
            known = ', '.join(f'{option}=N' for option in options) or 'none'
            raise UserError(f'--suite={suite}:{argument}: there is no option {name!r}; options: {known}')
        if isinstance(options[name], tuple):
            found[name] = parse_numbers(value, '+', f'--suite={suite}:{argument}: {name}')
        elif value.isdigit() and value.isascii() and len(value) < 10:
            found[name] = int(value)
        else:
            raise UserError(f'--suite={suite}:{argument}: {name}={value}: expected a number, 0 or more')
    return ','.join(parts), found


def parse_numbers(text: str, between: str, what: str) -> tuple[float, ...]:
    """'1e-4,3e-4' -> (0.0001, 0.0003). Raises UserError, which begins with `what`, for what is no number."""
    try:
        return tuple(float(number) for number in text.split(between))
    except ValueError as error:
        raise UserError(f'{what}={text}: expected numbers with {between} between ({error})') from None
