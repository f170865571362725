"""config.json of Hugging Face -> our config; what ours cannot say is refused by name. The way back: expressing.py."""

import math

from gpt2jax.errors import UserError

ACTIVATIONS = {
    'gelu_new': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'gelu': 'gelu',
    'relu': 'relu',
}
FAMILIES = {'gpt2': 'gpt2', 'bert': 'bert', 'roberta': 'bert', 'xlm-roberta': 'bert'}
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
}
LARGEST_SIZE = {'num_layers': 1000, 'other': 1 << 24}


def family_of(theirs: dict, origin) -> str:
    """gpt2 or bert. Raises UserError for any other model_type."""
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
    changes = (_gpt2_changes if family == 'gpt2' else _bert_changes)(reader, tensors)
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

    def activation(self, key: str) -> str:
        value = self.theirs.get(key)
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
