"""Tokenizers: text to ids and back, exactly, for any string.

All three kinds of Tokenizer are the same thing, byte-pair encoding over GPT-2's pre-tokens (Radford et al.
2019, section 2.2), and differ in their list of tokens: GPT-2's own, one trained on the corpus, or the 256
bytes with no merge at all. Beside them stand those of other files: gpt2jax.data.symbols and gpt2jax.data.hf_tokenizer.
"""

import functools
import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from gpt2jax.data import bpe, gpt2_merges, hf_tokenizer, symbols
from gpt2jax.data.cutting import cut_surrogates, pieces
from gpt2jax.data.files import digest_bytes
from gpt2jax.errors import UserError
from gpt2jax.files import read_json, write_json

SPECIAL = ('<|endoftext|>', '<|mask|>', '<|pad|>', '<|sep|>')
FILE = 'tokenizer.json'
FORMAT = 'gpt2jax tokenizer 1'
LARGEST_FILE = 64 << 20
LARGEST_VOCABULARY = 1 << 20
GPT2_TOKENS = 50256  # its 50257th is <|endoftext|>
TEXT_FILES = ('.json', '.txt')
TRAINED = ('bpe:', 'symbols:')  # on the training split


@dataclass(frozen=True)
class Vocabulary:
    """What an objective must know of a tokenizer's ids.

    Attributes:
      size: ordinary and special ids.
      ordinary: ids below it are ordinary tokens; random replacements are drawn from them.
      end_of_text, mask, pad, sep: ids of the special tokens.
    """

    size: int
    ordinary: int
    end_of_text: int
    mask: int
    pad: int
    sep: int


class Tokenizer:
    """A vocabulary: ordinary tokens first, then the four special ones.

    Args:
      name: gpt2, bytes or bpe:N.
      tokens: the ordinary tokens' bytes in the order of their merges; all 256 single bytes are among them.
      size: how many ordinary ids there are; more than the tokens when training found fewer.

    Attributes:
      vocab_size: ordinary and special ids.
      end_of_text, mask, pad, sep: ids of the special tokens. No text is ever encoded to them.
      byte_lengths: [vocab_size] int32, the bytes of text each id stands for; 0 for special and unused ids.
      begins_word, ends_word: [vocab_size] bool, whether a word begins with the token, and whether one ends with it
        whatever follows. A word is a run of letters, digits and bytes beyond ASCII, with the white space that its first
        token brings along; a token that begins (ends) with any other byte begins (ends) a word, and a special token is
        a word of its own. So each sign of punctuation is a word, and each space that is a token.
      fingerprint: hexadecimal digest of everything that decides the ids.
      lossless: the bytes of a text can be had back from its ids, so that bits per byte mean something.
    """

    lossless = True

    def __init__(self, name: str, tokens: Sequence[bytes], size: int):
        self.name, self.tokens, self.size = name, list(tokens), size
        self.end_of_text, self.mask, self.pad, self.sep = range(size, size + len(SPECIAL))
        self.vocab_size = size + len(SPECIAL)
        lengths = [len(token) for token in self.tokens]
        self.byte_lengths = np.array(lengths + [0] * (self.vocab_size - len(lengths)), np.int32)
        self.begins_word = self._where_no_letter(0)
        self.ends_word = self._where_no_letter(-1)
        self.fingerprint = digest_bytes(FORMAT, str(size), r50k_pat_str, *self.tokens)
        names = [name.encode() for name in SPECIAL]
        self._spelling = [*self.tokens, *[b''] * (size - len(self.tokens)), *names]

    def encode(self, text: str) -> np.ndarray:
        """Ids of any string, [n] int32. Special tokens' names in the text are plain text.

        Lone surrogates, which are no valid Unicode but may stand in a Python string, are encoded as the three
        bytes each that `surrogatepass` gives, and decoded back to themselves.
        """
        parts = [
            self._encode_bytes(piece) if i % 2 else self._encode(piece) for i, piece in enumerate(cut_surrogates(text))
        ]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        """`encode` of each text, on several cores: long texts are shared among them too."""
        jobs = [(i, piece) for i, text in enumerate(texts) for piece in pieces(text)]
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(lambda job: self.encode(job[1]), jobs))
        grouped: list[list[np.ndarray]] = [[] for _ in texts]
        for (i, _), part in zip(jobs, parts, strict=True):
            grouped[i].append(part)
        return [np.concatenate(group) if group else np.zeros(0, np.int32) for group in grouped]

    def wrap(self, ids: Iterable[int]) -> list[int]:
        """A text as a model reads it alone: as in the streams, <|endoftext|> comes first."""
        return [self.end_of_text, *map(int, ids)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; a special token gives its name, an id that training left unused nothing.

        Raises:
          IndexError: an id outside the vocabulary.
        """
        ids = [int(i) for i in ids]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise IndexError(f'token ids must lie in 0..{self.vocab_size - 1}, found {min(ids)}..{max(ids)}')
        return b''.join(self._spelling[i] for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Bytes that are no UTF-8, as a sample may hold, become U+FFFD."""
        data = self.decode_bytes(ids)
        try:
            return data.decode('utf-8', 'surrogatepass')
        except UnicodeDecodeError:
            return data.decode('utf-8', 'replace')

    def save(self, folder: Path | str) -> None:
        """Writes the tokenizer into `folder` as one JSON file, whole or not at all."""
        value = {
            'format': FORMAT,
            'name': self.name,
            'size': self.size,
            'tokens': [token.decode('latin-1') for token in self.tokens],
            'fingerprint': self.fingerprint,
        }
        write_json(Path(folder) / FILE, value)

    @classmethod
    def load(cls, folder: Path | str):
        """Reads what `save` wrote, or a Hugging Face folder's tokenizer.

        Returns:
          A Tokenizer or a SymbolTokenizer; where the file does something else, a HuggingFaceTokenizer.

        Raises:
          UserError: no such file, or not what `save` or Hugging Face wrote.
        """
        folder = Path(folder)
        return _load(folder / FILE) if _is_ours(folder / FILE) else _adopt(folder)

    def _where_no_letter(self, place: int) -> np.ndarray:
        """[vocab_size] bool: the byte at that place of the token cannot be inside a word; True for special ids."""
        plain = [token[place] not in bpe.LETTERS for token in self.tokens]
        return np.array(plain + [True] * (self.vocab_size - len(plain)))

    @functools.cached_property
    def _encoding(self) -> tiktoken.Encoding:
        ranks = {token: i for i, token in enumerate(self.tokens)}
        return tiktoken.Encoding(self.name, pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})

    @functools.cached_property
    def _byte_ids(self) -> np.ndarray:
        ranks = {token: i for i, token in enumerate(self.tokens)}
        return np.array([ranks[bytes([byte])] for byte in range(256)], np.int32)

    def _encode_bytes(self, text: str) -> np.ndarray:
        return self._byte_ids[np.frombuffer(text.encode('utf-8', 'surrogatepass'), np.uint8)]

    def _encode(self, text: str) -> np.ndarray:
        if len(self.tokens) == 256:
            return self._encode_bytes(text)
        parts = [
            self._encoding.encode_to_numpy(piece, disallowed_special=()).astype(np.int32) for piece in pieces(text)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def make_tokenizer(name: str, documents: Iterable[str] | None = None) -> Tokenizer:
    """Makes the tokenizer of that name.

    Args:
      name: gpt2, bytes, bpe:N, symbols:N or file:FOLDER.
      documents: the texts of the training split; bpe:N learns its merges from them, symbols:N its units.

    Raises:
      UserError: unknown name, an impossible N, or GPT-2's merges missing or altered.
    """
    if name.startswith('file:'):
        return Tokenizer.load(_folder_of(name))
    vocab_size_of(name)
    if name == 'bytes':
        return Tokenizer(name, [bytes([byte]) for byte in range(256)], 256)
    if name == 'gpt2':
        return Tokenizer(name, gpt2_merges.read(), GPT2_TOKENS)
    if documents is None:
        raise ValueError(f'{name} is learnt from documents')
    size = int(name.partition(':')[2])
    if name.startswith('symbols:'):
        return symbols.SymbolTokenizer(name, symbols.train(documents, size), size)
    return Tokenizer(name, bpe.train(documents, size), size)


def vocab_size_of(name: str) -> int:
    """Ordinary and special ids of a tokenizer; takes and raises what `vocabulary_of` does."""
    return vocabulary_of(name).size


def vocabulary_of(name: str) -> Vocabulary:
    """The ids of a tokenizer, known from its name alone, or from its file for file:FOLDER.

    Raises:
      UserError: unknown name, an impossible N, or a folder without a tokenizer.
    """
    if name.startswith('file:'):
        return _vocabulary_in(_folder_of(name))
    ordinary = _ordinary_ids(name)
    return Vocabulary(ordinary + len(SPECIAL), ordinary, *range(ordinary, ordinary + len(SPECIAL)))


def _ordinary_ids(name: str) -> int:
    if name in ('gpt2', 'bytes'):
        return GPT2_TOKENS if name == 'gpt2' else 256
    match = re.fullmatch(r'(bpe|symbols):([0-9]{1,9})', name)
    if match is None:
        raise UserError(f'config.data.tokenizer = {name!r}: unknown; one of gpt2, bytes, bpe:N, symbols:N, file:FOLDER')
    size, least = int(match[2]), {'bpe': 256, 'symbols': symbols.FEWEST}[match[1]]
    if not least <= size <= LARGEST_VOCABULARY:
        raise UserError(f'config.data.tokenizer = {name!r}: N must lie in {least}..{LARGEST_VOCABULARY}')
    return size


def _folder_of(name: str) -> Path:
    folder = Path(name.removeprefix('file:')).expanduser()
    if name == 'file:' or not folder.is_dir():
        raise UserError(f'config.data.tokenizer = {name!r}: there is no such folder')
    return folder


def _vocabulary_in(folder: Path) -> Vocabulary:
    stamps = [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.glob('*')) if path.suffix in TEXT_FILES]
    return _read_vocabulary(folder.absolute(), tuple(stamps))


@functools.lru_cache(8)
def _read_vocabulary(folder: Path, stamps: tuple) -> Vocabulary:
    """`stamps` tell one state of the folder from another."""
    found = Tokenizer.load(folder)
    return Vocabulary(found.vocab_size, found.size, found.end_of_text, found.mask, found.pad, found.sep)


def _is_ours(path: Path) -> bool:
    if not path.exists():
        return False
    value = read_json(path)
    return not (isinstance(value, dict) and 'model' in value and 'format' not in value)


def _adopt(folder: Path):
    """The tokenizer of a Hugging Face folder: one of ours where it does the same."""
    spec = hf_tokenizer.read_spec(folder)
    foreign = hf_tokenizer.make(spec, folder)
    plain = hf_tokenizer.plain_bpe(spec)
    if plain is None:
        return foreign
    tokens, size = plain
    name = 'bytes' if size == 256 else f'bpe:{size}'
    if size == GPT2_TOKENS and tokens == gpt2_merges.read():
        name = 'gpt2'
    return Tokenizer(name, tokens, size)


def _load(path: Path) -> Tokenizer:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f'{path}: larger than any tokenizer ({LARGEST_FILE} bytes); not read')
        value = json.loads(path.read_text('utf-8'))
        if value['format'] == symbols.FORMAT:
            return _checked(symbols.from_json(value), value, path)
        tokens = [token.encode('latin-1') for token in value['tokens']]
        name, size = value['name'], value['size']
        whole = value['format'] == FORMAT and len(tokens) <= size and size + len(SPECIAL) == vocab_size_of(name)
        tokenizer = Tokenizer(name, tokens, size) if whole and {bytes([b]) for b in range(256)} <= set(tokens) else None
    except OSError as error:
        raise UserError(f'{path}: the tokenizer cannot be read ({error.strerror})') from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path}: damaged, not a tokenizer ({type(error).__name__}: {error})') from error
    return _checked(tokenizer, value, path)


def _checked(tokenizer, value: dict, path: Path):
    if tokenizer is None or tokenizer.fingerprint != value['fingerprint']:
        raise UserError(f'{path}: damaged, its contents do not match its fingerprint')
    return tokenizer
