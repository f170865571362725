"""Tokenizers of Hugging Face folders, read with the library `tokenizers`; nothing in them is run.

They come as tokenizer.json, or as BERT's vocab.txt, or as GPT-2's vocab.json and merges.txt.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from gpt2jax.data import bpe
from gpt2jax.data.files import digest_bytes
from gpt2jax.errors import UserError
from gpt2jax.files import read_json, write_json

FILE = 'tokenizer.json'
LARGEST_VOCABULARY = 1 << 20
LARGEST_TEXT_FILE = 64 << 20
KINDS = {'BPE': 'bpe', 'WordPiece': 'wordpiece', 'Unigram': 'unigram'}
ROLES = {  # the names a special token goes by, the likeliest first; XLNet's <s> and </s> stand for nothing
    'end_of_text': ('[CLS]', '<eod>', '<s>', '<|endoftext|>'),
    'mask': ('[MASK]', '<mask>', '<|mask|>'),
    'pad': ('[PAD]', '<pad>', '<|pad|>'),
    'sep': ('[SEP]', '<sep>', '</s>', '<|sep|>'),
}
SPACE = '\N{LOWER ONE EIGHTH BLOCK}'  # how SentencePiece writes a space


class HuggingFaceTokenizer:
    """The interface of gpt2jax.data.tokenizers.Tokenizer over a tokenizer of the library `tokenizers`.

    Args:
      spec: the content of tokenizer.json. Its truncation and padding are left out: a row is cut elsewhere.

    Attributes:
      name: kind and size, as wordpiece:30522.
      size: ids that the file knows, special ones among them.
      vocab_size: those, and one for each special token that the file does not have, behind them.
      end_of_text: of [CLS] or <s>, with which every document begins. mask, pad, sep: ids as well.
      lossless: whether the bytes of a text can be had back from its ids. WordPiece drops spaces and case.
      byte_lengths, begins_word, ends_word, fingerprint: as in Tokenizer. Where not lossless, the bytes are those
        of a plausible spelling.
    """

    def __init__(self, spec: dict):
        self.spec = spec | {'truncation': None, 'padding': None}
        self._encoder = tokenizers.Tokenizer.from_str(json.dumps(self.spec))
        self._encoder.encode_special_tokens = True  # their names in a text are plain text
        names = {i: token for token, i in self._encoder.get_vocab(with_added_tokens=True).items()}
        kind = KINDS[spec['model']['type']]
        self.size = max(names) + 1
        self.name = f'{kind}:{self.size}'
        native = {
            role: next((i for i in map(self._encoder.token_to_id, tokens) if i is not None), None)
            for role, tokens in ROLES.items()
        }
        absent = [role for role, i in native.items() if i is None]
        ids = native | {role: self.size + place for place, role in enumerate(absent)}
        self.end_of_text, self.mask, self.pad, self.sep = (ids[role] for role in ROLES)
        self.vocab_size = self.size + len(absent)
        self._closes = native['sep'] is not None
        names |= {ids[role]: f'<|{role}|>' for role in absent}

        special = {token['id'] for token in spec.get('added_tokens') or () if token['special']} | set(ids.values())
        byte_level = _uses(spec, 'ByteLevel')
        spell = {'bpe': _spell_bytes if byte_level else _spell_pieces, 'wordpiece': _spell_words}.get(
            kind, _spell_pieces
        )
        spelled = [b'' if i in special or i not in names else spell(names[i]) for i in range(self.vocab_size)]
        self.byte_lengths = np.array([len(token) for token in spelled], np.int32)
        self.begins_word, self.ends_word = _words(spelled, by_bytes=byte_level)
        self.lossless = byte_level and not spec.get('normalizer') and not _uses(spec, 'ByteLevel', 'add_prefix_space')
        self._spelling = [names.get(i, '').encode() if i in special else token for i, token in enumerate(spelled)]
        self._special = special
        self.fingerprint = digest_bytes('huggingface 1', json.dumps(self.spec, sort_keys=True))

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, [n] int32, without special tokens. What is no valid Unicode becomes a question mark."""
        encoding = self._encoder.encode(text.encode('utf-8', 'replace').decode(), add_special_tokens=False)
        return np.array(encoding.ids, np.int32)

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        """`encode` of each text; the library decides about `threads` itself."""
        texts = [text.encode('utf-8', 'replace').decode() for text in texts]
        encodings = self._encoder.encode_batch(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def wrap(self, ids: Iterable[int]) -> list[int]:
        """A text as the model reads it alone: [CLS] ids [SEP]; without the last where the file has none."""
        return [self.end_of_text, *map(int, ids), *([self.sep] if self._closes else [])]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids as the file's decoder joins them; special tokens give their names."""
        ids = [int(i) for i in ids]
        self._check(ids)
        parts, plain = [], []
        for i in [*ids, None]:
            if i is not None and i not in self._special:
                plain.append(i)
                continue
            parts.append(self._encoder.decode(plain, skip_special_tokens=False) if plain else '')
            parts.append('' if i is None else self._spelling[i].decode())
            plain = []
        return ''.join(parts)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, one id at a time; where not lossless, those of a plausible spelling."""
        ids = [int(i) for i in ids]
        self._check(ids)
        return b''.join(self._spelling[i] for i in ids)

    def name_of(self, i: int) -> str | None:
        """How the file writes a token."""
        return self._encoder.id_to_token(i)

    def has(self, name: str) -> bool:
        """Whether the file has a token of that name."""
        return self._encoder.token_to_id(name) is not None

    def save(self, folder: Path | str) -> None:
        """Writes the file into `folder`, whole or not at all."""
        write_json(Path(folder) / FILE, self.spec)

    def _check(self, ids: list[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise IndexError(f'token ids must lie in 0..{self.vocab_size - 1}, found {min(ids)}..{max(ids)}')


def make(spec: dict, origin: Path) -> HuggingFaceTokenizer:
    """The tokenizer of a file's content.

    Raises:
      UserError: it is none that the library can read, or of a kind that is not known here.
    """
    try:
        kind = spec['model']['type']
        if kind not in KINDS:
            raise UserError(f'{origin}: model.type = {kind!r}: not one of {", ".join(KINDS)}')
        if len(spec['model']['vocab']) > LARGEST_VOCABULARY:
            raise UserError(f'{origin}: {len(spec["model"]["vocab"])} tokens, more than {LARGEST_VOCABULARY}; not read')
        if any(not 0 <= token['id'] < LARGEST_VOCABULARY for token in spec.get('added_tokens') or ()):
            raise UserError(f'{origin}: a token has an id beyond {LARGEST_VOCABULARY}; not read')
        return HuggingFaceTokenizer(spec)
    except UserError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise UserError(f'{origin}: not a tokenizer that can be read ({type(error).__name__}: {error})') from error


def read_spec(folder: Path) -> dict:
    """The tokenizer.json of a folder, or what it would be for the files of an older kind.

    Raises:
      UserError: there is none of these, or it cannot be read.
    """
    if (folder / FILE).exists():
        return read_json(folder / FILE)
    if (folder / 'vocab.txt').exists():
        return _from_vocab_txt(folder)
    if (folder / 'vocab.json').exists() and (folder / 'merges.txt').exists():
        return _from_merges(folder)
    if (folder / 'spiece.model').exists():
        raise UserError(
            f'{folder}: its tokenizer is a file of SentencePiece alone, spiece.model, which is not read here; '
            'AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers makes a tokenizer.json of it'
        )
    raise UserError(f'{folder} has no tokenizer: neither {FILE}, nor vocab.txt, nor vocab.json and merges.txt')


def plain_bpe(spec: dict) -> tuple[list[bytes], int] | None:
    """(ordinary tokens, how many ids they have) of a file that is what gpt2jax.data.tokenizers.Tokenizer does, or None.

    That is a byte-level BPE whose ids are in the order of its merges, with nothing behind them but special tokens of
    our names in our order.
    """
    merging, before = spec.get('model') or {}, spec.get('pre_tokenizer') or {}
    plain = before.get('type') == 'ByteLevel' and not before.get('add_prefix_space') and before.get('use_regex', True)
    if merging.get('type') != 'BPE' or not plain or spec.get('normalizer') or merging.get('ignore_merges'):
        return None
    special = ('<|endoftext|>', '<|mask|>', '<|pad|>', '<|sep|>')
    added = {token['content']: token['id'] for token in spec.get('added_tokens') or ()}
    size = added.get(special[0])
    expected = {name: size + place for place, name in enumerate(special) if name in added} if size is not None else None
    if added != expected:
        return None
    to_byte, ids = bpe.byte_of_character(), {t: i for t, i in merging['vocab'].items() if t not in added}
    names = sorted(ids, key=ids.__getitem__)
    if [ids[name] for name in names] != list(range(len(names))) or len(names) > size:
        return None
    if not all(character in to_byte for name in names for character in name):
        return None
    tokens = [bytes(to_byte[c] for c in name) for name in names]
    merges = [tuple(merge.split(' ')) if isinstance(merge, str) else tuple(merge) for merge in merging['merges']]
    longer = [name for name in names if len(name) > 1]
    if {bytes([b]) for b in range(256)} - set(tokens) or [''.join(merge) for merge in merges] != longer:
        return None
    return tokens, size


def _from_vocab_txt(folder: Path) -> dict:
    """BERT's WordPiece (Devlin et al. 2019, section 3), cased or not as tokenizer_config.json says."""
    lines = _read_text(folder / 'vocab.txt').removesuffix('\n').split('\n')
    settings = read_json(folder / 'tokenizer_config.json') if (folder / 'tokenizer_config.json').exists() else {}
    lowercase = bool(settings.get('do_lower_case', True))
    vocab = {token: i for i, token in enumerate(lines)}
    if len(vocab) != len(lines) or '[UNK]' not in vocab:
        raise UserError(f'{folder / "vocab.txt"}: not a WordPiece vocabulary (a token twice, or no [UNK])')
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase,
        handle_chinese_chars=bool(settings.get('tokenize_chinese_chars', True)),
        strip_accents=settings.get('strip_accents'),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = [name for name in ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]') if name in vocab]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    if {'[CLS]', '[SEP]'} <= vocab.keys():
        tokenizer.post_processor = processors.BertProcessing(('[SEP]', vocab['[SEP]']), ('[CLS]', vocab['[CLS]']))
    return json.loads(tokenizer.to_str())


def _from_merges(folder: Path) -> dict:
    """GPT-2's and RoBERTa's byte-level BPE."""
    vocab = read_json(folder / 'vocab.json')
    lines = _read_text(folder / 'merges.txt').split('\n')
    merges = [tuple(line.split(' ')) for line in lines if line and not line.startswith('#version')]
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f'{folder}: vocab.json and merges.txt do not fit each other ({error})') from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [name for name in ('<s>', '<pad>', '</s>', '<unk>', '<mask>', '<|endoftext|>') if name in vocab]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    if {'<s>', '</s>'} <= vocab.keys():
        tokenizer.post_processor = processors.RobertaProcessing(
            ('</s>', vocab['</s>']), ('<s>', vocab['<s>']), add_prefix_space=False
        )
    return json.loads(tokenizer.to_str())


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_TEXT_FILE:
            raise UserError(f'{path}: larger than any vocabulary ({LARGEST_TEXT_FILE} bytes); not read')
        return path.read_text('utf-8')
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: cannot be read ({error})') from error


def _uses(spec: dict, kind: str, flag: str | None = None) -> bool:
    """Whether a pre-tokenizer of that type is among the file's, and has `flag` set if one is named."""
    before = spec.get('pre_tokenizer') or {}
    steps = before.get('pretokenizers', [before])
    return any(step.get('type') == kind and (flag is None or step.get(flag)) for step in steps)


def _spell_bytes(token: str) -> bytes:
    to_byte = bpe.byte_of_character()
    return bytes(to_byte[c] for c in token) if all(c in to_byte for c in token) else token.encode()


def _spell_words(token: str) -> bytes:
    return token[2:].encode() if token.startswith('##') else b' ' + token.encode()


def _spell_pieces(token: str) -> bytes:
    return token.replace(SPACE, ' ').encode()


def _words(spelled: list[bytes], by_bytes: bool) -> tuple[np.ndarray, np.ndarray]:
    """`begins_word` and `ends_word`: by the bytes, as in Tokenizer, or by the space that marks a beginning."""
    inside = bpe.LETTERS if by_bytes else frozenset(range(256)) - {ord(' ')}
    begins = np.array([not token or token[0] not in inside for token in spelled])
    ends = np.array([not token or (by_bytes and token[-1] not in inside) for token in spelled])
    return begins, ends
