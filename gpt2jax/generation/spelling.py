"""Tokens as people read them."""

import re

NEWLINE, TAB = '\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}', '\N{RIGHTWARDS ARROW TO BAR}'


def spell(tokenizer, token: int) -> str:
    """The text of one token: spaces as they are, line ends and tabs as arrows, other bytes as \\x escapes."""
    text = tokenizer.decode_bytes([token]).decode('utf-8', 'backslashreplace')
    text = text.replace('\n', NEWLINE).replace('\t', TAB)
    return re.sub(r'[\x00-\x1f\x7f-\x9f]', lambda match: f'\\x{ord(match[0]):02x}', text)


def quote(tokenizer, token: int) -> str:
    """The same between quotation marks, so that a space at its border shows."""
    return f'\N{LEFT DOUBLE QUOTATION MARK}{spell(tokenizer, token)}\N{RIGHT DOUBLE QUOTATION MARK}'
