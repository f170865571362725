"""Blanks: what may stand in them, and that each kind of model fills them by what it has learnt."""

import itertools

import jax
import numpy as np
import pytest
from helpers import tiny_config

from gpt2jax.data import Tokenizer, make_tokenizer
from gpt2jax.errors import UserError
from gpt2jax.generation.blanks import Blanks, fillable, read_blanks, text_of
from gpt2jax.generation.filling import (
    Choice,
    Reader,
    fill_answers,
    fill_by_likelihood,
    fill_masked,
    pick,
)
from gpt2jax.generation.spelling import quote, spell
from gpt2jax.models import make_model
from gpt2jax.objectives.texts import text_example

BYTES = make_tokenizer('bytes')
WORDS = [b' be', b' king', b'be', b'ing', b' th', b'to']
BPE = Tokenizer('bpe:262', [bytes([byte]) for byte in range(256)] + WORDS, 262)


@pytest.fixture(name='reader', scope='module')
def make_reader():
    config = tiny_config(model__init__std=0.3)  # large weights: every token has an opinion of its own
    model = make_model(config.model)
    return Reader(model, model.init(jax.random.key(0)))


class Planted:
    """A reader that knows the answers, and how sure it is of each; what it saw is kept.

    Each mask's answer is planted in the logits of the position `offset` before it.
    """

    def __init__(self, answers, offset=0, depends=None):
        self.answers, self.offset, self.depends, self.seen = answers, offset, depends or {}, []

    def log_probs(self, tokens_BL, places_BP, visibility, **_):
        tokens_BL = np.array(tokens_BL)
        self.seen.append(tokens_BL.copy())
        out = np.zeros((*np.shape(places_BP), 260))
        for b, p in np.ndindex(*np.shape(places_BP)):
            place = places_BP[b][p] + self.offset
            token, sure = self.answers[place]
            if place in self.depends and self.depends[place][0] in tokens_BL[b]:
                token = self.depends[place][1]
            out[b, p] = np.log((1 - sure) / 255)
            out[b, p, token] = np.log(sure)
        return out


def blanks_of(text, tokens_per_mask=1, tokenizer=BYTES, context=32):
    return read_blanks(text, tokenizer, tokens_per_mask, context)


def test_a_space_before_a_blank_belongs_to_the_token_that_fills_it():
    blanks = blanks_of('to <mask>, <mask>', tokenizer=BPE)
    assert blanks.tokens == [BPE.end_of_text, 261, BPE.mask, 44, BPE.mask]
    assert blanks.places == [2, 4]
    for allowed_V in blanks.allowed:
        assert allowed_V[256]
        assert not allowed_V[258]
        assert not allowed_V[BPE.end_of_text]
    assert text_of(BPE, [BPE.end_of_text, 261, 256, 44, 257]) == 'to be, king'


def test_a_blank_behind_a_letter_goes_on_with_the_word():
    blanks = blanks_of('to<mask>', tokenizer=BPE)
    assert blanks.tokens == [BPE.end_of_text, 261, BPE.mask]
    assert blanks.allowed[0][259]
    assert not blanks.allowed[0][257]
    several = blanks_of('to <mask>', 2, BPE)
    assert len(several.places) == 2
    assert several.allowed[1].sum() == fillable(BPE).sum()  # what follows within a blank is free


def test_bytes_keep_their_spaces():
    blanks = blanks_of('a <mask>')
    assert blanks.tokens == [256, 97, 32, 257]
    assert blanks.allowed[0][32]
    assert blanks.allowed[0].sum() == 256


def test_a_text_without_a_blank_or_beyond_the_context_is_refused():
    with pytest.raises(UserError, match='<mask>'):
        blanks_of('no blank <|mask|>')
    with pytest.raises(UserError, match=r'41 tokens.*at most 32'):
        blanks_of('x' * 39 + '<mask>')


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('order', ['certain', 'left'])
def test_a_planted_answer_is_restored(offset, order):
    blanks = blanks_of('a<mask>c<mask>')
    planted = Planted({2: (98, 0.6), 4: (100, 0.9)}, offset)
    filled = fill_masked(planted, blanks, offset, Choice(order))
    assert [text_of(BYTES, text) for text in filled.texts] == ['abcd']
    assert filled.candidates[0][0] == (98, pytest.approx(0.6, abs=0.01))
    assert len(filled.candidates[0]) == 5


def test_the_order_decides_what_the_later_blanks_see():
    """The second blank is surer; the first one changes its mind when it sees it filled."""
    blanks = blanks_of('a<mask>c<mask>')
    planted = Planted({2: (98, 0.6), 4: (100, 0.9)}, depends={2: (100, 120)})
    assert text_of(BYTES, fill_masked(planted, blanks, 0, Choice('certain')).texts[0]) == 'axcd'
    assert text_of(BYTES, fill_masked(planted, blanks, 0, Choice('left')).texts[0]) == 'abcd'
    assert [(seen == 257).sum() for seen in planted.seen] == [2, 1, 2, 1]  # seen again after each


def test_texts_are_drawn_by_seed_and_number():
    blanks = blanks_of('<mask><mask><mask>')
    planted = Planted({place: (98, 0.3) for place in (1, 2, 3)})

    def draw(seed, count):
        return fill_masked(planted, blanks, 0, Choice(num_samples=count, temperature=3.0, seed=seed)).texts

    assert draw(0, 3)[:2] == draw(0, 2)
    assert draw(0, 2)[0] != draw(0, 2)[1]
    assert draw(0, 2) != draw(1, 2)


def whole_nats(reader, text):
    """-log p of a whole text by the causal model, one token after the other."""
    log_LV = [reader.log_probs([text], [[place]], 'causal')[0, 0] for place in range(len(text) - 1)]
    return -sum(log_V[token] for log_V, token in zip(log_LV, text[1:], strict=True))


def small_blanks(text, letters):
    """Few letters are allowed, so that all texts can be tried."""
    blanks = blanks_of(text)
    allowed_V = np.isin(np.arange(260), letters)
    return Blanks(blanks.tokens, blanks.places, [allowed_V] * len(blanks.places))


def test_a_causal_model_weighs_each_candidate_by_the_whole_text(reader):
    """Over all candidates it is the exact conditional probability."""
    letters = list(range(97, 105))
    blanks = small_blanks('a<mask>cd', letters)
    filled = fill_by_likelihood(reader, blanks, Choice(top_k=8, scored=8))
    texts = [[256, 97, letter, 99, 100] for letter in letters]
    log = -np.array([whole_nats(reader, text) for text in texts])
    expected = np.exp(log - log.max()) / np.exp(log - log.max()).sum()
    assert dict(filled.candidates[0]) == pytest.approx(dict(zip(letters, expected, strict=True)), rel=1e-4)
    assert filled.texts[0] == texts[int(np.argmax(log))]


def test_a_wide_beam_finds_the_likeliest_text_of_all(reader):
    letters = [97, 101, 110, 120]
    blanks = small_blanks('<mask>b<mask>d<mask>z', letters)
    found = fill_by_likelihood(reader, blanks, Choice(scored=4, beams=16)).texts[0]
    texts = [[256, a, 98, b, 100, c, 122] for a, b, c in itertools.product(letters, repeat=3)]
    assert found == min(texts, key=lambda text: whole_nats(reader, text))


def test_what_stands_behind_a_blank_decides_about_it(reader):
    """The likeliest next token is not the likeliest to be followed by the rest, for some rest."""
    letters = list(range(97, 105))
    firsts = set()
    for rest in range(97, 117):
        filled = fill_by_likelihood(reader, small_blanks(f'a<mask>{chr(rest)}', letters), Choice(scored=8))
        firsts.add(filled.texts[0][2])
    assert len(firsts) > 1


class Writer:
    """A reader of span corruption: it writes what it was told, token by token, behind the question."""

    def __init__(self, question, answer):
        self.question, self.answer, self.prefixes = question, answer, set()

    def log_probs(self, tokens_BL, places_BP, visibility, length_B, prefix_B):
        assert visibility == 'prefix'
        self.prefixes.add(prefix_B[0])
        written = length_B[0] - len(self.question)
        assert tokens_BL[0][: length_B[0]] == self.question + self.answer[:written]
        out = np.log(np.full((1, 1, 260), 1e-6))
        out[0, 0, self.answer[written]] = 0.0
        return out


def test_answers_are_put_into_their_blanks():
    blanks, sep = blanks_of('a<mask>d<mask>'), BYTES.sep
    answer = [98, 99, sep, 101, sep]
    writer = Writer([*blanks.tokens, sep], answer)
    filled = fill_answers(writer, blanks, sep, 32, Choice())
    assert text_of(BYTES, filled.texts[0]) == 'abcde'
    assert filled.filled[0] == [2, 3, 5]
    assert [found[0][0] for found in filled.candidates] == [98, 101]
    assert writer.prefixes == {len(blanks.tokens) + 1}


def test_a_question_without_room_for_answers_is_refused():
    with pytest.raises(UserError, match='context'):
        fill_answers(None, blanks_of('x' * 10 + '<mask>', context=12), BYTES.sep, 12, Choice())


def test_a_text_is_seen_as_its_objective_says():
    tokens_BL, length_B = np.arange(12).reshape(2, 6), np.array([6, 4])
    orders = {
        name: np.asarray(text_example(tokens_BL, length_B, name, prefix).order)
        for name, prefix in (('causal', None), ('full', None), ('prefix', np.array([3, 1])))
    }
    np.testing.assert_array_equal(orders['causal'], np.tile(np.arange(6), (2, 1)))
    assert not orders['full'].any()
    np.testing.assert_array_equal(orders['prefix'], [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(text_example(tokens_BL, length_B, 'full').segment.sum(1), length_B)


def test_drawing_follows_the_probabilities():
    log_V = np.log(np.array([0.7, 0.2, 0.1]))
    random = np.random.default_rng(0)
    counts = np.bincount([pick(log_V, 1.0, random) for _ in range(3000)], minlength=3) / 3000
    np.testing.assert_allclose(counts, [0.7, 0.2, 0.1], atol=0.03)


def test_a_token_is_spelt_so_that_a_person_sees_it():
    assert quote(BPE, 256) == '“ be”'
    assert spell(BYTES, 0xE2) == '\\xe2'
    assert spell(BYTES, 10) == '↵'
    assert spell(BYTES, 27) == '\\x1b'
    assert spell(BYTES, 257) == '<|mask|>'
