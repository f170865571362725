"""Two tests made of the run's own held-out documents: a word to be chosen, and a word to be continued with."""

import dataclasses
from collections.abc import Callable

import numpy as np

from gpt2jax.errors import UserError
from gpt2jax.evaluation.passages import PASSAGE, WORD, Gap, Words, gap_at, gaps_inside, last_gap, passages, spread
from gpt2jax.evaluation.scoring import Request, Score, Scorer, best_mode, make_scorers
from gpt2jax.evaluation.subject import Subject, SuiteResult, split_argument
from gpt2jax.generation.text import context_of

CANDIDATES = 10  # the right word among them, as in the Children's Book Test
ITEMS = 1000
WRAPPING = 2  # tokens around a text, at most
TIE = 1e-5  # nats: what is less apart differs by rounding alone
# A word of several tokens must not be told by its own later ones, so of masked models this mode alone counts.
MODES = ('causal', 'pseudo_l2r')
CLOZE_HOW = {
    'causal': 'p(word and all that follows | what precedes)',
    'pseudo_l2r': 'p(word | both sides), token by token with the later ones hidden',
}
LAST_HOW = {
    'causal': 'p(word | what precedes)',
    'pseudo_l2r': 'p(word | what precedes), hidden at the end of the text, token by token with the later ones hidden',
}


@dataclasses.dataclass(frozen=True)
class Question:
    """A gap and what may stand in it, the right word first; candidates have as many tokens each."""

    gap: Gap
    words: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]


def cloze(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """Which of ten words has been left out of a passage? (After Hill et al. 2016, the Children's Book Test.)

    Every model reads the passage with each candidate filled in. What is compared is, up to a number that is the same
    for all candidates, log p(candidate | the rest): by the chain rule exactly that for a model that predicts from left
    to right, since only the candidate and what follows change; a masked model predicts the gap from both sides.

    Args:
      argument: 'SPLIT,items=N'; by default the validation split and 1,000, 0: all.
    """
    split, count = split_and_count('cloze', argument)
    modes, best = modes_of(subject)
    if best is None:
        return SuiteResult({}, [], ['no figure: such a model gives a word in a text no score'])
    questions = spread(make_questions(subject, split, passage_length(subject)), count)
    if not questions:
        raise UserError(
            f'--suite=cloze: the {split} split has no passage with a word and {CANDIDATES - 1} others like it'
        )
    scores = {mode: scorer.score(cloze_requests(questions, mode), track) for mode, scorer in modes.items()}
    points = {mode: judge(found) for mode, found in scores.items()}
    figures = {'cloze_accuracy': float(points[best].mean())}
    figures |= {f'cloze_{mode}_accuracy': float(points_N.mean()) for mode, points_N in points.items()}
    lines = [
        f'{figures["cloze_accuracy"]:.2%} of {len(questions):,} words chosen right among {CANDIDATES} as frequent '
        f'and as many tokens; chance is {1 / CANDIDATES:.0%}, one standard error {error_of(points[best]):.1%}',
        *(f'in the mode {mode}: {figures[f"cloze_{mode}_accuracy"]:.2%}, {CLOZE_HOW[mode]}' for mode in modes),
        'no word of the ten stands elsewhere in the passage, so that copying does not help',
    ]
    about = about_of(subject, split, best, modes, CLOZE_HOW) | {'candidates': CANDIDATES, 'chance': 1 / CANDIDATES}
    return SuiteResult(figures, cloze_items(questions, scores, points), lines, about)


def last_word(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """Is the last word of a passage the one that the model would write? (After Paperno et al. 2016, LAMBADA.)

    The left context alone is given. A word counts as predicted where each of its tokens is the likeliest one. A masked
    model sees the passage with the word hidden at its end, and by the number of hidden tokens how long the word is,
    which a causal model is not told.

    Args:
      argument: 'SPLIT,items=N'; by default the validation split and 1,000, 0: all.
    """
    split, count = split_and_count('last_word', argument)
    modes, best = modes_of(subject)
    if best is None:
        return SuiteResult({}, [], ['no figure: such a model gives a word behind a text no score'])
    found = passages(subject.documents(split), subject.tokenizer, passage_length(subject))
    gaps = [gap for number, text in found if (gap := last_gap(number, text, subject.tokenizer)) is not None]
    if not gaps:
        raise UserError(f'--suite=last_word: the {split} split has no passage that ends with a word')
    gaps = spread(gaps, count)
    requests = [Request(gap.left, gap.target) for gap in gaps]
    scores = {mode: scorer.score(requests, track) for mode, scorer in modes.items()}
    figures = last_word_figures(gaps, scores[best], 'last_word')
    for mode in modes:
        figures |= last_word_figures(gaps, scores[mode], f'last_word_{mode}')
    seen = sum(gap.seen for gap in gaps)
    lines = [
        f'{figures["last_word_accuracy"]:.2%} of {len(gaps):,} last words predicted, '
        f'{figures["last_word_nats_per_word"]:.3f} nats per word',
        f'of the {seen:,} that stood in the passage before, as in LAMBADA: '
        + (f'{figures["last_word_seen_accuracy"]:.2%}' if seen else 'none'),
        *(f'in the mode {mode}: {figures[f"last_word_{mode}_accuracy"]:.2%}, {LAST_HOW[mode]}' for mode in modes),
        'a masked model is told the number of tokens, a causal one is not',
    ]
    items = []
    for number, gap in enumerate(gaps):
        item = {'document': gap.document, 'before': gap.before, 'word': gap.word, 'seen': gap.seen}
        mine = {mode: {'nats': s[number].nats, 'greedy': s[number].greedy} for mode, s in scores.items()}
        items.append(item | {'tokens': len(gap.target)} | mine)
    about = about_of(subject, split, best, modes, LAST_HOW) | {'seen_before': seen}
    return SuiteResult(figures, items, lines, about)


def last_word_figures(gaps: list[Gap], scores: list[Score], name: str) -> dict[str, float]:
    """Accuracy, nats a word, and the accuracy over the words that were seen before, if there are any."""
    right_N, seen_N = np.array([s.greedy for s in scores]), np.array([gap.seen for gap in gaps])
    seen = {f'{name}_seen_accuracy': float(right_N[seen_N].mean())} if seen_N.any() else {}
    nats = float(np.mean([s.nats for s in scores]))
    return {f'{name}_accuracy': float(right_N.mean()), f'{name}_nats_per_word': nats} | seen


def make_questions(subject: Subject, split: str, longest: int) -> list[Question]:
    """A question for each passage that has a word with enough others like it; drawn by the passage's number."""
    words, found = Words(subject.documents('train'), subject.tokenizer), []
    for index, (number, text) in enumerate(passages(subject.documents(split), subject.tokenizer, longest)):
        random = np.random.default_rng([0, index])
        gaps = gaps_inside(text)
        for place in random.permutation(len(gaps)):
            question = make_question(number, text, *gaps[place], words, subject.tokenizer, random)
            if question is not None:
                found.append(question)
                break
    return found


def make_question(number, text, start, end, words: Words, tokenizer, random) -> Question | None:
    """The question of one word; None where it stands in the passage twice or too few others are like it."""
    present = [word.lower() for word in WORD.findall(text)]
    word = text[start:end]
    others = [other for other in words.like(word) if other not in present]
    gap = gap_at(number, text, start, end, tokenizer)
    if gap is None or present.count(word) > 1 or len(others) < CANDIDATES - 1:
        return None
    chosen = [others[i] for i in random.choice(len(others), CANDIDATES - 1, replace=False)]
    for other in chosen:  # a tokenizer may join what stands side by side
        whole = tuple(tokenizer.encode(f'{gap.before} {other}{gap.after}').tolist())
        if whole != gap.left + words.ids[other] + gap.right:
            return None
    return Question(gap, (word, *chosen), (gap.target, *(words.ids[other] for other in chosen)))


def cloze_requests(questions: list[Question], mode: str) -> list[Request]:
    """A request for each candidate: the word with what follows for a causal model, the word for a masked one."""
    return [
        Request(q.gap.left, ids + q.gap.right) if mode == 'causal' else Request(q.gap.left, ids, q.gap.right)
        for q in questions
        for ids in q.ids
    ]


def judge(scores: list[Score]) -> np.ndarray:
    """[N] what the answers are worth: 1 for the right word, 1 / n where it shares the first place with others."""
    nats_NC = np.array([score.nats for score in scores]).reshape(-1, CANDIDATES)
    first_NC = nats_NC < nats_NC.min(axis=1, keepdims=True) + TIE
    return first_NC[:, 0] / first_NC.sum(axis=1)


def cloze_items(questions: list[Question], scores: dict[str, list[Score]], points: dict[str, np.ndarray]) -> list[dict]:
    """One item a question, the nats of its candidates in the order in which they stand there."""
    items = []
    for number, question in enumerate(questions):
        gap, of = question.gap, slice(number * CANDIDATES, (number + 1) * CANDIDATES)
        item = {'document': gap.document, 'before': gap.before, 'after': gap.after, 'words': list(question.words)}
        mine = {
            mode: {'nats': [score.nats for score in found[of]], 'points': float(points[mode][number])}
            for mode, found in scores.items()
        }
        items.append(item | {'tokens': len(gap.target)} | mine)
    return items


def modes_of(subject: Subject) -> tuple[dict[str, Scorer], str | None]:
    """The scorers of the modes that count here, and the mode by which models compare."""
    scorers = make_scorers(subject)
    return {mode: scorers[mode] for mode in MODES if mode in scorers}, best_mode(subject)


def passage_length(subject: Subject) -> int:
    """Tokens of the longest passage: the same for all models that can read so many, with what wraps a text."""
    return min(PASSAGE, context_of(subject.setup.config) - WRAPPING)


def split_and_count(suite: str, argument: str) -> tuple[str, int]:
    """'test,items=50' -> ('test', 50)."""
    split, options = split_argument(suite, argument, {'items': ITEMS})
    return split or 'validation', options['items']


def about_of(subject: Subject, split: str, best: str, modes: dict[str, Scorer], how: dict[str, str]) -> dict:
    """What both suites say of themselves."""
    longest = passage_length(subject)
    return {'split': split, 'mode': best, 'modes': {mode: how[mode] for mode in modes}, 'passage_tokens': longest}


def error_of(points_N: np.ndarray) -> float:
    """The standard error of a mean over questions."""
    return float(points_N.std() / np.sqrt(len(points_N)))
