"""What each architecture can be asked for: the tables to add a new one to, and `check_architecture`."""

from ml_collections import ConfigDict

from gpt2jax.config import flatten
from gpt2jax.errors import UserError
from gpt2jax.objectives import phases

# Objectives of the architectures that cannot serve every order, and why.
OBJECTIVES_OF = {
    'lstm': (('causal',), 'it reads from left to right alone'),
    'encoder_decoder': (('span_corruption', 'prefix', 'seq2seq'), 'its encoder needs a prefix to read'),
    'xlnet': (('permutation', 'causal'), 'it predicts tokens in an order, and none from a place that hides it'),
}
# Objectives that one architecture alone can serve, and why.
ARCHITECTURE_OF = {
    'permutation': ('xlnet', 'no other has a second stream, which predicts tokens that it has not read'),
}

# Keys that an architecture cannot honour, with the values that leave them alone. Keys of parts that it does not have,
# as attention in an LSTM, are not here: they are not read.
REFUSED = {
    'lstm': {
        'model.head.cutoffs': ('', 'its embedding is one table'),
        'model.parametrization.kind': ('standard', 'the rules for widths are those of a Transformer'),
    },
    'xlnet': {
        'model.position.kind': ('relative', 'its queries know their places by the distances of others'),
        'model.attention.window': (0, 'its queries see whatever comes before them in the order'),
        'model.attention.value_residual': (False, 'two streams would share the values of the first layer'),
    },
}


# Architectures with a memory of earlier rows that has a length.
REMEMBER = ('transformer_xl', 'xlnet')
# Positions that a memory of earlier rows can be read by.
BY_DISTANCE = ('relative', 'alibi', 't5', 'none')


def attends(model: ConfigDict) -> bool:
    """Whether attention, positions and feed-forwards of `config.model` are read."""
    return model.architecture != 'lstm'


def check_architecture(config: ConfigDict) -> None:
    """The objectives, the mesh and the other keys must be such that the architecture can serve them."""
    architecture, values = config.model.architecture, flatten(config)
    name = f'config.model.architecture = {architecture!r}'
    kinds, why = OBJECTIVES_OF.get(architecture, ((), ''))
    for step, kind in phases(config) if kinds else ():
        if kind not in kinds:
            key = 'objective.switch' if step else 'objective.kind'
            raise UserError(
                f'config.{key} = {values[key]!r}: {name} cannot serve {kind!r}, as {why}; it can: {", ".join(kinds)}'
            )
    for step, kind in phases(config):
        only, because = ARCHITECTURE_OF.get(kind, (architecture, ''))
        if architecture != only:
            key = 'objective.switch' if step else 'objective.kind'
            raise UserError(
                f'config.{key} = {values[key]!r}: not with {name}, as {because}; set '
                f'config.model.architecture to {only!r}, or train another objective'
            )
    for key, (harmless, because) in REFUSED.get(architecture, {}).items():
        if values[key] != harmless:
            raise UserError(f'config.{key} = {values[key]!r}: not with {name}, as {because}; set it to {harmless!r}')
    if architecture != 'transformer' and config.sharding.context != 1:
        raise UserError(
            f'config.sharding.context = {config.sharding.context}: only the architecture transformer can cut the '
            f'length of its rows, not {name}; set it to 1 and use data or fsdp'
        )
    if config.model.position.kind == 'relative' and config.sharding.context != 1:
        raise UserError(
            f'config.sharding.context = {config.sharding.context}: the distances of '
            "config.model.position.kind = 'relative' are those of whole rows; set it to 1 and use data or fsdp"
        )


def check_memory(config: ConfigDict) -> None:
    """A memory of earlier rows needs a model that has one, rows that go on, and an objective that reads forwards."""
    model, data = config.model, config.data
    if model.memory_length and model.architecture not in REMEMBER:
        raise UserError(
            f'config.model.memory_length = {model.memory_length}: only {" and ".join(REMEMBER)} have a memory of so '
            f'many tokens, not config.model.architecture = {model.architecture!r}'
        )
    if data.order == 'contiguous' and data.whole_documents:
        raise UserError(
            "config.data.order = 'contiguous': with config.data.whole_documents no row goes on where another ended; "
            "use 'shuffled'"
        )
    if model.memory_length and data.order == 'shuffled':
        raise UserError(
            f'config.model.memory_length = {model.memory_length}: rows remember the ones before them, which they '
            'follow in the text only with config.data.order=contiguous'
        )
    longest = max(model.memory_length, config.evaluation.context - config.evaluation.stride)
    if model.architecture in REMEMBER and longest and model.position.kind not in BY_DISTANCE:
        raise UserError(
            f'config.model.position.kind = {model.position.kind!r}: with a memory of {longest} tokens '
            '(config.model.memory_length; in evaluation its context - stride) a place in a row would be taken for that '
            f'of a token a row before; use one of: {", ".join(BY_DISTANCE)} (Dai et al. 2019, section 3.3)'
        )
    for _, kind in phases(config):
        if model.memory_length and kind not in ('causal', 'permutation'):
            raise UserError(
                f'config.objective.kind = {kind!r}: a model with a memory of earlier rows ({model.architecture}) '
                'predicts what follows them; use causal, or permutation for xlnet'
            )
