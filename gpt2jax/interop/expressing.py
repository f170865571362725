"""Our config -> config.json of Hugging Face, when GPT-2, BERT or XLNet of transformers is the same function."""

from gpt2jax.config import flatten
from gpt2jax.data import Vocabulary
from gpt2jax.errors import UserError
from gpt2jax.objectives.switching import phases

ACTIVATIONS = {'gelu_tanh': 'gelu_new', 'gelu': 'gelu', 'relu': 'relu'}
NAMES = {'gpt2': 'GPT-2', 'bert': 'BERT', 'xlnet': 'XLNet'}
KINDS = {'gpt2': ('causal', 'hybrid'), 'bert': ('masked',), 'xlnet': ('permutation',)}
ALL = {
    'model.parallel': False,
    'model.embedding.scale': False,
    'model.attention.qk_norm': False,
    'model.attention.softcap': 0.0,
    'model.attention.window': 0,
    'model.attention.value_residual': False,
    'model.feedforward.bias': True,
    'model.norm.kind': 'layernorm',
    'model.norm.bias': True,
    'model.head.softcap': 0.0,
    'model.head.cutoffs': '',
    'model.parametrization.kind': 'standard',
}
BOTH = ALL | {
    'model.architecture': 'transformer',
    'model.position.kind': 'learned',
    'model.attention.bias': True,
}
GPT2 = BOTH | {
    'model.norm.placement': 'pre',
    'model.embedding.norm': False,
    'model.embedding.token_types': 0,
    'model.head.bias': False,
    'model.head.transform': False,
    'model.head.pooler': False,
}
BERT = BOTH | {'model.norm.placement': 'post', 'model.embedding.norm': True}
XLNET = ALL | {
    'model.architecture': 'xlnet',
    'model.position.kind': 'relative',
    'model.position.segments': True,
    'model.attention.bias': False,
    'model.norm.placement': 'post',
    'model.embedding.norm': False,
    'model.embedding.token_types': 0,
    'model.head.transform': False,
    'model.head.pooler': False,
}
WANTED = {  # of a model with a head to predict with, and of one without
    'gpt2': (GPT2, GPT2),
    'bert': (BERT | {'model.head.transform': True, 'model.head.bias': True}, BERT),
    'xlnet': (XLNET | {'model.head.bias': True}, XLNET),
}


def express(config, vocabulary: Vocabulary, encoder_only: bool = False) -> tuple[str, dict]:
    """(gpt2, bert or xlnet, content of config.json) for a resolved config.

    Of the Transformers it is BERT that comes near under post-norm, else GPT-2.

    Args:
      encoder_only: the run was imported from a BertModel or XLNetModel, which has no head to predict with.

    Raises:
      UserError: transformers has no such model; all keys in the way are listed, with what they would have to be.
    """
    family = 'bert' if config.model.norm.placement == 'post' else 'gpt2'
    if config.model.architecture == 'xlnet':
        family = 'xlnet'
    wrong = _obstacles(config, vocabulary, family, encoder_only)
    if wrong:
        raise UserError(
            f'this model cannot be exported: {NAMES[family]} of transformers, which comes nearest, is another '
            'function. In the way:\n  ' + '\n  '.join(wrong)
        )
    content = {'gpt2': _gpt2_config, 'bert': _bert_config, 'xlnet': _xlnet_config}[family]
    return family, content(config, vocabulary, encoder_only)


def _obstacles(config, vocabulary: Vocabulary, family: str, encoder_only: bool) -> list[str]:
    flat, model = flatten(config), config.model
    wanted = WANTED[family][encoder_only]
    wrong = [f'config.{key} = {flat[key]!r}: must be {value!r}' for key, value in wanted.items() if flat[key] != value]

    def must(holds, key, what):
        if not holds:
            wrong.append(f'config.{key} = {flat[key]!r}: must be {what}')

    must(model.embedding.width == model.width, 'model.embedding.width', f'model.width = {model.width}')
    heads = model.attention.num_heads
    must(model.attention.num_kv_heads == heads, 'model.attention.num_kv_heads', f'num_heads = {heads}')
    must(model.feedforward.kind in ACTIVATIONS, 'model.feedforward.kind', f'one of {", ".join(ACTIVATIONS)}')
    kind = phases(config)[-1][1]
    if kind not in KINDS[family]:
        key = 'switch' if config.objective.switch else 'kind'
        must(
            False,
            f'objective.{key}',
            f'{" or ".join(KINDS[family])} at the end: nothing else is what transformers masks by',
        )
    if family == 'bert':
        must(model.embedding.token_types >= 1, 'model.embedding.token_types', 'at least 1')
        highest = max(vocabulary.end_of_text, vocabulary.mask, vocabulary.sep)
        must(highest < model.vocab_size, 'model.vocab_size', f'above {highest}, the highest id of a special token')
    return wrong


def _gpt2_config(config, vocabulary: Vocabulary, encoder_only: bool) -> dict:
    model = config.model
    return {
        'architectures': ['GPT2LMHeadModel'],
        'model_type': 'gpt2',
        'activation_function': ACTIVATIONS[model.feedforward.kind],
        'attn_pdrop': model.attention.dropout,
        'bos_token_id': vocabulary.end_of_text,
        'embd_pdrop': model.dropout,
        'eos_token_id': vocabulary.end_of_text,
        'initializer_range': model.init.std,
        'layer_norm_epsilon': model.norm.epsilon,
        'n_embd': model.width,
        'n_head': model.attention.num_heads,
        'n_inner': model.feedforward.width,
        'n_layer': model.num_layers,
        'n_positions': model.position.max_length,
        'pad_token_id': vocabulary.pad if vocabulary.pad < model.vocab_size else None,
        'resid_pdrop': model.dropout,
        'tie_word_embeddings': model.head.tied,
        'vocab_size': model.vocab_size,
    }


def _bert_config(config, vocabulary: Vocabulary, encoder_only: bool) -> dict:
    model = config.model
    return {
        'architectures': ['BertModel' if encoder_only else 'BertForMaskedLM'],
        'model_type': 'bert',
        'attention_probs_dropout_prob': model.attention.dropout,
        'hidden_act': ACTIVATIONS[model.feedforward.kind],
        'hidden_dropout_prob': model.dropout,
        'hidden_size': model.width,
        'initializer_range': model.init.std,
        'intermediate_size': model.feedforward.width,
        'layer_norm_eps': model.norm.epsilon,
        'max_position_embeddings': model.position.max_length,
        'num_attention_heads': model.attention.num_heads,
        'num_hidden_layers': model.num_layers,
        'pad_token_id': vocabulary.pad if vocabulary.pad < model.vocab_size else None,
        'position_embedding_type': 'absolute',
        'tie_word_embeddings': model.head.tied,
        'type_vocab_size': model.embedding.token_types,
        'vocab_size': model.vocab_size,
    }


def _xlnet_config(config, vocabulary: Vocabulary, encoder_only: bool) -> dict:
    model = config.model
    return {
        'architectures': ['XLNetModel' if encoder_only else 'XLNetLMHeadModel'],
        'model_type': 'xlnet',
        'attn_type': 'bi',
        'bi_data': False,
        'bos_token_id': vocabulary.end_of_text,
        'clamp_len': model.position.clamp_length or -1,
        'd_head': model.width // model.attention.num_heads,
        'd_inner': model.feedforward.width,
        'd_model': model.width,
        'dropout': model.dropout,
        'eos_token_id': vocabulary.end_of_text,
        'ff_activation': ACTIVATIONS[model.feedforward.kind],
        'initializer_range': model.init.std,
        'layer_norm_eps': model.norm.epsilon,
        'mem_len': model.memory_length or None,
        'n_head': model.attention.num_heads,
        'n_layer': model.num_layers,
        'pad_token_id': vocabulary.pad if vocabulary.pad < model.vocab_size else None,
        'reuse_len': None,
        'same_length': False,
        'tie_word_embeddings': model.head.tied,
        'untie_r': True,
        'vocab_size': model.vocab_size,
    }
