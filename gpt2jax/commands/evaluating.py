"""`launch.py evaluate`."""

from gpt2jax.commands.runs import console, make_rows, open_run, prepare_data, restore_params
from gpt2jax.errors import UserError
from gpt2jax.training.loop import check_same_text, evaluate_rows
from gpt2jax.training.progress import track


def evaluate(path: str, split: str, which: str) -> dict[str, float]:
    """Bits per byte of a run on all of a split, each token once.

    Args:
      split: train, validation or test.
      which: 'best', 'latest' or the number of a step.
    """
    setup, workdir = open_run(path)
    prepared = prepare_data(setup.config)
    rows = make_rows(setup.config, prepared)
    if split not in rows:
        raise UserError(f'--split={split}: there is no such split; one of: {", ".join(rows)}')
    step, params, metadata = restore_params(setup, workdir, which)
    check_same_text(metadata, {'data': prepared.folder.name})
    byte_lengths = prepared.tokenizer.byte_lengths
    result = evaluate_rows(setup, setup.evaluation_step(), params, rows[split], byte_lengths, 0, track)
    print_evaluation(result, split, step)
    return result


def print_evaluation(result: dict[str, float], split: str, step: int) -> None:
    """One line a figure."""
    console.print(
        f'step {step}, {split}: {result["bits_per_byte"]:.4f} bits per byte, '
        f'{result["nats_per_token"]:.4f} nats per token, perplexity {result["perplexity"]:.2f} '
        f'({result["predicted"]:,} tokens, {result["bytes"]:,} bytes)',
        style='bold',
    )
