"""Name -> corpus. A new corpus is one file with a `corpus` function, and one line below."""

from pathlib import Path

from gpt2jax.data import cmudict, gutenberg, pairs, shakespeare, text, tfds_text
from gpt2jax.data.builder import Corpus
from gpt2jax.data.tfds_text import TfdsCorpus
from gpt2jax.errors import UserError


def make_corpus(name: str, path: str, text_key: str, directory: Path) -> Corpus | TfdsCorpus:
    """Finds a corpus's text and fingerprints it; builds nothing yet.

    Args:
      name: one of `CORPORA`, or `tfds:NAME`.
      path: where the user's text is; unused by the corpora that packages ship.
      text_key: the key or feature with the text, for `text` (.jsonl) and `tfds:NAME`; of pairs both, 'source,target'.
      directory: the data directory.

    Raises:
      UserError: unknown name, or what the corpus says is missing.
    """
    if name.startswith('tfds:'):
        return tfds_text.corpus(name.removeprefix('tfds:'), path, text_key, directory)
    if name not in CORPORA:
        raise UserError(f'config.data.corpus = {name!r}: unknown; one of: {", ".join(sorted(CORPORA))}, tfds:NAME')
    return CORPORA[name](path, text_key)


CORPORA = {
    'cmudict': cmudict.corpus,
    'gutenberg': gutenberg.corpus,
    'pairs': pairs.corpus,
    'shakespeare': shakespeare.corpus,
    'text': text.corpus,
}
