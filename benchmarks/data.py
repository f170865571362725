"""How fast the data is: preparing the plays from nothing, tokenizing, and making batches.

    python -m benchmarks.data

Works in a temporary folder. Prints medians; the batches are those that training asks for, at length 1024, batch 8.
"""

import statistics
import tempfile
import time
from pathlib import Path

from gpt2jax.data import Prepared, Rows, evaluation_batches, prepare, train_batch

LENGTH, BATCH = 1024, 8
ROUNDS, STEPS = 7, 300


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for tokenizer in ('gpt2', 'bpe:4096', 'bytes'):
            directory = Path(folder) / tokenizer.replace(':', '')
            prepared, seconds = time_prepare(tokenizer, directory)
            _, again = time_prepare(tokenizer, directory)
            print(f'prepare shakespeare, {tokenizer}: {seconds:.2f} s from nothing, {again:.3f} s when done')
            for split, tokens in prepared.splits.items():
                print(
                    f'  {split}: {tokens.num_documents:,} documents, {tokens.num_tokens:,} tokens, '
                    f'{tokens.num_bytes:,} bytes, {tokens.num_bytes / tokens.num_tokens:.2f} bytes a token'
                )
            time_tokenizer(prepared)
            time_batches(prepared)


def time_prepare(tokenizer: str, directory: Path) -> tuple[Prepared, float]:
    """Prepares the plays; returns them and the seconds it took."""
    start = time.perf_counter()
    prepared = prepare('shakespeare', '', 'text', tokenizer, directory, announce=lambda message: None)
    return prepared, time.perf_counter() - start


def time_tokenizer(prepared: Prepared) -> None:
    """Prints megabytes of text a second, on one core."""
    train = prepared.splits['train']
    texts = [prepared.tokenizer.decode(train.document(i)) for i in range(100)]
    size = sum(len(text.encode()) for text in texts)
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for text in texts:
            prepared.tokenizer.encode(text)
        seconds.append(time.perf_counter() - start)
    print(f'  encode, one core: {size / statistics.median(seconds) / 1e6:.1f} MB/s')


def time_batches(prepared: Prepared) -> None:
    """Prints tokens a second of training and of evaluation batches."""
    rows = Rows(prepared.splits['train'], LENGTH, False, prepared.tokenizer)
    seconds = []
    for repeat in range(ROUNDS):
        start = time.perf_counter()
        for step in range(repeat * STEPS, (repeat + 1) * STEPS):
            train_batch(rows, seed=0, step=step, batch_size=BATCH)
        seconds.append(time.perf_counter() - start)
    rate = STEPS * BATCH * LENGTH / statistics.median(seconds)
    print(f'  train_batch, length {LENGTH}, batch {BATCH}: {rate / 1e6:.1f} million tokens/s')
    start = time.perf_counter()
    count = sum(BATCH * LENGTH for _ in evaluation_batches(rows, BATCH))
    rate = count / (time.perf_counter() - start)
    print(f'  evaluation_batches over train: {rate / 1e6:.1f} million tokens/s')


if __name__ == '__main__':
    main()
