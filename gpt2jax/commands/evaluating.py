"""`launch.py evaluate`."""

from gpt2jax.commands.runs import console, make_rows, open_run, prepare_data, restore_params
from gpt2jax.errors import UserError
from gpt2jax.evaluation.pseudo import pseudo_likelihood
from gpt2jax.training.loop import check_same_text, evaluate_rows
from gpt2jax.training.progress import track

BEHIND = {
    'masked': 'hidden at the rate of {rate:g}',
    'prefix': 'behind a prefix',
    'span': 'of hidden spans and their ends',
}


def evaluate(path: str, split: str, which: str) -> dict[str, float]:
    """What means something for the model of a run, on all of a split, each token once.

    Args:
      split: train, validation or test.
      which: 'best', 'latest' or the number of a step.
    """
    setup, workdir = open_run(path)
    prepared = prepare_data(setup.config)
    rows, tokenizer = make_rows(setup.config, prepared), prepared.tokenizer
    if split not in rows:
        raise UserError(f'--split={split}: there is no such split; one of: {", ".join(rows)}')
    step, params, metadata = restore_params(setup, workdir, which)
    check_same_text(metadata, {'data': prepared.folder.name})
    evaluations = setup.evaluations(tokenizer.lossless)
    result = evaluate_rows(setup, evaluations, params, rows[split], tokenizer.byte_lengths, 0, track)
    for measure, _ in evaluations:
        if measure.objective.mask_offset is not None:
            num_rows = setup.config.evaluation.pseudo_rows
            result |= pseudo_likelihood(setup, params, measure.objective, rows[split], tokenizer, num_rows, track)
    print_evaluation(result, split, step, setup.config)
    return result


def print_evaluation(result: dict[str, float], split: str, step: int, config) -> None:
    """One line a measure, and what it does not say."""
    where = f'step {step}, {split}:'
    if 'nats_per_token' in result:
        console.print(f'{where} {likelihood_line(result)}', style='bold')
    for name, behind in BEHIND.items():
        if f'{name}_nats' not in result:
            continue
        console.print(
            f'{where} {result[f"{name}_nats"]:.4f} nats per token, {result[f"{name}_accuracy"]:.2%} right '
            f'({result[f"{name}_predicted"]:,} tokens {behind.format(rate=config.evaluation.rate)})',
            style='bold',
        )
    if 'pseudo_nats_per_token' in result:
        console.print(f'{where} {pseudo_line(result)}', style='bold')
    if 'nats_per_token' not in result:
        console.print('no bits per byte: such a model gives a text no likelihood', style='dim')
    elif 'bits_per_byte' not in result:
        console.print('no bits per byte: the tokenizer does not keep the bytes of a text', style='dim')


def likelihood_line(result: dict[str, float]) -> str:
    """Exact figures of a model that predicts from left to right."""
    in_bytes = 'bits_per_byte' in result
    bits = f'{result["bits_per_byte"]:.4f} bits per byte, ' if in_bytes else ''
    count = f'{result["predicted"]:,} tokens' + (f', {result["bytes"]:,} bytes' if in_bytes else '')
    return f'{bits}{result["nats_per_token"]:.4f} nats per token, perplexity {result["perplexity"]:.2f} ({count})'


def pseudo_line(result: dict[str, float]) -> str:
    """The pseudo-log-likelihood, with its warning."""
    by_byte = f', {result["pseudo_nats_per_byte"]:.4f} per byte' if 'pseudo_nats_per_byte' in result else ''
    return (
        f'pseudo-log-likelihood {result["pseudo_nats_per_token"]:.4f} nats per token{by_byte} '
        f'({result["pseudo_predicted"]:,} tokens of {result["pseudo_rows"]} rows, each hidden alone); '
        'not comparable with bits per byte'
    )
