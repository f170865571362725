"""Suite `cost`: what a model costs, to be read beside how good it is."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from gpt2jax.config import overlay
from gpt2jax.evaluation.subject import Subject, SuiteResult, split_argument
from gpt2jax.files import describe_bytes
from gpt2jax.generation.text import choose_method, make_generator
from gpt2jax.models.cost import count_parameters, state_bytes
from gpt2jax.optimizers import path_name
from gpt2jax.training.metrics import FILE_NAME, read_metrics

TURNS = 3  # generations that are timed


def cost(subject: Subject, argument: str, track: Callable) -> SuiteResult:
    """Parameters, FLOPs, bytes that a text keeps, and the speed of training and of generation on this machine.

    Args:
      argument: 'tokens=N,texts=N': how long the texts are that are drawn, and how many at once.
    """
    _, options = split_argument('cost', argument, {'tokens': 128, 'texts': 1})
    setup, tokens = subject.setup, max(1, options['tokens'])
    config, whole = setup.config, count_parameters(subject.params)
    inner = whole - embedding_parameters(subject.params)
    step_tokens = config.training.batch_size * config.data.length
    flops = setup.step_flops(kind=subject.kinds[0]) / step_tokens
    kept = state_bytes(config.model, tokens)
    method, drawn = generation_speed(subject, tokens, max(1, options['texts']), track)
    figures = {
        'parameters': whole,
        'parameters_without_embeddings': inner,
        'flops_per_token': flops,
        'state_bytes': kept,
        'state_bytes_per_token': kept / tokens,
        'generated_per_second': drawn,
    }
    trained = training_speed(subject.workdir)
    lines = [
        f'{whole:,} parameters, {inner:,} without the tables of tokens and positions and without the output matrix',
        f'{flops:.4g} FLOPs a token in training: matrix products forward and backward, full attention map',
        f'{describe_bytes(kept)} kept by one text of {tokens} tokens ({describe_bytes(round(kept / tokens))} a token)',
        f'{drawn:,.0f} tokens/s drawn by {method}, {options["texts"]} at once, each of {tokens}',
    ]
    if trained is not None:
        figures['trained_per_second'] = trained
        lines.append(f'{trained:,.0f} tokens/s in training: the median of the lines of {FILE_NAME}')
    return SuiteResult(figures, [], lines, {'method': method, **options, 'device': jax.devices()[0].device_kind})


def embedding_parameters(params) -> int:
    """Numbers of all tables of tokens and positions, and of an output matrix of its own."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return sum(leaf.size for path, leaf in leaves if is_table(path_name(path)))


def is_table(path: str) -> bool:
    """Whether a parameter grows with the vocabulary or with the positions, and not with the layers."""
    return path.startswith('embedding') or path in ('head/kernel', 'head/bias')


def training_speed(workdir: Path) -> float | None:
    """Tokens a second in training, the median of the lines after the first; None where there are too few."""
    if not (workdir / FILE_NAME).exists():
        return None
    rates = [record['tokens_per_second'] for record in read_metrics(workdir / FILE_NAME) if record['kind'] == 'train']
    return statistics.median(rates[1:]) if len(rates) > 1 else None


def generation_speed(subject: Subject, tokens: int, texts: int, track: Callable) -> tuple[str, float]:
    """How texts are drawn from the model (gpt2jax.generation.text), and how many tokens a second, compiling aside."""
    config = overlay(subject.setup.config, {'sampling.stop': False, 'sampling.temperature': 1.0})
    method, params = choose_method(config, 'auto'), jax.device_put(subject.params, jax.local_devices()[0])
    generator = make_generator(subject.setup.model, params, subject.tokenizer, config, method)
    prompts = [[subject.tokenizer.end_of_text]] * texts

    def draw(seed: int) -> float:
        began = time.perf_counter()
        ids = np.concatenate(list(generator.stream(prompts, tokens, seed)), axis=1)
        return int(np.sum(ids != subject.tokenizer.pad)) / (time.perf_counter() - began)

    draw(0)
    return method, statistics.median(draw(1 + turn) for turn in track(range(TURNS), 'drawing texts', TURNS))
