"""Who sees whom, for the terminal: two lines of a map in each line of text, and the tokens with their marks."""

import numpy as np
from rich.text import Text

from gpt2jax.report.visibility import View

BLOCKS = {(False, False): '·', (True, False): '▀', (False, True): '▄', (True, True): '█'}
DOCUMENTS = ('blue', 'dark_orange3')  # documents take turns
BORDER = ' ‖ '
LEGEND = (
    'tokens: [hidden] is read as <|mask|> or, by a query, not at all, ~random~ in place of another one; token{target} '
    f'where the target is not the token that comes next; underlined: predicted; {BORDER.strip()} borders of documents'
)


def visibility_map(view: View, room: int) -> Text:
    """A column a key, half a line a query, at most `room` of both; in the colour of the query's document."""
    L, text = min(len(view.tokens), room), Text()
    visible_LL = np.pad(view.visible[:L, :L], ((0, L % 2), (0, 0)))
    for query in range(0, L, 2):
        text.append(f'{query:5} ', 'dim')
        style = 'dim' if view.segment[query] == 0 else DOCUMENTS[(view.segment[query] - 1) % 2]
        for pair in visible_LL[query : query + 2].T.tolist():
            text.append(BLOCKS[tuple(pair)], style if any(pair) else 'dim')
        text.append('\n')
    return text


def visibility_text(view: View) -> Text:
    """The tokens as the model reads them, with what it must predict."""
    text = Text()
    for place, (token, target, mark) in enumerate(zip(view.tokens, view.targets, view.marks, strict=True)):
        if place and view.segment[place] != view.segment[place - 1]:
            text.append(BORDER, 'dim')
        if view.segment[place] == 0:
            continue
        following = view.tokens[place + 1] if place + 1 < len(view.tokens) else target
        predicted = place and view.targets[place - 1] == token
        text.append({'hidden': '[hidden]', 'random': f'~{token}~'}.get(mark, token), _style(mark, predicted))
        if target and target != following:
            text.append('{' + target + '}', 'green')
    return text


def _style(mark: str, predicted: bool) -> str:
    if mark:
        return 'bold red' if mark == 'hidden' else 'red'
    return 'underline' if predicted else ''
