"""config.json of Hugging Face -> our config; what ours cannot say is refused by name. The way back: expressing.py."""

import math

from gpt2jax.errors import UserError

ACTIVATIONS = {
    'gelu_new': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'gelu': 'gelu',
    'relu': 'relu',
}
FAMILIES = {'gpt2': 'gpt2', 'bert': 'bert', 'roberta': 'bert', 'xlm-roberta': 'bert', 'xlnet': 'xlnet'}
OFFSET = {'roberta': 2, 'xlm-roberta': 2}  # positions count from padding_idx + 1
# Keys that must have one value (the default of transformers, which is also that of a file without the key).
ONLY = {
    'gpt2': {
        'scale_attn_weights': True,
        'scale_attn_by_inverse_layer_idx': False,
        'reorder_and_upcast_attn': False,
        'add_cross_attention': False,
    },
    'bert': {
        'position_embedding_type': 'absolute',
        'is_decoder': False,
        'add_cross_attention': False,
        'is_encoder_decoder': False,
    },
    'xlnet': {
        'attn_type': 'bi',
        'bi_data': False,
        'same_length': False,
        'reuse_len': None,
        'untie_r': True,
    },
}
XLNET_LENGTH = 512  # of the rows it was trained with (Yang et al. 2019, section 3.1); its positions have no end
LARGEST_SIZE = {'num_layers': 1000, 'other': 1 << 24}


def family_of(theirs: dict, origin) -> str:
    """gpt2, bert or xlnet. Raises UserError for any other model_type."""
    kind = theirs.get('model_type')
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f'{origin}: model_type = {kind!r} is not among {", ".join(FAMILIES)}')
    return FAMILIES[kind]


def changes_of(theirs: dict, tensors, origin) -> dict:
    """What a Hugging Face config changes in our tree.

    Args:
      theirs: content of config.json.
      tensors: plain names of the tensors (gpt2jax.interop.layouts.plain_name), which tell which heads there are.
      origin: the file, for errors.

    Raises:
      UserError: it asks for something our models do not do; all of it is listed.
    """
    reader = _Reader(theirs, origin)
    family = family_of(theirs, origin)
    for key, only in ONLY[family].items():
        if theirs.get(key, only) != only:
            reader.wrong.append(f'{key} = {theirs[key]!r} (only {only!r} can be expressed)')
    if theirs.get('quantization_config'):
        reader.wrong.append('quantization_config (only whole weights can be read)')
    changes = {'gpt2': _gpt2_changes, 'bert': _bert_changes, 'xlnet': _xlnet_changes}[family](reader, tensors)
    if reader.wrong:
        raise UserError(f'{origin}: this model cannot be expressed here:\n  ' + '\n  '.join(reader.wrong))
    length = changes['model.position.max_length']
    return changes | {'data.length': length, 'training.batch_size': 8, 'evaluation.batch_size': 4}


class _Reader:
    """Values of a config with their types checked; what is wrong is collected."""

    def __init__(self, theirs: dict, origin):
        self.theirs, self.origin, self.wrong = theirs, origin, []

    def size(self, key: str, default: int | None = None, limit: str = 'other') -> int:
        value = self.theirs.get(key, default)
        if type(value) is not int or not 1 <= value <= LARGEST_SIZE[limit]:
            raise UserError(f'{self.origin}: {key} = {value!r} is not a whole number in 1..{LARGEST_SIZE[limit]}')
        return value

    def number(self, key: str, default: float) -> float:
        value = self.theirs.get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise UserError(f'{self.origin}: {key} = {value!r} is not a number')
        return float(value)

    def activation(self, key: str, default: str | None = None) -> str:
        value = self.theirs.get(key, default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            self.wrong.append(f'{key} = {value!r} (there are {", ".join(ACTIVATIONS)})')
        return ACTIVATIONS.get(value if isinstance(value, str) else '', 'gelu')

    def tied(self) -> bool:
        return bool(self.theirs.get('tie_word_embeddings', True))


def _gpt2_changes(reader: _Reader, tensors) -> dict:
    width = reader.size('n_embd', 768)
    inner = {} if reader.theirs.get('n_inner') is None else {'model.feedforward.width': reader.size('n_inner')}
    return inner | {
        'objective.kind': 'causal',
        'model.num_layers': reader.size('n_layer', 12, 'num_layers'),
        'model.width': width,
        'model.vocab_size': reader.size('vocab_size', 50257),
        'model.dropout': reader.number('resid_pdrop', 0.1),
        'model.position.max_length': reader.size('n_positions', 1024),
        'model.attention.num_heads': reader.size('n_head', 12),
        'model.attention.dropout': reader.number('attn_pdrop', 0.1),
        'model.feedforward.kind': reader.activation('activation_function'),
        'model.norm.epsilon': reader.number('layer_norm_epsilon', 1e-5),
        'model.head.tied': reader.tied(),
        'model.init.std': reader.number('initializer_range', 0.02),
    }


def _bert_changes(reader: _Reader, tensors) -> dict:
    kind, activation = reader.theirs['model_type'], reader.activation('hidden_act')
    transform = any(name.startswith('cls.predictions.transform.') for name in tensors)
    if kind in OFFSET and transform and activation != 'gelu':
        reader.wrong.append(f'hidden_act = {reader.theirs["hidden_act"]!r} (the head of {kind} has gelu in any case)')
    padding = reader.theirs.get('pad_token_id', 1)
    if kind in OFFSET and padding != 1:
        reader.wrong.append(f'pad_token_id = {padding!r} (positions of {kind} count from it: only 1 can be expressed)')
    return {
        'objective.kind': 'masked',
        'model.num_layers': reader.size('num_hidden_layers', 12, 'num_layers'),
        'model.width': reader.size('hidden_size', 768),
        'model.vocab_size': reader.size('vocab_size'),
        'model.dropout': reader.number('hidden_dropout_prob', 0.1),
        'model.position.max_length': reader.size('max_position_embeddings', 512) - OFFSET.get(kind, 0),
        'model.embedding.norm': True,
        'model.embedding.token_types': reader.size('type_vocab_size', 2),
        'model.attention.num_heads': reader.size('num_attention_heads', 12),
        'model.attention.dropout': reader.number('attention_probs_dropout_prob', 0.1),
        'model.feedforward.kind': activation,
        'model.feedforward.width': reader.size('intermediate_size', 3072),
        'model.norm.placement': 'post',
        'model.norm.epsilon': reader.number('layer_norm_eps', 1e-12),
        'model.head.tied': reader.tied() or not transform,
        'model.head.bias': transform,
        'model.head.transform': transform,
        'model.head.pooler': 'pooler.dense.weight' in tensors,
        'model.init.residual': 'plain',
        'model.init.std': reader.number('initializer_range', 0.02),
    }


def _xlnet_changes(reader: _Reader, tensors) -> dict:
    width, heads = reader.size('d_model', 1024), reader.size('n_head', 16)
    if reader.theirs.get('d_head') is not None and reader.size('d_head') * heads != width:
        reader.wrong.append(f'd_head = {reader.theirs["d_head"]!r} (only d_model / n_head can be expressed)')
    clamp = reader.theirs.get('clamp_len', -1)
    if type(clamp) is not int or clamp > LARGEST_SIZE['other']:
        raise UserError(f'{reader.origin}: clamp_len = {clamp!r} is not a whole number up to {LARGEST_SIZE["other"]}')
    dropout = reader.number('dropout', 0.1)
    memory = 0 if reader.theirs.get('mem_len', 512) in (None, 0) else reader.size('mem_len', 512)
    return {
        'objective.kind': 'permutation',
        'objective.rate': 1 / 6,
        'data.order': 'contiguous' if memory else 'shuffled',
        'model.architecture': 'xlnet',
        'model.num_layers': reader.size('n_layer', 24, 'num_layers'),
        'model.memory_length': memory,
        'model.width': width,
        'model.vocab_size': reader.size('vocab_size', 32000),
        'model.dropout': dropout,
        'model.position.kind': 'relative',
        'model.position.max_length': XLNET_LENGTH,
        'model.position.clamp_length': max(clamp, 0),
        'model.position.segments': True,
        'model.attention.num_heads': heads,
        'model.attention.bias': False,
        'model.attention.dropout': dropout,
        'model.feedforward.kind': reader.activation('ff_activation', 'gelu'),
        'model.feedforward.width': reader.size('d_inner', 4096),
        'model.norm.placement': 'post',
        'model.norm.epsilon': reader.number('layer_norm_eps', 1e-12),
        'model.head.tied': reader.tied() or 'lm_loss.weight' not in tensors,
        'model.head.bias': 'lm_loss.bias' in tensors,
        'model.init.residual': 'plain',
        'model.init.std': reader.number('initializer_range', 0.02),
    }
