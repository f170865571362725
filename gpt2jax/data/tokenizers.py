"""Tokenizers: text to ids and back, exactly, for any string.

All three kinds are the same thing, byte-pair encoding over GPT-2's pre-tokens (Radford et al. 2019, section
2.2), and differ in their list of tokens: GPT-2's own, one trained on the corpus, or the 256 bytes with no
merge at all.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from gpt2jax.data import bpe, gpt2_merges
from gpt2jax.data.files import digest_bytes
from gpt2jax.errors import UserError
from gpt2jax.files import write_json

SPECIAL = ('<|endoftext|>', '<|mask|>', '<|pad|>', '<|sep|>')
FILE = 'tokenizer.json'
FORMAT = 'gpt2jax tokenizer 1'
LARGEST_FILE = 64 << 20
LARGEST_VOCABULARY = 1 << 20
GPT2_TOKENS = 50256  # its 50257th is <|endoftext|>

CHUNK = 1 << 20  # characters encoded at once; longer texts are cut where no token can span the cut
SPACE = '\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000'  # \s of the pre-tokenizer, not Python's
CUT = re.compile(f'(?<=[^{SPACE}])(?=[{SPACE}])')
# The pre-tokenizer backtracks over a run of white space that something follows, and its stack is finite.
LONG_SPACE = re.compile(f'[{SPACE}]{{1000,}}(?=[^{SPACE}])')
SURROGATES = re.compile('([\ud800-\udfff]+)')


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
      fingerprint: hexadecimal digest of everything that decides the ids.
    """

    def __init__(self, name: str, tokens: Sequence[bytes], size: int):
        self.name, self.tokens, self.size = name, list(tokens), size
        self.end_of_text, self.mask, self.pad, self.sep = range(size, size + len(SPECIAL))
        self.vocab_size = size + len(SPECIAL)
        lengths = [len(token) for token in self.tokens]
        self.byte_lengths = np.array(lengths + [0] * (self.vocab_size - len(lengths)), np.int32)
        self.fingerprint = digest_bytes(FORMAT, str(size), r50k_pat_str, *self.tokens)
        names = [name.encode() for name in SPECIAL]
        self._spelling = [*self.tokens, *[b''] * (size - len(self.tokens)), *names]

    def encode(self, text: str) -> np.ndarray:
        """Ids of any string, [n] int32. Special tokens' names in the text are plain text.

        Lone surrogates, which are no valid Unicode but may stand in a Python string, are encoded as the three
        bytes each that `surrogatepass` gives, and decoded back to themselves.
        """
        pieces = SURROGATES.split(text) if not _encodable(text) else [text]
        parts = [self._encode_bytes(piece) if i % 2 else self._encode(piece) for i, piece in enumerate(pieces)]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        """`encode` of each text, on several cores: long texts are shared among them too."""
        jobs = [(i, piece) for i, text in enumerate(texts) for piece in _pieces(text)]
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(lambda job: self.encode(job[1]), jobs))
        grouped: list[list[np.ndarray]] = [[] for _ in texts]
        for (i, _), part in zip(jobs, parts, strict=True):
            grouped[i].append(part)
        return [np.concatenate(group) if group else np.zeros(0, np.int32) for group in grouped]

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
    def load(cls, folder: Path | str) -> 'Tokenizer':
        """Reads what `save` wrote.

        Raises:
          UserError: no such file, or not what `save` wrote.
        """
        return _load(Path(folder) / FILE)

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        ranks = {token: i for i, token in enumerate(self.tokens)}
        return tiktoken.Encoding(self.name, pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})

    @cached_property
    def _byte_ids(self) -> np.ndarray:
        ranks = {token: i for i, token in enumerate(self.tokens)}
        return np.array([ranks[bytes([byte])] for byte in range(256)], np.int32)

    def _encode_bytes(self, text: str) -> np.ndarray:
        return self._byte_ids[np.frombuffer(text.encode('utf-8', 'surrogatepass'), np.uint8)]

    def _encode(self, text: str) -> np.ndarray:
        if len(self.tokens) == 256:
            return self._encode_bytes(text)
        parts = [
            self._encoding.encode_to_numpy(piece, disallowed_special=()).astype(np.int32) for piece in _pieces(text)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def make_tokenizer(name: str, documents: Iterable[str] | None = None) -> Tokenizer:
    """Makes the tokenizer of that name.

    Args:
      name: gpt2, bytes or bpe:N.
      documents: the training split; bpe:N learns its merges from them.

    Raises:
      UserError: unknown name, an impossible N, or GPT-2's merges missing or altered.
    """
    vocab_size_of(name)
    if name == 'bytes':
        return Tokenizer(name, [bytes([byte]) for byte in range(256)], 256)
    if name == 'gpt2':
        return Tokenizer(name, gpt2_merges.read(), GPT2_TOKENS)
    if documents is None:
        raise ValueError(f'{name} learns its merges from documents')
    size = int(name.removeprefix('bpe:'))
    return Tokenizer(name, bpe.train(documents, size), size)


def vocab_size_of(name: str) -> int:
    """Ordinary and special ids of a tokenizer, known from its name alone.

    Raises:
      UserError: unknown name or an impossible N.
    """
    if name in ('gpt2', 'bytes'):
        return len(SPECIAL) + (GPT2_TOKENS if name == 'gpt2' else 256)
    match = re.fullmatch(r'bpe:([0-9]{1,9})', name)
    if match is None:
        raise UserError(f'config.data.tokenizer = {name!r}: unknown; one of: gpt2, bytes, bpe:N (bpe:4096)')
    size = int(match[1])
    if not 256 <= size <= LARGEST_VOCABULARY:
        raise UserError(f'config.data.tokenizer = {name!r}: N must lie in 256..{LARGEST_VOCABULARY}')
    return size + len(SPECIAL)


def _load(path: Path) -> Tokenizer:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f'{path}: larger than any tokenizer ({LARGEST_FILE} bytes); not read')
        value = json.loads(path.read_text('utf-8'))
        tokens = [token.encode('latin-1') for token in value['tokens']]
        name, size = value['name'], value['size']
        whole = value['format'] == FORMAT and len(tokens) <= size and size + len(SPECIAL) == vocab_size_of(name)
        tokenizer = Tokenizer(name, tokens, size) if whole and {bytes([b]) for b in range(256)} <= set(tokens) else None
    except OSError as error:
        raise UserError(f'{path}: the tokenizer cannot be read ({error.strerror})') from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path}: damaged, not a tokenizer ({type(error).__name__}: {error})') from error
    if tokenizer is None or tokenizer.fingerprint != value['fingerprint']:
        raise UserError(f'{path}: damaged, its contents do not match its fingerprint')
    return tokenizer


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pieces(text: str) -> Iterator[str]:
    """Cuts a text where its tokens end in any case, so that the pieces' ids, joined, are the text's ids.

    Before white space that follows something else a new pre-token begins, whatever stands around it. A long
    run of white space is a pre-token of its own but for its last character, and is so too when it stands
    alone.
    """
    start = 0
    borders = [border for match in LONG_SPACE.finditer(text) for border in (match.start(), match.end() - 1)]
    for end in [*borders, len(text)]:
        while end - start > CHUNK:
            cut = CUT.search(text, start + CHUNK, end)
            if cut is None:
                break
            yield text[start : cut.start()]
            start = cut.start()
        if end > start:
            yield text[start:end]
            start = end
