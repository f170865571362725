"""Tables of a study in Markdown."""

from gpt2jax.report.study_tables import Table


def markdown_table(table: Table) -> str:
    """With its title above it and its note below."""
    lines = [table.head, ['---'] * len(table.head), *table.rows]
    rows = '\n'.join('| ' + ' | '.join(plain(text) for text in line) + ' |' for line in lines)
    return f'## {table.title}\n\n{rows}' + (f'\n\n{table.note}' if table.note else '')


def plain(text: str) -> str:
    """Text that stays in its cell."""
    return ' '.join(text.split()).replace('|', '\\|')
