"""prepare: from the name of a corpus and of a tokenizer to token streams on disk, once."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gpt2jax.data import tokenizers, tokens
from gpt2jax.data.builder import SPLITS, Corpus, Documents, texts_of
from gpt2jax.data.corpora import make_corpus
from gpt2jax.data.files import digest_bytes, locked, make_folder
from gpt2jax.data.tfds_text import TfdsCorpus
from gpt2jax.data.tokenizers import Tokenizer, make_tokenizer, vocab_size_of
from gpt2jax.data.tokens import Tokens
from gpt2jax.errors import UserError

Announce = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What training reads.

    Attributes:
      tokenizer: as trained or loaded.
      splits: 'train', 'validation' and 'test', none of them empty.
      folder: where the tokens are.
      description: corpus, tokenizer and sizes, for people.
    """

    tokenizer: Tokenizer
    splits: dict[str, Tokens]
    folder: Path
    description: str


def prepare(
    corpus: str, path: str, text_key: str, tokenizer: str, directory: str | Path, announce: Announce = print
) -> Prepared:
    """Builds the corpus, the tokenizer and the tokens of all splits, or finds them built.

    What is on disk is keyed by the contents of the corpus and of the tokenizer, so changed text is prepared
    anew. A folder of tokens appears whole or not at all; one that is damaged is announced and made again. Of
    several processes one prepares and the others wait.

    Args:
      corpus: one of gpt2jax.data.corpora.CORPORA, or tfds:NAME.
      path: the user's file or folder for text and pairs, the TFDS folder for tfds:NAME, else unused.
      text_key: the key or feature that holds the text, for text (.jsonl) and tfds:NAME; of pairs both, 'source,target'.
      tokenizer: gpt2, bytes, bpe:N, symbols:N or file:FOLDER.
      directory: the data directory.
      announce: told in a line or two what is done and where.

    Raises:
      UserError: an unknown name, a missing or empty source, an empty split, a folder that cannot be written.
    """
    vocab_size_of(tokenizer)
    directory = make_folder(Path(directory).expanduser())
    found = make_corpus(corpus, path, text_key, directory)
    prepared = _open(found, tokenizer, directory, announce)
    if prepared is None:
        with locked(directory, announce):
            prepared = _open(found, tokenizer, directory, lambda message: None)
            if prepared is None:
                announce(f'Preparing {found.name} ({found.origin}) with tokenizer {tokenizer} in {directory}.')
                prepared = _build(found, tokenizer, directory)
    announce(prepared.description)
    return prepared


def _open(corpus: Corpus | TfdsCorpus, name: str, directory: Path, announce: Announce) -> Prepared | None:
    """What an earlier run left, or None with the reason announced if it is damaged."""
    tokenizer = _find_tokenizer(corpus, name, directory, announce)
    if tokenizer is None:
        return None
    key, folder = _place(corpus, tokenizer, directory)
    if not folder.exists():
        return None
    try:
        splits = tokens.open_tokens(folder, key)
    except tokens.Damaged as error:
        announce(f'Warning: the tokens in {folder} are damaged ({error}); preparing them again.')
        return None
    return Prepared(tokenizer, splits, folder, _describe(corpus, tokenizer, splits, folder))


def _build(corpus: Corpus | TfdsCorpus, name: str, directory: Path) -> Prepared:
    try:
        sources = corpus.sources(directory)
        tokenizer = _find_tokenizer(corpus, name, directory, lambda message: None)
        if tokenizer is None:
            tokenizer = make_tokenizer(name, texts_of(sources['train']))
            tokenizer.save(make_folder(_tokenizer_folder(corpus, name, directory)))
        key, folder = _place(corpus, tokenizer, directory)
        _write(corpus, tokenizer, sources, key, folder)
    except OSError as error:
        raise UserError(f'Preparing the data failed in {directory}: {error.strerror or error}') from error
    splits = tokens.open_tokens(folder, key)
    return Prepared(tokenizer, splits, folder, _describe(corpus, tokenizer, splits, folder))


def _write(
    corpus: Corpus | TfdsCorpus, tokenizer: Tokenizer, sources: dict[str, Documents], key: str, folder: Path
) -> None:
    """Writes the tokens beside their place and moves them there when they are whole. Needs the lock."""
    temporary = folder.with_name(f'.{folder.name}.unfinished')
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary)
    try:
        entries = {}
        columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            for split in SPLITS:
                task = progress.add_task(f'tokenizing {split}', total=len(sources[split]))
                entries[split] = tokens.write_split(
                    temporary,
                    split,
                    sources[split],
                    tokenizer,
                    lambda n, task=task: progress.advance(task, n),
                )
        origin = {'corpus': corpus.name, 'origin': corpus.origin, 'tokenizer': tokenizer.name}
        tokens.write_meta(temporary, entries, key, origin)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _find_tokenizer(corpus: Corpus | TfdsCorpus, name: str, directory: Path, announce: Announce) -> Tokenizer | None:
    """The tokenizer, unless it is still to be trained."""
    if not name.startswith(tokenizers.TRAINED):
        return make_tokenizer(name)
    folder = _tokenizer_folder(corpus, name, directory)
    if not (folder / tokenizers.FILE).exists():
        return None
    try:
        return Tokenizer.load(folder)
    except UserError as error:
        announce(f'Warning: {error}; training it again.')
        return None


def _tokenizer_folder(corpus: Corpus | TfdsCorpus, name: str, directory: Path) -> Path:
    key = digest_bytes(tokenizers.FORMAT, corpus.name, corpus.fingerprint, name)
    return directory / 'tokenizers' / f'{corpus.name}-{name.replace(":", "")}-{key[:16]}'


def _place(corpus: Corpus | TfdsCorpus, tokenizer: Tokenizer, directory: Path) -> tuple[str, Path]:
    key = digest_bytes(tokens.VERSION, corpus.name, corpus.fingerprint, tokenizer.fingerprint)
    return key, directory / 'tokens' / f'{corpus.name}-{tokenizer.name.replace(":", "")}-{key[:16]}'


def _describe(corpus: Corpus | TfdsCorpus, tokenizer: Tokenizer, splits: dict[str, Tokens], folder: Path) -> str:
    sizes = ', '.join(
        f'{name} {split.num_documents:,} documents / {split.num_tokens:,} tokens / {split.num_bytes:,} bytes'
        for name, split in splits.items()
    )
    vocabulary = f'{tokenizer.name} ({tokenizer.vocab_size:,} ids)'
    about = f' ({corpus.origin})' if corpus.pairs else ''
    return f'Data: {corpus.name}{about}, tokenizer {vocabulary}, in {folder}: {sizes}.'
