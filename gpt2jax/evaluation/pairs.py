"""How well a model answers sources: its targets, written by beam search, beside those of the corpus.

Targets of units (tokenizer symbols:N, as phonemes) are scored by their edit distance, those of text by BLEU and chrF.
A source may have several targets, as a word has several pronunciations: then the closest one counts, as is usual for
dictionaries, and BLEU and chrF are given all of them.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from gpt2jax.data.builder import Pair
from gpt2jax.errors import UserError
from gpt2jax.evaluation.subject import Subject, SuiteResult, split_argument
from gpt2jax.generation.beam import BeamSearch
from gpt2jax.generation.text import context_of, until_end

ROWS = 256  # texts that are written together, over all beams
MULTIPLE = 8  # lengths of prompts are rounded up to it: few shapes are few compilations
LONGER = 50  # tokens that a target may have beyond its source (Vaswani et al. 2017, section 6.1)
INSTALL = 'pip install -r requirements-translation.txt'


@dataclasses.dataclass(frozen=True)
class Question:
    """A source, and all targets that the corpus has for it."""

    source: str
    targets: tuple[str, ...]


def pairs(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """Writes a target for every source of a split, and compares it with those that are there.

    Args:
      argument: 'SPLIT,limit=N,beams=B'; by default the validation split, all its sources (0), and `sampling.beams`, or
        greedy decoding where that is 0.
    """
    sampling = subject.setup.config.sampling
    split, options = split_argument('pairs', argument, {'limit': 0, 'beams': max(1, sampling.beams)})
    split, beams = split or 'validation', options['beams']
    if not beams:
        raise UserError(f'--suite=pairs:{argument}: beams=0: at least 1 is needed, which is greedy decoding')
    units = subject.tokenizer.name.startswith('symbols:')
    if not units:
        import_sacrebleu()
    if 'seq2seq' not in subject.kinds:
        return SuiteResult({}, [], ['no figure: the model was not trained on pairs (objective seq2seq)'])
    questions = spread(gather(subject.pairs(split)), options['limit'])
    answers = write_answers(subject, [question.source for question in questions], beams, track)
    score = score_units if units else score_texts
    figures, items, lines = score(questions, answers)
    several = sum(len(question.targets) > 1 for question in questions)
    how = f'beam search with {beams} beams, length penalty {sampling.length_penalty:g}' if beams > 1 else 'greedy'
    count = f'{len(questions):,} sources of {split}, {several:,} with several targets, of which the closest counts'
    lines += [f'{count}; {how}']
    about = {'split': split, 'beams': beams, 'length_penalty': sampling.length_penalty}
    return SuiteResult(figures, items, lines, about)


def gather(pairs: Sequence[Pair]) -> list[Question]:
    """The pairs by their source, in the order in which each source is first there."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        found.setdefault(pair.source, []).append(pair.target)
    return [Question(source, tuple(dict.fromkeys(targets))) for source, targets in found.items()]


def spread(questions: list[Question], limit: int) -> list[Question]:
    """`limit` evenly spaced ones; 0: all."""
    count = min(limit or len(questions), len(questions))
    return [questions[i] for i in np.arange(count) * len(questions) // max(count, 1)]


def write_answers(subject: Subject, sources: Sequence[str], beams: int, track: Callable) -> list[str]:
    """What the model writes for each source, in their order; sources of like length are written together."""
    setup, tokenizer = subject.setup, subject.tokenizer
    context, size = context_of(setup.config), max(1, ROWS // beams)
    params = jax.device_put(subject.params, jax.local_devices()[0])
    penalty = setup.config.sampling.length_penalty
    search = BeamSearch(setup.model, params, context, beams, penalty, tokenizer, reading='target')
    prompts = [tokenizer.encode(source).tolist() for source in sources]
    by_length = np.argsort([len(prompt) for prompt in prompts], kind='stable')
    answers = [''] * len(sources)
    starts = range(0, len(sources), size)
    for start in track(starts, 'writing targets'):
        chosen = by_length[start : start + size]
        filled = np.resize(chosen, min(size, len(sources)))  # the last batch repeats itself: one shape less to compile
        slots = -(-(len(prompts[chosen[-1]]) + 2) // MULTIPLE) * MULTIPLE
        room = max(1, min(slots + LONGER, context - slots))
        written, _ = search([prompts[i] for i in filled], room, prompt_slots=slots)
        for i, ids in zip(chosen, written, strict=False):
            answers[i] = tokenizer.decode(until_end(ids, tokenizer, True))
    return answers


def score_units(questions: list[Question], answers: list[str]) -> tuple[dict, list[dict], list[str]]:
    """Edits over the units of the closest targets, and the share of sources whose answer is none of its targets."""
    items = []
    for question, answer in zip(questions, answers, strict=True):
        targets = [target.split() for target in question.targets]
        edits, units = min((edit_distance(answer.split(), target), len(target)) for target in targets)
        texts = {'source': question.source, 'answer': answer, 'targets': question.targets}
        items.append(texts | {'edits': edits, 'units': units})
    units = sum(item['units'] for item in items)
    wrong = sum(item['edits'] > 0 for item in items)
    figures = {
        'unit_error_rate': sum(item['edits'] for item in items) / max(units, 1),
        'word_error_rate': wrong / max(len(items), 1),
    }
    line = (
        f'{figures["unit_error_rate"]:.2%} unit error rate (of phonemes: PER; {units:,} units), '
        f'{figures["word_error_rate"]:.2%} word error rate ({wrong:,} answers are not right as a whole)'
    )
    return figures, items, [line]


def score_texts(questions: list[Question], answers: list[str]) -> tuple[dict, list[dict], list[str]]:
    """BLEU and chrF of the corpus as sacrebleu computes them (Post 2018), with its signatures."""
    metrics = import_sacrebleu()
    most = max(len(question.targets) for question in questions)
    references = [[(*question.targets, *[None] * most)[i] for question in questions] for i in range(most)]
    figures, lines = {}, []
    for name, metric in (('bleu', metrics.BLEU()), ('chrf', metrics.CHRF())):
        found = metric.corpus_score(answers, references)
        figures[name] = found.score
        lines.append(f'{found.score:.2f} {found.name} ({metric.get_signature()})')
    texts = zip(questions, answers, strict=True)
    items = [{'source': q.source, 'answer': answer, 'targets': q.targets} for q, answer in texts]
    return figures, items, lines


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """The fewest insertions, deletions and replacements of units that turn a into b (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, unit in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (unit != other))
    return row[-1]


def import_sacrebleu():
    """sacrebleu's metrics, which are an optional extra."""
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise UserError(f'--suite=pairs scores text with sacrebleu, missing here: {INSTALL}') from error
    return metrics
