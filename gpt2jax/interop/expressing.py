"""Our config -> config.json of Hugging Face, when GPT-2 or BERT of transformers is the same function."""

from gpt2jax.config import flatten
from gpt2jax.data import Vocabulary
from gpt2jax.errors import UserError
from gpt2jax.objectives.switching import phases

ACTIVATIONS = {'gelu_tanh': 'gelu_new', 'gelu': 'gelu', 'relu': 'relu'}
BOTH = {
    'model.architecture': 'transformer',
    'model.parallel': False,
    'model.position.kind': 'learned',
    'model.attention.bias': True,
    'model.attention.qk_norm': False,
    'model.attention.softcap': 0.0,
    'model.attention.window': 0,
    'model.attention.value_residual': False,
    'model.feedforward.bias': True,
    'model.norm.kind': 'layernorm',
    'model.norm.bias': True,
    'model.head.softcap': 0.0,
    'model.parametrization.kind': 'standard',
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


def express(config, vocabulary: Vocabulary, encoder_only: bool = False) -> tuple[str, dict]:
    """(gpt2 or bert, content of config.json) for a resolved config.

    Under post-norm it is BERT that comes near, else GPT-2.

    Args:
      encoder_only: the run was imported from a BertModel, which has no head to predict with.

    Raises:
      UserError: transformers has no such model; all keys in the way are listed, with what they would have to be.
    """
    family = 'bert' if config.model.norm.placement == 'post' else 'gpt2'
    wrong = _obstacles(config, vocabulary, family, encoder_only)
    if wrong:
        name = {'gpt2': 'GPT-2', 'bert': 'BERT'}[family]
        raise UserError(
            f'this model cannot be exported: {name} of transformers, which comes nearest, is another function. '
            'In the way:\n  ' + '\n  '.join(wrong)
        )
    return family, (_gpt2_config if family == 'gpt2' else _bert_config)(config, vocabulary, encoder_only)


def _obstacles(config, vocabulary: Vocabulary, family: str, encoder_only: bool) -> list[str]:
    flat, model = flatten(config), config.model
    wanted = GPT2 if family == 'gpt2' else BERT | {'model.head.transform': True, 'model.head.bias': True}
    if encoder_only:
        wanted = BERT
    wrong = [f'config.{key} = {flat[key]!r}: must be {value!r}' for key, value in wanted.items() if flat[key] != value]

    def must(holds, key, what):
        if not holds:
            wrong.append(f'config.{key} = {flat[key]!r}: must be {what}')

    must(model.embedding.width == model.width, 'model.embedding.width', f'model.width = {model.width}')
    heads = model.attention.num_heads
    must(model.attention.num_kv_heads == heads, 'model.attention.num_kv_heads', f'num_heads = {heads}')
    must(model.feedforward.kind in ACTIVATIONS, 'model.feedforward.kind', f'one of {", ".join(ACTIVATIONS)}')
    kind = phases(config)[-1][1]
    kinds = ('causal', 'hybrid') if family == 'gpt2' else ('masked',)
    if kind not in kinds:
        key = 'switch' if config.objective.switch else 'kind'
        must(False, f'objective.{key}', f'{" or ".join(kinds)} at the end: nothing else is what transformers masks by')
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
