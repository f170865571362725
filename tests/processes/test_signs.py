"""Who is silent, and who holds up the others."""

import json

import pytest

from gpt2jax.processes.signs import Signs, find_silent, find_stalled


def heard(signs, now, **places):
    """One round of beats: p0=(beat, count, place, unhurried)."""
    signs.hear([(f'gpt2jax/signs/{name[1:]}', json.dumps(sign)) for name, sign in places.items()], now)


def test_a_process_whose_beats_stand_still_is_silent():
    signs = Signs(2, 0.0)
    for second in range(100):
        heard(signs, float(second), p0=(second, second, 'step', False), p1=(min(second, 30), 30, 'step 30', False))
        found = find_silent(signs, 60.0, float(second))
        assert (found is None) == (second <= 90), second
    index, reason = found
    assert index == 1
    assert 'no sign of life for 69 s; it was at: step 30' in reason


def test_where_nothing_is_heard_the_one_that_passes_signs_on_is_silent():
    signs = Signs(3, 0.0)
    heard(signs, 5.0, p0=(1, 1, 'a', False), p1=(1, 1, 'a', False), p2=(1, 1, 'a', False))
    assert find_silent(signs, 60.0, 65.0) is None
    assert find_silent(signs, 60.0, 65.1)[0] == 0


def test_a_process_that_never_spoke_is_silent_after_the_patience():
    signs = Signs(2, 10.0)
    heard(signs, 69.0, p0=(1, 1, 'a', False))
    assert find_silent(signs, 60.0, 69.0) is None
    heard(signs, 71.0, p0=(2, 1, 'a', False))
    index, reason = find_silent(signs, 60.0, 71.0)
    assert index == 1
    assert 'it was at' not in reason


@pytest.mark.parametrize(
    ('behind', 'found'),
    [
        ((9, 6, 'making the batch of step 7', False), (1, 'making the batch of step 7; the others are at: step 7')),
        ((9, 6, 'compiling', True), None),
        ((9, 7, 'step 7', False), (0, 'and all others have made no progress for 101 s at: step 7')),
    ],
)
def test_the_process_that_is_behind_holds_up_the_others(behind, found):
    signs = Signs(2, 0.0)
    heard(signs, 1.0, p0=(1, 7, 'step 7', False), p1=behind)
    heard(signs, 102.0, p0=(2, 7, 'step 7', False), p1=(behind[0] + 1, *behind[1:]))
    assert find_silent(signs, 100.0, 102.0) is None
    assert find_stalled(signs, 102.0, 102.0) is None
    stalled = find_stalled(signs, 100.0, 102.0)
    if found is None:
        assert stalled is None
    else:
        assert stalled[0] == found[0]
        assert found[1] in stalled[1]


def test_failures_of_the_others_are_taken_in():
    signs = Signs(3, 0.0)
    signs.hear_failures([('gpt2jax/failed/1', '["no room", 2]'), ('gpt2jax/failed/2', '["mine", 1]')], own_index=2)
    assert signs.failed == {1: ('no room', 2)}
