"""Our tokenizers as files that AutoTokenizer reads."""

import itertools
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from gpt2jax.data import bpe
from gpt2jax.data.hf_tokenizer import HuggingFaceTokenizer
from gpt2jax.data.tokenizers import SPECIAL, Tokenizer
from gpt2jax.files import replace_file, write_json

NAMES = {'bos_token': 0, 'eos_token': 0, 'unk_token': 0, 'mask_token': 1, 'pad_token': 2, 'sep_token': 3}


def write_tokenizer(folder: Path, tokenizer, model, family: str) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Args:
      tokenizer: ours, or one that came from a Hugging Face folder, which is written as it came.
      model: `config.model`; special tokens whose ids are not in its vocabulary are left out.
      family: gpt2, bert or xlnet; BERT's adds the special tokens of `tokenizer.wrap` to a text, as BERT's does.
    """
    if isinstance(tokenizer, HuggingFaceTokenizer):
        tokenizer.save(folder)
        names = _special_of(tokenizer)
    else:
        library, names = _library_of(tokenizer, model, family)
        replace_file(folder / 'tokenizer.json', library.to_str(pretty=True).encode())
    config = {'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': model.position.max_length}
    write_json(folder / 'tokenizer_config.json', config | {'clean_up_tokenization_spaces': False} | names)
    write_json(folder / 'special_tokens_map.json', names)


def merges_of(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The merge that made each longer token: its two parts once all earlier merges are done."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for rank, token in enumerate(tokens):
        if len(token) == 1:
            continue
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            found = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            best = min(found)
            if best >= rank:
                break
            i = found.index(best)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) != 2:
            raise ValueError(f'{token!r} is not made of two earlier tokens')
        merges.append((parts[0], parts[1]))
    return merges


def _library_of(tokenizer: Tokenizer, model, family: str) -> tuple[Library, dict[str, str]]:
    """GPT-2's kind of byte-level BPE with our tokens, merges and special tokens, and what these are called."""
    characters = {byte: character for character, byte in bpe.byte_of_character().items()}

    def spell(token: bytes) -> str:
        return ''.join(characters[byte] for byte in token)

    special = {name: tokenizer.size + i for i, name in enumerate(SPECIAL) if tokenizer.size + i < model.vocab_size}
    vocab = {spell(token): i for i, token in enumerate(tokenizer.tokens)} | special
    library = Library(models.BPE(vocab, [(spell(a), spell(b)) for a, b in merges_of(tokenizer.tokens)]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    if family == 'bert':
        library.post_processor = processors.TemplateProcessing(
            single=f'{SPECIAL[0]} $A',
            pair=f'{SPECIAL[0]} $A {SPECIAL[3]}:1 $B:1',
            special_tokens=[(name, special[name]) for name in (SPECIAL[0], SPECIAL[3])],
        )
    names = {role: SPECIAL[place] for role, place in NAMES.items() if SPECIAL[place] in special}
    return library, names | ({'cls_token': SPECIAL[0]} if family == 'bert' else {})


def _special_of(tokenizer: HuggingFaceTokenizer) -> dict[str, str]:
    """The names of the special tokens that its file has."""
    roles = {'cls_token': 'end_of_text', 'bos_token': 'end_of_text', 'mask_token': 'mask', 'pad_token': 'pad'}
    roles |= {'sep_token': 'sep', 'eos_token': 'sep'}
    ids = {role: getattr(tokenizer, ours) for role, ours in roles.items()}
    names = {role: tokenizer.name_of(i) for role, i in ids.items() if i < tokenizer.size}
    unknown = next((name for name in ('[UNK]', '<unk>') if tokenizer.has(name)), None)
    return names | ({'unk_token': unknown} if unknown else {})
