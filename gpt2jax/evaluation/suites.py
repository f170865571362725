"""Suites: what a trained run is measured by beyond its loss.

`launch.py evaluate --workdir=RUN --suite=NAME[:ARGUMENT]` runs them. A new suite is a function in a file of its own
(gpt2jax/evaluation/subject.py says what it takes and returns) and one line of SUITES.
"""

import hashlib
import json
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from gpt2jax.errors import UserError
from gpt2jax.evaluation.blimp import blimp
from gpt2jax.evaluation.cloze import cloze, last_word
from gpt2jax.evaluation.costs import cost
from gpt2jax.evaluation.finetuning import finetune_suite
from gpt2jax.evaluation.harness import harness
from gpt2jax.evaluation.heldout import length, pseudo
from gpt2jax.evaluation.pairs import pairs
from gpt2jax.evaluation.probing import probe_suite
from gpt2jax.evaluation.sliding import sliding
from gpt2jax.evaluation.subject import Subject, SuiteResult
from gpt2jax.files import replace_file, write_json

LONGEST_SLUG = 60
PACKAGES = ('jax', 'flax', 'numpy')


def run_suite(subject: Subject, text: str, track: Callable) -> SuiteResult:
    """Measures a model.

    Args:
      text: 'NAME' or 'NAME:ARGUMENT'.
      track: draws a bar (gpt2jax.training.progress).

    Raises:
      UserError: an unknown name, or an argument that the suite refuses.
    """
    name, argument = check_suite(text)
    return SUITES[name](subject, argument, track)


def check_suite(text: str) -> tuple[str, str]:
    """(name, argument) of 'NAME:ARGUMENT'. Raises UserError for a name that is not in SUITES."""
    name, _, argument = text.partition(':')
    if name not in SUITES:
        raise UserError(f'--suite={text}: there is no such suite; one of: {", ".join(SUITES)}')
    return name, argument


def slug_of(text: str) -> str:
    """The name of a suite's files: what of its text may stand in a file's name, and a digest where that is not all."""
    safe = re.sub(r'[^A-Za-z0-9_]+', '-', text).strip('-')[:LONGEST_SLUG]
    return safe if safe == text else f'{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'


def write_result(folder: Path, text: str, subject: Subject, result: SuiteResult) -> tuple[Path, Path]:
    """Writes SLUG.items.jsonl and then SLUG.json into a folder, each whole or not at all; returns both paths.

    Where SLUG.json is there, so are its items.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items, summary = folder / f'{slug_of(text)}.items.jsonl', folder / f'{slug_of(text)}.json'
    lines = [json.dumps(item, allow_nan=False, ensure_ascii=False) + '\n' for item in result.items]
    replace_file(items, ''.join(lines).encode('utf-8', 'replace'))
    config = subject.setup.config
    about = {
        'lines': result.lines,
        'items': len(result.items),
        'objectives': list(subject.kinds),
        'tokenizer': {'name': subject.tokenizer.name, 'fingerprint': subject.tokenizer.fingerprint},
        'corpus': config.data.corpus,
        'length': config.data.length,
        'versions': {package: version(package) for package in PACKAGES},
    }
    value = {'suite': text, 'step': subject.step, 'figures': result.figures, 'about': about | result.about}
    write_json(summary, value)
    return summary, items


SUITES = {
    'finetune': finetune_suite,
    'probe': probe_suite,
    'blimp': blimp,
    'cloze': cloze,
    'last_word': last_word,
    'pseudo': pseudo,
    'length': length,
    'sliding': sliding,
    'cost': cost,
    'pairs': pairs,
    'harness': harness,
}

__all__ = ['SUITES', 'Subject', 'SuiteResult', 'check_suite', 'run_suite', 'slug_of', 'write_result']
