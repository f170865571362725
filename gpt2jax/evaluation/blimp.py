"""BLiMP: does a model find a grammatical sentence likelier than one that differs from it in one point?

Warstadt et al. 2020: 67 paradigms of 1,000 pairs, each a .jsonl file of a folder. A pair is right where the good
sentence has the lower nats, and half right where both have the same.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt2jax.errors import UserError
from gpt2jax.evaluation.scoring import Request, Score, best_mode, make_scorers, score_all
from gpt2jax.evaluation.subject import Subject, SuiteResult, split_argument
from gpt2jax.files import describe_bytes

TIE = 1e-5  # nats: what is less apart differs by rounding alone
LARGEST_FOLDER = 256 << 20
LONGEST_SENTENCE = 10_000  # characters
HOW = {
    'causal': 'exact likelihood of the sentence after the beginning of a document',
    'pseudo': 'each token hidden alone (Salazar et al. 2020)',
    'pseudo_l2r': 'each token hidden with the later ones of its word (Kauf & Ivanova 2023)',
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """One line of a file.

    Attributes:
      paradigm: the name of the file, without its ending.
      field, term: as the line says: 'syntax', 'island_effects'; '' where it does not.
      line: its number, from 1.
    """

    paradigm: str
    field: str
    term: str
    line: int
    good: str
    bad: str


def blimp(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """Accuracy over the paradigms of a folder, in every mode that the model has.

    `blimp_accuracy` is that of the mode by which models compare (`best_mode`), the mean over paradigms.

    Args:
      argument: 'FOLDER' or 'FOLDER,limit=N', the first N pairs of each paradigm.

    Raises:
      UserError: no folder or no pairs in it, a line that is no pair, or a sentence longer than the model can read.
    """
    folder, options = split_argument('blimp', argument, {'limit': 0})
    if not folder:
        raise UserError('--suite=blimp: which folder? --suite=blimp:FOLDER, with its .jsonl files')
    scorers, best = make_scorers(subject), best_mode(subject)
    pairs = read_pairs(Path(folder).expanduser(), options['limit'])
    if best is None:
        return SuiteResult({}, [], ['no figure: such a model gives a sentence no score'])
    requests = requests_of(pairs, subject.tokenizer, min(scorer.longest for scorer in scorers.values()))
    scores = score_all(scorers, requests, track)
    modes = {mode: judge(pairs, found) for mode, found in scores.items()}
    figures = figures_of(pairs, modes, best)
    about = {
        'mode': best,
        'modes': {mode: HOW[mode] for mode in scorers},
        'pairs': len(pairs),
        'limit': options['limit'],
        'tie_nats': TIE,
        'paradigms': {mode: table_of(pairs, points_N, 'paradigm') for mode, points_N in modes.items()},
        'fields': {mode: table_of(pairs, points_N, 'field') for mode, points_N in modes.items()},
        'terms': {mode: table_of(pairs, points_N, 'term') for mode, points_N in modes.items()},
    }
    return SuiteResult(figures, items_of(pairs, scores, modes), lines_of(figures, about), about)


def read_pairs(folder: Path, limit: int) -> list[Pair]:
    """The pairs of all .jsonl files of a folder, file by file in the order of their names.

    Args:
      limit: of each file the first so many; 0: all.
    """
    if not folder.is_dir():
        raise UserError(f'--suite=blimp:{folder}: there is no such folder')
    files = sorted(folder.glob('*.jsonl'))
    if not files:
        raise UserError(f'--suite=blimp:{folder}: the folder has no .jsonl file; BLiMP has one for each paradigm')
    if sum(file.stat().st_size for file in files) > LARGEST_FOLDER:
        raise UserError(f'--suite=blimp:{folder}: more than {describe_bytes(LARGEST_FOLDER)} of .jsonl; not read')
    pairs = [pair for file in files for pair in read_file(file, limit)]
    if not pairs:
        raise UserError(f'--suite=blimp:{folder}: the .jsonl files of the folder are empty')
    return pairs


def read_file(file: Path, limit: int) -> list[Pair]:
    """The pairs of one paradigm."""
    try:
        lines = file.read_text('utf-8').split('\n')
    except (OSError, ValueError) as error:
        raise UserError(f'--suite=blimp: {file} cannot be read ({error})') from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not (limit and len(found) >= limit):
            found.append(read_pair(line, file, number))
    return found


def read_pair(line: str, file: Path, number: int) -> Pair:
    """A pair from a line of JSON."""
    where = f'--suite=blimp: {file}, line {number}'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{where}: not JSON ({error})') from error
    if not isinstance(record, dict):
        raise UserError(f'{where}: an object with sentence_good and sentence_bad is needed')
    for key in ('sentence_good', 'sentence_bad'):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise UserError(f'{where}: {key} is missing, or no text')
        if len(record[key]) > LONGEST_SENTENCE:
            raise UserError(f'{where}: {key} has {len(record[key]):,} characters, more than {LONGEST_SENTENCE:,}')
    # The data spell one field 'syntax/semantics' and 'syntax_semantics'.
    field, term = (re.sub(r'\W+', '_', str(record.get(key) or ''))[:100] for key in ('field', 'linguistics_term'))
    return Pair(file.stem, field, term, number, record['sentence_good'], record['sentence_bad'])


def requests_of(pairs: list[Pair], tokenizer, longest: int) -> list[Request]:
    """Two requests for each pair, the good sentence first, each the beginning of a text."""
    requests = []
    for pair in pairs:
        for sentence in (pair.good, pair.bad):
            ids = tuple(tokenizer.encode(sentence).tolist())
            if not 0 < len(ids) <= longest:
                raise UserError(
                    f'--suite=blimp: {pair.paradigm}, line {pair.line}: a sentence of {len(ids)} tokens; this model '
                    f'can score 1 to {longest}'
                )
            requests.append(Request((), ids))
    return requests


def judge(pairs: list[Pair], scores: list[Score]) -> np.ndarray:
    """[N] what each pair is worth: 1 where the good sentence is likelier, 0.5 for a tie, else 0."""
    nats_N2 = np.array([score.nats for score in scores]).reshape(len(pairs), 2)
    gap_N = nats_N2[:, 1] - nats_N2[:, 0]
    return np.where(np.abs(gap_N) < TIE, 0.5, gap_N > 0).astype(np.float64)


def table_of(pairs: list[Pair], points_N: np.ndarray, key: str) -> dict[str, float]:
    """{name: accuracy} by paradigm; by 'field' or 'term' it is the mean over its paradigms, as all figures here."""
    groups: dict[str, dict[str, list[float]]] = {}
    for pair, points in zip(pairs, points_N.tolist(), strict=True):
        groups.setdefault(getattr(pair, key), {}).setdefault(pair.paradigm, []).append(points)
    return {
        name: float(np.mean([np.mean(points) for points in paradigms.values()])) for name, paradigms in groups.items()
    }


def figures_of(pairs: list[Pair], modes: dict[str, np.ndarray], best: str) -> dict[str, float]:
    """blimp_accuracy, blimp_ties and blimp_FIELD_accuracy of the best mode, and accuracy and ties of every mode."""

    def overall(points_N):
        return float(np.mean(list(table_of(pairs, points_N, 'paradigm').values())))

    def ties(points_N):
        return float(np.mean(points_N == 0.5))

    figures = {'blimp_accuracy': overall(modes[best]), 'blimp_ties': ties(modes[best])}
    for field, accuracy in table_of(pairs, modes[best], 'field').items():
        if field:
            figures[f'blimp_{field}_accuracy'] = accuracy
    for mode, points_N in modes.items():
        figures |= {f'blimp_{mode}_accuracy': overall(points_N), f'blimp_{mode}_ties': ties(points_N)}
    return figures


def items_of(pairs: list[Pair], scores: dict[str, list[Score]], modes: dict[str, np.ndarray]) -> list[dict]:
    """One item a pair: its sentences, and for each mode both scores in nats and what it is worth."""
    items = []
    for number, pair in enumerate(pairs):
        item = {'paradigm': pair.paradigm, 'line': pair.line, 'good': pair.good, 'bad': pair.bad}
        for mode, points_N in modes.items():
            good, bad = scores[mode][2 * number : 2 * number + 2]
            item[mode] = {'good_nats': good.nats, 'bad_nats': bad.nats, 'points': float(points_N[number])}
        items.append(item | {'good_tokens': good.tokens, 'bad_tokens': bad.tokens})
    return items


def lines_of(figures: dict[str, float], about: dict) -> list[str]:
    """The figures by mode and by field, and what they do not say."""
    some = f', the first {about["limit"]} of each' if about['limit'] else ''
    best, paradigms = about['mode'], len(about['paradigms'][about['mode']])
    fields = [f'{name} {accuracy:.2%}' for name, accuracy in about['fields'][best].items() if name]
    others = [
        f'in the mode {mode}: {figures[f"blimp_{mode}_accuracy"]:.2%}, {figures[f"blimp_{mode}_ties"]:.2%} ties'
        for mode in about['modes']
        if mode != best
    ]
    return [
        f'{figures["blimp_accuracy"]:.2%} of the pairs right, {figures["blimp_ties"]:.2%} ties (counted as half), '
        f'in the mode {best}: {HOW[best]}',
        f'{about["pairs"]:,} pairs of {paradigms} paradigms{some}; the mean over paradigms; chance is 50 %',
        *([', '.join(fields)] if fields else []),
        *others,
        'a choice between two whole sentences; nothing is said of what the model would write itself',
    ]
