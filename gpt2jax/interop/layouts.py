"""Which tensor of a Hugging Face model holds which of our parameters: one table a family, read in both directions.

Ours are named by their path in the tree. Kernels are [out, in] on our side; GPT-2's are [in, out] on the other, and
XLNet's have an axis of heads and one of their width.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
      name: in the file.
      paths: of the parameters that it holds, joined along their first axis.
      transposed: whether the file has [in, out].
      vocabulary: whether its first axis is that of the ids; ours is padded (gpt2jax.models.embedding.padded_vocab).
      offset: rows in front that are not ours: RoBERTa's positions count from 2.
      folded: shape in the file, where it has other axes than ours; (): it has the same.
    """

    name: str
    paths: tuple[str, ...]
    transposed: bool = False
    vocabulary: bool = False
    offset: int = 0
    folded: tuple[int, ...] = ()

    def shape(self, shapes: Shapes, vocab_size: int) -> tuple[int, ...]:
        """Of the tensor in the file; `shapes` are ours, by path."""
        rows = vocab_size if self.vocabulary else self.offset + sum(shapes[path][0] for path in self.paths)
        shape = (rows, *shapes[self.paths[0]][1:])
        return self.folded or (shape[::-1] if self.transposed else shape)

    def split(self, tensor: np.ndarray, shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
        """(path, parameter) of a tensor of the file. Rows of the vocabulary's padding are zero."""
        if self.folded:
            own = shapes[self.paths[0]]
            tensor = tensor.reshape(own[::-1] if self.transposed else own)
        rows = (tensor.T if self.transposed else tensor)[self.offset :]
        for path in self.paths:
            count = shapes[path][0]
            part, rows = rows[:count], rows[count:]
            missing = count - len(part)
            yield path, np.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1)) if missing else part

    def join(self, parameters: dict[str, np.ndarray], vocab_size: int) -> np.ndarray:
        """The tensor of the file from the parameters at `paths`; rows of `offset` are zero."""
        parts = [parameters[path] for path in self.paths]
        rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if self.vocabulary:
            rows = rows[:vocab_size]
        if self.offset:
            rows = np.pad(rows, [(self.offset, 0)] + [(0, 0)] * (rows.ndim - 1))
        rows = np.ascontiguousarray(rows.T) if self.transposed else rows
        return rows.reshape(self.folded) if self.folded else rows


def gpt2(model, prefix: str = 'transformer.') -> list[Entry]:
    """GPT2LMHeadModel. `model` is `config.model`; GPT2Model has no prefix."""
    entries = [
        Entry(prefix + 'wte.weight', ('embedding/token',), vocabulary=True),
        Entry(prefix + 'wpe.weight', ('embedding/position/embedding',)),
    ]
    for i in range(model.num_layers):
        theirs, ours = f'{prefix}h.{i}.', f'blocks/{i}/'
        joined = tuple(f'{ours}attention/{name}' for name in ('query', 'key', 'value'))
        entries += _norm(theirs + 'ln_1', ours + 'norm_attention')
        entries += _linear(theirs + 'attn.c_attn', joined, transposed=True)
        entries += _linear(theirs + 'attn.c_proj', (ours + 'attention/out',), transposed=True)
        entries += _norm(theirs + 'ln_2', ours + 'norm_feedforward')
        entries += _linear(theirs + 'mlp.c_fc', (ours + 'feedforward/expand',), transposed=True)
        entries += _linear(theirs + 'mlp.c_proj', (ours + 'feedforward/contract',), transposed=True)
    entries += _norm(prefix + 'ln_f', 'norm_final')
    if not model.head.tied:
        entries.append(Entry('lm_head.weight', ('head/kernel',), vocabulary=True))
    return entries


def bert(model, prefix: str = 'bert.', offset: int = 0) -> list[Entry]:
    """BertForMaskedLM; without the transform in its head BertModel. `model` is `config.model`.

    Args:
      prefix: BertModel alone has none.
      offset: 2 in RoBERTa.
    """
    table = prefix + 'embeddings.'
    entries = [
        Entry(table + 'word_embeddings.weight', ('embedding/token',), vocabulary=True),
        Entry(table + 'position_embeddings.weight', ('embedding/position/embedding',), offset=offset),
        Entry(table + 'token_type_embeddings.weight', ('embedding/token_type',)),
        *_norm(table + 'LayerNorm', 'embedding/norm'),
    ]
    for i in range(model.num_layers):
        theirs, ours = f'{prefix}encoder.layer.{i}.', f'blocks/{i}/'
        for name in ('query', 'key', 'value'):
            entries += _linear(f'{theirs}attention.self.{name}', (f'{ours}attention/{name}',))
        entries += _linear(theirs + 'attention.output.dense', (ours + 'attention/out',))
        entries += _norm(theirs + 'attention.output.LayerNorm', ours + 'norm_attention')
        entries += _linear(theirs + 'intermediate.dense', (ours + 'feedforward/expand',))
        entries += _linear(theirs + 'output.dense', (ours + 'feedforward/contract',))
        entries += _norm(theirs + 'output.LayerNorm', ours + 'norm_feedforward')
    if model.head.pooler:
        entries += _linear(prefix + 'pooler.dense', ('head/pooler',))
    if model.head.transform:
        entries += _linear('cls.predictions.transform.dense', ('head/transform',))
        entries += _norm('cls.predictions.transform.LayerNorm', 'head/norm')
        # Untied from the embedding, the matrix has its bias for itself, and the other one is not used.
        bias = 'cls.predictions.bias' if model.head.tied else 'cls.predictions.decoder.bias'
        entries.append(Entry(bias, ('head/bias',), vocabulary=True))
    if not model.head.tied:
        entries.append(Entry('cls.predictions.decoder.weight', ('head/kernel',), vocabulary=True))
    return entries


def xlnet(model, prefix: str = 'transformer.') -> list[Entry]:
    """XLNetLMHeadModel; without a bias in its head XLNetModel, which has no prefix. `model` is `config.model`."""
    width, heads = model.width, model.attention.num_heads
    folded = (width, heads, width // heads)
    entries = [
        Entry(prefix + 'word_embedding.weight', ('embedding/token',), vocabulary=True),
        Entry(prefix + 'mask_emb', ('embedding/query',), folded=(1, 1, width)),
    ]
    for i in range(model.num_layers):
        theirs, ours = f'{prefix}layer.{i}.', f'blocks/{i}/'
        for name in ('query', 'key', 'value', 'relative'):
            path = f'{ours}attention/{name}/kernel'
            entries.append(Entry(f'{theirs}rel_attn.{name[0]}', (path,), transposed=True, folded=folded))
        entries.append(Entry(f'{theirs}rel_attn.o', (f'{ours}attention/out/kernel',), folded=folded))
        for there, here in XLNET_SCORES.items():
            entries.append(Entry(f'{theirs}rel_attn.{there}', (f'{ours}attention/relative/{here}',)))
        entries += _norm(theirs + 'rel_attn.layer_norm', ours + 'norm_attention')
        entries += _linear(theirs + 'ff.layer_1', (ours + 'feedforward/expand',))
        entries += _linear(theirs + 'ff.layer_2', (ours + 'feedforward/contract',))
        entries += _norm(theirs + 'ff.layer_norm', ours + 'norm_feedforward')
    if model.head.bias:
        entries.append(Entry('lm_loss.bias', ('head/bias',), vocabulary=True))
    if not model.head.tied:
        entries.append(Entry('lm_loss.weight', ('head/kernel',), vocabulary=True))
    return entries


# What is learned for the scores of one layer, beside the projection of distances.
XLNET_SCORES = {
    'r_w_bias': 'content_bias',
    'r_r_bias': 'position_bias',
    'r_s_bias': 'segment_bias',
    'seg_embed': 'segment_embedding',
}
TABLES = {'gpt2': gpt2, 'bert': bert, 'xlnet': xlnet}

# Names that a family goes by in its files -> the one in the tables above.
RENAMED = {
    'gpt2': ((r'^transformer\.', ''),),
    'xlnet': ((r'^transformer\.', ''),),
    'bert': (
        (r'^(bert|roberta)\.', ''),
        (r'LayerNorm\.gamma$', 'LayerNorm.weight'),
        (r'LayerNorm\.beta$', 'LayerNorm.bias'),
        (r'^lm_head\.dense\.', 'cls.predictions.transform.dense.'),
        (r'^lm_head\.layer_norm\.', 'cls.predictions.transform.LayerNorm.'),
        (r'^lm_head\.(bias|decoder\.)', r'cls.predictions.\1'),
    ),
}
# Left out where no parameter is made of them: buffers, the head of next sentences, a bias that an untied head ignores.
IGNORED = {
    'gpt2': r'h\.\d+\.attn\.(bias|masked_bias)',
    'xlnet': r'(?!)',
    'bert': r'embeddings\.(position_ids|token_type_ids)|cls\.seq_relationship\.(weight|bias)|cls\.predictions\.bias',
}
# Tensors that may be written twice: the second must be the first.
COPIES = {
    'gpt2': {'lm_head.weight': 'wte.weight'},
    'xlnet': {'lm_loss.weight': 'word_embedding.weight'},
    'bert': {
        'cls.predictions.decoder.weight': 'embeddings.word_embeddings.weight',
        'cls.predictions.decoder.bias': 'cls.predictions.bias',
    },
}


def plain_name(family: str, name: str) -> str:
    """The name that the tables, without a prefix, have for a tensor of a file."""
    for pattern, replacement in RENAMED[family]:
        name = re.sub(pattern, replacement, name)
    return name


def _linear(theirs: str, ours: tuple[str, ...], transposed: bool = False) -> list[Entry]:
    kernels, biases = (tuple(f'{path}/{leaf}' for path in ours) for leaf in ('kernel', 'bias'))
    return [Entry(f'{theirs}.weight', kernels, transposed), Entry(f'{theirs}.bias', biases)]


def _norm(theirs: str, ours: str) -> list[Entry]:
    return [Entry(f'{theirs}.weight', (f'{ours}/scale',)), Entry(f'{theirs}.bias', (f'{ours}/bias',))]
