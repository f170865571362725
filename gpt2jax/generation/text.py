"""From a prompt to printed samples."""

import codecs

import numpy as np
from rich.console import Console
from rich.text import Text

from gpt2jax.errors import UserError
from gpt2jax.generation.beam import BeamSearch
from gpt2jax.generation.decode import Generator
from gpt2jax.generation.infilling import Infiller
from gpt2jax.generation.sampling import Sampling
from gpt2jax.objectives import kind_at, make_objective

UNBOUNDED = 1 << 30  # tokens

METHODS = {  # how a text is drawn, and what is to be said of it
    'causal': '',
    'prefix': 'the prompt is read in both directions',
    'answer': 'drawn as the answer to a <|mask|> behind the prompt: as long as the spans of span corruption are',
    'target': 'drawn as the target of a source, which is read in both directions',
    'infilling': 'drawn by iterated infilling (Gibbs sampling of blocks): not samples of a likelihood',
}


def sample_texts(
    model, params, tokenizer, config, prompt: str, seed: int, console: Console, method: str = 'auto'
) -> list[dict]:
    """Draws `config.sampling.num_samples` continuations of a prompt at once and prints them.

    The first is printed while it is drawn, the others after it. A text that outgrows the context says what happens.

    Args:
      prompt: '' begins a new document.
      method: one of METHODS; 'auto': what fits the objective that the run ends with.

    Returns:
      [{'prompt', 'text', 'method'}, ...]; with `config.sampling.stop` a text ends before its <|endoftext|>.
    """
    settings, context = config.sampling, context_of(config)
    method = choose_method(config, method)
    if settings.beams:
        return [search_text(model, params, tokenizer, config, prompt, console, method)]
    generator = make_generator(model, params, tokenizer, config, method)
    ids = prompt_ids(tokenizer, prompt, method)
    if METHODS[method]:
        console.print(METHODS[method], style='dim')
    if method in ('causal', 'prefix') and len(ids) + settings.max_new_tokens > context:
        again = f'the newest {context // 2} are read again, the rest forgotten'
        then = 'the oldest are forgotten one by one' if model.rolling else again
        console.print(f'longer than the context of {context} tokens: {then}', style='dim')
    between = '\t' if method == 'target' else ''
    pieces, decoder = [], codecs.getincrementaldecoder('utf-8')('replace')
    heading(console, 1, settings.num_samples)
    write(console, prompt + between)
    for piece_BN in generator.stream([ids] * settings.num_samples, settings.max_new_tokens, seed):
        pieces.append(piece_BN)
        write(console, decoder.decode(tokenizer.decode_bytes(until_end(piece_BN[0], tokenizer, settings.stop))))
    texts = [tokenizer.decode(until_end(row, tokenizer, settings.stop)) for row in np.concatenate(pieces, axis=1)]
    for number, text in enumerate(texts[1:], 2):
        heading(console, number, settings.num_samples)
        write(console, prompt + between + text)
    console.print('\n')
    return [{'prompt': prompt, 'text': text, 'method': method} for text in texts]


def search_text(model, params, tokenizer, config, prompt: str, console: Console, method: str) -> dict:
    """Prints the likeliest continuation that beam search finds, and its score; what `sample_texts` has of a text.

    Raises:
      UserError: the model has no likelihood of continuations.
    """
    settings = config.sampling
    if method == 'infilling':
        raise UserError(f'--beams={settings.beams}: a text that is filled in has no likelihood to search for; use 0')
    model = make_objective(config, kind_at(config, config.training.steps)).asked(model)
    found = settings.beams, settings.length_penalty, tokenizer, method
    search = BeamSearch(model, params, context_of(config), *found)
    texts_BN, score_B = search([prompt_ids(tokenizer, prompt, method)], settings.max_new_tokens)
    text = tokenizer.decode(until_end(texts_BN[0], tokenizer, True))
    console.print(METHODS[method], style='dim')
    write(console, prompt + ('\t' if method == 'target' else '') + text)
    how = f'log-probability over ((5 + tokens) / 6)^{settings.length_penalty:g}'
    console.print(f'\n\nthe best of {settings.beams} beams: {score_B[0]:.4f} nats, {how}', style='dim')
    return {'prompt': prompt, 'text': text, 'method': method, 'score': float(score_B[0])}


def prompt_ids(tokenizer, prompt: str, method: str) -> list[int]:
    """A prompt's ids; an empty one begins a new document."""
    return tokenizer.encode(prompt).tolist() or [tokenizer.end_of_text] * (method != 'target')


def choose_method(config, method: str) -> str:
    """How texts are drawn from the model of a run.

    Raises:
      UserError: an unknown method, or one that the model has not learnt.
    """
    kind = kind_at(config, config.training.steps)
    objective = make_objective(config, kind)
    exact = any(name == 'likelihood' for name, _ in objective.evaluations())
    fitting = ['causal'] if exact and (objective.reads == 'causal' or objective.mask_offset is not None) else []
    fitting += ['prefix', 'causal'] if exact and not fitting else []
    fitting += ['infilling'] if objective.mask_offset is not None else []
    fitting += ['answer'] if objective.answers else []
    fitting += ['target'] if objective.pairs else []
    if method not in ('auto', *fitting):
        raise UserError(f'--method={method}: a model of the objective {kind} can do: auto, {", ".join(fitting)}')
    return fitting[0] if method == 'auto' else method


def make_generator(model, params, tokenizer, config, method: str):
    """What draws the continuations: it has `stream(prompts, max_new_tokens, seed)`."""
    settings, context = config.sampling, context_of(config)
    sampling = Sampling(settings.temperature, settings.top_k, settings.top_p)
    objective = make_objective(config, kind_at(config, config.training.steps))
    model = objective.asked(model)
    if method == 'infilling':
        return Infiller(model, params, context, sampling, tokenizer, objective.mask_offset)
    return Generator(model, params, context, sampling, tokenizer, settings.stop, reading=method)


def until_end(ids: np.ndarray, tokenizer, stop: bool) -> np.ndarray:
    """The ids before the first <|endoftext|>, <|sep|> or padding; all of them where nothing stops a text."""
    ends = np.flatnonzero(np.isin(ids, (tokenizer.end_of_text, tokenizer.sep, tokenizer.pad))) if stop else ()
    return ids[: ends[0]] if len(ends) else ids


def context_of(config) -> int:
    """The most tokens a model may see at once: what its positions allow, or else the length it was trained on.

    With a memory, the context that it is evaluated with; what an LSTM sees has no end.
    """
    if config.model.architecture == 'lstm':
        return UNBOUNDED
    if config.model.memory_length:
        return config.evaluation.context
    return config.model.position.max_length if config.model.position.kind == 'learned' else config.data.length


def heading(console: Console, number: int, count: int) -> None:
    """A rule above each sample."""
    console.print()
    console.rule(f'sample {number} of {count}', align='left', style='dim')


def write(console: Console, text: str) -> None:
    """Text as it is, without markup or wrapping, at once; what UTF-8 cannot say shows as a question mark."""
    console.print(Text(text.encode('utf-8', 'replace').decode()), end='', soft_wrap=True)
    console.file.flush()
