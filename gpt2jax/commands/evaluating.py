"""`launch.py evaluate`."""

from collections.abc import Sequence
from pathlib import Path

from gpt2jax.commands.runs import console, make_rows, open_run, prepare_data, restore_params
from gpt2jax.data import Prepared, Tokenizer
from gpt2jax.errors import UserError
from gpt2jax.evaluation.lengths import Lengths, likelihood_lengths
from gpt2jax.evaluation.pseudo import pseudo_likelihood
from gpt2jax.evaluation.subject import Subject
from gpt2jax.evaluation.suites import check_suite, run_suite, write_result
from gpt2jax.training.loop import check_same_text, evaluate_rows
from gpt2jax.training.progress import track

BEHIND = {
    'masked': 'hidden at the rate of {rate:g}',
    'prefix': 'behind a prefix',
    'span': 'of hidden spans and their ends',
    'permuted': 'in a random order, behind the rest',
    'answer': 'of targets and their ends',
}


def evaluate(
    path: str, split: str, which: str, suites: Sequence[str] = (), stride: int = 0, context: int = 0
) -> dict[str, float]:
    """What means something for the model of a run, on all of a split, each token once; or what suites measure.

    Args:
      split: train, validation or test.
      which: 'best', 'latest' or the number of a step.
      suites: 'NAME' or 'NAME:ARGUMENT' each (gpt2jax.evaluation.suites).
      stride, context: in place of the config's `evaluation.stride` and `evaluation.context`; 0: as they are.
    """
    given = {'evaluation.stride': stride, 'evaluation.context': context}
    changes = {key: value for key, value in given.items() if value}
    if suites:
        if changes:
            raise UserError('--stride and --context are for the likelihood of a split, measured without --suite')
        if split != 'validation':
            raise UserError(f'--split={split}: a suite names its split itself, as in --suite=cloze:{split}')
        return run_suites(path, which, suites)
    setup, workdir = open_run(path, changes)
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
            hidden = pseudo_likelihood(setup, params, measure.objective, rows[split], tokenizer, num_rows, track)
            result |= hidden.figures(tokenizer)
    print_evaluation(result, split, step, setup.config)
    return result


def run_suites(path: str, which: str, suites: Sequence[str]) -> dict[str, float]:
    """The figures of suites (gpt2jax.evaluation.suites), each also written into the run's folder when it is done.

    Args:
      which: 'best', 'latest' or the number of a step.
      suites: 'NAME' or 'NAME:ARGUMENT' each.
    """
    for text in suites:
        check_suite(text)
    subject, folder = open_subject(path, which)
    figures = {}
    for text in suites:
        result = run_suite(subject, text, track)
        console.print(f'{text}, step {subject.step}:', style='bold')
        for line in result.lines:
            console.print(f'  {line}', soft_wrap=True)
        for name, written in zip(('figures', 'items'), write_result(folder, text, subject, result), strict=True):
            console.print(f'  {name:<8} {written}', soft_wrap=True)
        figures |= result.figures
    return figures


def open_subject(path: str, which: str) -> tuple[Subject, Path]:
    """A run as suites take it, and the folder for what they find; its text is prepared when a suite asks for it."""
    setup, workdir = open_run(path)
    tokenizer = Tokenizer.load(workdir.path)
    step, params, metadata = restore_params(setup, workdir, which)

    def prepare() -> Prepared:
        prepared = prepare_data(setup.config)
        check_same_text(metadata, {'data': prepared.folder.name})
        return prepared

    return Subject(setup, params, tokenizer, step, workdir.path, prepare), workdir.store / 'suites'


def print_evaluation(result: dict[str, float], split: str, step: int, config) -> None:
    """One line a measure, and what it does not say."""
    where = f'step {step}, {split}:'
    if 'nats_per_token' in result:
        lengths = likelihood_lengths(config)
        console.print(f'{where} {likelihood_line(result, lengths)}', style='bold')
        if lengths.remembers and config.data.cross_documents:
            lanes = config.evaluation.batch_size
            console.print(f'in {lanes} lanes, which begin with a memory of one row', style='dim')
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


def likelihood_line(result: dict[str, float], lengths: Lengths) -> str:
    """Exact figures of a model that predicts from left to right, and how much text each prediction reads."""
    in_bytes = 'bits_per_byte' in result
    bits = f'{result["bits_per_byte"]:.4f} bits per byte, ' if in_bytes else ''
    count = f'{result["predicted"]:,} tokens' + (f', {result["bytes"]:,} bytes' if in_bytes else '')
    nats = f'{result["nats_per_token"]:.4f} nats per token, perplexity {result["perplexity"]:.2f}'
    return f'{bits}{nats} ({count}; {lengths})'


def pseudo_line(result: dict[str, float]) -> str:
    """The pseudo-log-likelihood, with its warning."""
    by_byte = f', {result["pseudo_nats_per_byte"]:.4f} per byte' if 'pseudo_nats_per_byte' in result else ''
    return (
        f'pseudo-log-likelihood {result["pseudo_nats_per_token"]:.4f} nats per token{by_byte} '
        f'({result["pseudo_predicted"]:,} tokens of {result["pseudo_rows"]} rows, each hidden alone); '
        'not comparable with bits per byte'
    )
