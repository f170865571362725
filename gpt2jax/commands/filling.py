"""`launch.py fill`."""

from rich.table import Table
from rich.text import Text

from gpt2jax.commands.runs import Opened, console, on_one_device, open_model
from gpt2jax.errors import UserError
from gpt2jax.generation.blanks import Blanks, read_blanks, text_of
from gpt2jax.generation.filling import Choice, Filled, Reader, fill_answers, fill_by_likelihood, fill_masked
from gpt2jax.generation.spelling import quote
from gpt2jax.generation.text import context_of

HOW = {
    'masked': 'each blank predicted from both sides, {order}; candidates with all blanks open',
    'answers': 'blanks answered behind the text, as span corruption does; candidates of each first token',
    'likelihood': (
        'scored: the model sees the left alone, so the {scored} likeliest next tokens of each blank are put in and '
        'weighed by the likelihood of the whole text; candidates with the other blanks as filled'
    ),
}
ORDERS = {'certain': 'the surest first', 'left': 'from left to right'}


def fill(path: str, text: str, tokens_per_mask: int, choice: dict, which: str) -> list[str]:
    """Prints the candidates of every blank of a text, and the text filled.

    Args:
      text: every '<mask>' in it is a blank.
      tokens_per_mask: how many tokens each stands for; a model of span corruption decides by itself.
      choice: what gpt2jax.generation.filling.Choice has.
      which: 'best', 'latest' or the number of a step.

    Returns:
      The filled texts.
    """
    choice = checked(choice, tokens_per_mask)
    run = open_model(path, which)
    context = context_of(run.setup.config)
    blanks = read_blanks(text, run.tokenizer, tokens_per_mask, context)
    reader = Reader(run.objective.asked(run.setup.model), on_one_device(run.params, run.setup))
    how, filled = fill_with(run, reader, blanks, choice, context)
    console.print(f'{run.workdir.path}, step {run.step}', style='dim')
    console.print(HOW[how].format(order=ORDERS[choice.order], scored=choice.scored), style='dim')
    for number, found in enumerate(filled.candidates, 1):
        console.print(candidate_table(run.tokenizer, number, found))
    for tokens, places in zip(filled.texts, filled.filled, strict=True):
        console.print(marked(run.tokenizer, tokens, places), soft_wrap=True)
    return [text_of(run.tokenizer, tokens) for tokens in filled.texts]


def checked(choice: dict, tokens_per_mask: int) -> Choice:
    """Raises UserError for a value out of its range."""
    if choice['order'] not in ORDERS:
        raise UserError(f'--order={choice["order"]}: one of: {", ".join(ORDERS)}')
    for name, value in (choice | {'tokens_per_mask': tokens_per_mask}).items():
        least = 0 if name in ('temperature', 'seed') else 1
        if name != 'order' and not value >= least:
            raise UserError(f'--{name}={value}: must be at least {least}')
    if choice['num_samples'] > 1 and not choice['temperature']:
        raise UserError(
            f'--num_samples={choice["num_samples"]}: all the same at --temperature=0; try --temperature=0.7'
        )
    return Choice(**choice)


def fill_with(run: Opened, reader: Reader, blanks: Blanks, choice: Choice, context: int) -> tuple[str, Filled]:
    """How the model of a run fills blanks, and what it puts there."""
    if run.objective.mask_offset is not None:
        return 'masked', fill_masked(reader, blanks, run.objective.mask_offset, choice)
    if run.objective.answers:
        return 'answers', fill_answers(reader, blanks, run.tokenizer.sep, context, choice)
    return 'likelihood', fill_by_likelihood(reader, blanks, choice)


def candidate_table(tokenizer, number: int, found: list[tuple[int, float]]) -> Table:
    """The likeliest tokens of one blank, with a bar for each."""
    table = Table(title=f'blank {number}', title_justify='left', show_header=False)
    table.add_column('token')
    table.add_column('probability', justify='right')
    table.add_column('bar', style='cyan', no_wrap=True)
    for token, probability in found:
        table.add_row(quote(tokenizer, token), f'{probability:.1%}', '\N{FULL BLOCK}' * round(20 * probability))
    return table


def marked(tokenizer, tokens: list[int], places: list[int]) -> Text:
    """A filled text with what was filled in bold. Where a character is several tokens, nothing is marked."""
    whole = text_of(tokenizer, tokens)
    text = Text(whole.encode('utf-8', 'replace').decode())
    for place in places:
        start, end = (len(text_of(tokenizer, tokens[:stop])) for stop in (place, place + 1))
        if whole.startswith(text_of(tokenizer, tokens[: place + 1])):
            text.stylize('bold cyan', start, end)
    return text
