"""Data: corpora, tokenizers, token streams, rows, batches."""

from gpt2jax.data.prefetch import prefetch
from gpt2jax.data.preparing import Prepared, prepare
from gpt2jax.data.rows import Rows, train_batch
from gpt2jax.data.tokenizers import Tokenizer, Vocabulary, make_tokenizer, vocab_size_of, vocabulary_of
from gpt2jax.data.tokens import Tokens
from gpt2jax.data.walks import evaluation_batches, evaluation_streams

__all__ = [
    'Prepared',
    'Rows',
    'Tokenizer',
    'Tokens',
    'Vocabulary',
    'evaluation_batches',
    'evaluation_streams',
    'make_tokenizer',
    'prefetch',
    'prepare',
    'train_batch',
    'vocab_size_of',
    'vocabulary_of',
]
