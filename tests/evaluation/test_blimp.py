"""Minimal pairs: what is read, what counts as right, and what is refused."""

import json

import numpy as np
import pytest
from measuring import ids_of, log_probs, make_subject, no_bar

from gpt2jax.errors import UserError
from gpt2jax.evaluation.blimp import TIE, blimp, judge, read_pairs, table_of
from gpt2jax.evaluation.scoring import Score


def write_paradigm(folder, name, pairs, field='syntax', **more):
    lines = [
        {'sentence_good': good, 'sentence_bad': bad, 'field': field, 'linguistics_term': 'agreement'} | more
        for good, bad in pairs
    ]
    (folder / f'{name}.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))


@pytest.fixture(name='folder')
def write_folder(tmp_path):
    write_paradigm(tmp_path, 'verbs', [('he is.', 'he are.'), ('we are.', 'we is.'), ('I am.', 'I are.')])
    write_paradigm(tmp_path, 'nouns', [('a cat', 'a cats')], field='syntax/semantics')
    write_paradigm(tmp_path, 'words', [('a dog', 'a dogs'), ('an ox', 'a ox')], field='syntax_semantics')
    return tmp_path


def test_every_pair_is_scored_and_means_are_taken_over_paradigms(folder):
    subject = make_subject('causal')
    found = blimp(subject, str(folder), no_bar)
    points = {}
    for item in found.items:
        for side in ('good', 'bad'):
            ids = ids_of(item[side])
            log_LV = log_probs(subject, [subject.tokenizer.end_of_text, *ids], range(len(ids) + 1))
            nats = -sum(log_LV[place, token] for place, token in enumerate(ids))
            assert item['causal'][f'{side}_nats'] == pytest.approx(nats, abs=1e-4)
        right = item['causal']['good_nats'] < item['causal']['bad_nats']
        assert item['causal']['points'] == right
        points.setdefault(item['paradigm'], []).append(right)
    assert {name: len(right) for name, right in points.items()} == {'nouns': 1, 'verbs': 3, 'words': 2}
    accuracy = {name: np.mean(right) for name, right in points.items()}
    assert found.about['paradigms']['causal'] == pytest.approx(accuracy)
    assert found.figures == {
        'blimp_accuracy': pytest.approx(np.mean(list(accuracy.values()))),
        'blimp_ties': 0.0,
        'blimp_syntax_accuracy': pytest.approx(accuracy['verbs']),
        'blimp_syntax_semantics_accuracy': pytest.approx((accuracy['nouns'] + accuracy['words']) / 2),
        'blimp_causal_accuracy': found.figures['blimp_accuracy'],
        'blimp_causal_ties': 0.0,
    }


def test_a_model_that_prefers_nothing_has_a_half_and_says_so(folder):
    write_paradigm(folder, 'equals', [('abc', 'abd'), ('xy', 'yx')])
    uniform = blimp(make_subject('hybrid', scale=0.0), f'{folder},limit=1', no_bar)
    assert uniform.about['pairs'] == 4
    assert uniform.about['mode'] == 'causal'
    for mode in ('causal', 'pseudo', 'pseudo_l2r'):
        # Of as many tokens both; the others differ in length, and the shorter one is likelier.
        assert uniform.about['paradigms'][mode] == {'equals': 0.5, 'nouns': 1.0, 'verbs': 1.0, 'words': 1.0}
        assert uniform.figures[f'blimp_{mode}_ties'] == 0.25
    assert uniform.figures['blimp_ties'] == 0.25
    assert 'the first 1 of each' in ' '.join(uniform.lines)
    assert '25.00% ties' in uniform.lines[0]


def test_a_masked_model_is_judged_by_the_words_of_its_tokens(folder):
    found = blimp(make_subject('masked'), str(folder), no_bar)
    assert found.about['mode'] == 'pseudo_l2r'
    assert found.figures['blimp_accuracy'] == found.figures['blimp_pseudo_l2r_accuracy']
    assert not any('causal' in name for name in found.figures)
    assert all(item['pseudo']['good_nats'] != item['pseudo_l2r']['good_nats'] for item in found.items)
    nothing = blimp(make_subject('span_corruption'), str(folder), no_bar)
    assert (nothing.figures, nothing.items) == ({}, [])
    assert 'no figure' in nothing.lines[0]


def test_ties_are_half_right():
    nats = [1.0, 2.0, 2.0, 1.0, 3.0, 3.0, 3.0, 3.0 + TIE / 2]
    points_N = judge([None] * 4, [Score(n, False, 1) for n in nats])
    assert points_N.tolist() == [1, 0, 0.5, 0.5]


def test_a_field_is_the_mean_of_its_paradigms(folder):
    pairs = read_pairs(folder, 0)
    assert [pair.paradigm for pair in pairs] == ['nouns', *['verbs'] * 3, *['words'] * 2]
    table = table_of(pairs, np.array([1, 1, 0, 0, 0, 1]), 'field')
    assert table == {'syntax_semantics': pytest.approx((1 + 0.5) / 2), 'syntax': pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{"sentence_good": "a"', 'line 2: not JSON'),
        ('["a", "b"]', 'line 2: an object with sentence_good'),
        ('{"sentence_good": "a"}', 'line 2: sentence_bad is missing'),
        ('{"sentence_good": " ", "sentence_bad": "b"}', 'line 2: sentence_good is missing, or no text'),
        ('{"sentence_good": 3, "sentence_bad": "b"}', 'line 2: sentence_good is missing, or no text'),
        (json.dumps({'sentence_good': 'x' * 10_001, 'sentence_bad': 'b'}), 'line 2: sentence_good has 10,001'),
        (json.dumps({'sentence_good': 'x' * 99, 'sentence_bad': 'b'}), 'bad, line 2: a sentence of 99 tokens'),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path, line, message):
    good = json.dumps({'sentence_good': 'a', 'sentence_bad': 'b'})
    (tmp_path / 'bad.jsonl').write_text(f'{good}\n{line}\n')
    with pytest.raises(UserError, match=message):
        blimp(make_subject('causal'), str(tmp_path), no_bar)


def test_a_folder_without_pairs_is_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'blank').mkdir()
    (tmp_path / 'blank' / 'a.jsonl').write_text('\n\n')
    (tmp_path / 'torn').mkdir()
    (tmp_path / 'torn' / 'a.jsonl').write_bytes(b'\xff\xfe')
    subject = make_subject('causal')
    for argument, message in (
        ('', 'which folder'),
        (f'{tmp_path}/none', 'no such folder'),
        (f'{tmp_path}/empty', 'no .jsonl file'),
        (f'{tmp_path}/blank', 'are empty'),
        (f'{tmp_path}/torn', 'cannot be read'),
        (f'{tmp_path}/blank,limit=x', 'limit=x: expected a number'),
        (f'{tmp_path}/blank,most=3', "no option 'most'; options: limit=N"),
    ):
        with pytest.raises(UserError, match=message):
            blimp(subject, argument, no_bar)
