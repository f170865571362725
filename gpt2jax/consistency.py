"""What values of a config must fit each other: `check_together`, a section at a time."""

import itertools

from ml_collections import ConfigDict

from gpt2jax.compatibility import attends, check_architecture, check_memory
from gpt2jax.config import flatten
from gpt2jax.data import vocabulary_of
from gpt2jax.data.corpora import CORPORA
from gpt2jax.errors import UserError, unknown
from gpt2jax.models.embedding import padded_vocab
from gpt2jax.models.splash import splash_blocks
from gpt2jax.objectives import OBJECTIVES, phases
from gpt2jax.optimizers import parse_groups
from gpt2jax.sharding import AXES


def check_together(config: ConfigDict) -> None:
    """Values that must fit each other; `config` is filled in."""
    check_architecture(config)
    if attends(config.model):
        check_attention(config.model, config.data.length)
        check_position(config.model)
        check_kernel(config)
    check_parametrization(config.model)
    check_adaptive(config)
    check_vocabulary(config)
    training = config.training
    if training.batch_size % training.accumulation:
        raise UserError(
            f'config.training.batch_size = {training.batch_size} is not a multiple of '
            f'config.training.accumulation = {training.accumulation}'
        )
    check_memory(config)
    check_lengths(config)
    check_mesh(config)
    check_schedule(config)
    check_objective(config)
    check_optimizer(config.optimizer)
    check_corpus(config.data)


def check_attention(model: ConfigDict, length: int) -> None:
    """Heads must divide the width, the table must hold all positions, and the kernel must know what is asked of it."""
    heads, kv_heads = model.attention.num_heads, model.attention.num_kv_heads
    if model.width % heads:
        raise UserError(
            f'config.model.width = {model.width} is not a multiple of config.model.attention.num_heads = {heads}; '
            f'widths that work: {model.width // heads * heads}, {(model.width // heads + 1) * heads}'
        )
    if heads % kv_heads:
        raise UserError(f'config.model.attention.num_heads = {heads} is not a multiple of num_kv_heads = {kv_heads}')
    if model.position.kind == 'learned' and length > model.position.max_length:
        raise UserError(
            f'config.data.length = {length} is beyond the position table, '
            f'config.model.position.max_length = {model.position.max_length}'
        )


def check_kernel(config: ConfigDict) -> None:
    """The kernel must know all that training asks of it; where generation asks for more, the einsum takes over."""
    attention, length = config.model.attention, config.data.length // max(config.sharding.context, 1)
    others = "set it to another value, or config.model.attention.kernel to 'einsum' or 'auto'"
    unable = []
    if attention.kernel in ('fused', 'splash', 'ring') and attention.dropout:
        unable.append(('model.attention.dropout', 'drop attention weights'))
    if attention.kernel == 'fused' and attention.softcap:
        unable.append(('model.attention.softcap', 'cap the scores'))
    if attention.kernel == 'splash':
        if config.model.position.kind in ('alibi', 't5', 'relative'):
            unable.append(('model.position.kind', 'add to the scores'))
        if config.model.memory_length:
            unable.append(('model.memory_length', 'read a memory'))
        if {kind for _, kind in phases(config)} - {'causal', 'masked'}:
            unable.append(('objective.kind', 'mix both directions'))
        if splash_blocks(length, config.data.length) is None:
            unable.append(('data.length', f'cut {length} tokens of a device into blocks of 128'))
    if unable:
        key, what = unable[0]
        value = flatten(config)[key]
        raise UserError(f'config.{key} = {value!r}: the {attention.kernel} kernel cannot {what}; {others}')


def check_lengths(config: ConfigDict) -> None:
    """What likelihoods are measured with must be lengths that the model can read."""
    stride, context, model = config.evaluation.stride, config.evaluation.context, config.model
    if context < stride:
        raise UserError(
            f'config.evaluation.context = {context}: each prediction of a stride of config.evaluation.stride = '
            f'{stride} tokens reads those before it in the stride, so the context must be at least as long'
        )
    if model.position.kind == 'learned' and context > model.position.max_length:
        raise UserError(
            f'config.evaluation.context = {context} is beyond the position table, config.model.position.max_length = '
            f'{model.position.max_length}'
        )
    if config.data.whole_documents and not stride == context == config.data.length:
        raise UserError(
            f'config.evaluation.stride = {stride} and config.evaluation.context = {context}: with '
            f'config.data.whole_documents both are config.data.length = {config.data.length}'
        )


def check_vocabulary(config: ConfigDict) -> None:
    """Every id that is predicted needs a logit; special ids that are only read may stand in the table's padding."""
    model, vocabulary = config.model, vocabulary_of(config.data.tokenizer)
    predicted = [vocabulary.ordinary - 1, vocabulary.end_of_text]
    if any(kind == 'span_corruption' for _, kind in phases(config)):
        predicted.append(vocabulary.sep)
    if max(predicted) >= model.vocab_size:
        raise UserError(
            f'config.model.vocab_size = {model.vocab_size}: the tokenizer {config.data.tokenizer} has '
            f'{vocabulary.size} ids, of which {max(predicted)} is the highest that is predicted'
        )
    if vocabulary.size > padded_vocab(model):
        raise UserError(
            f'config.model.vocab_size = {model.vocab_size}: the tokenizer {config.data.tokenizer} has '
            f'{vocabulary.size} ids, but the embedding {padded_vocab(model)} rows; a larger '
            f'config.model.vocab_multiple than {model.vocab_multiple} gives special tokens a row'
        )


def check_position(model: ConfigDict) -> None:
    """What the position encodings need of the sizes."""
    position, head_width = model.position, model.width // model.attention.num_heads
    if position.kind == 'rotary' and (head_width % 2 or head_width < 4):
        raise UserError(
            f'config.model.width / attention.num_heads = {head_width}: rotary positions turn pairs of numbers of a '
            'head, which must be even and at least 4 wide'
        )
    if position.kind == 't5' and (position.buckets % 4 or not 4 <= position.buckets < 4 * position.max_distance):
        raise UserError(
            f'config.model.position.buckets = {position.buckets}: must be a multiple of 4, and a quarter of it below '
            f'config.model.position.max_distance = {position.max_distance}'
        )


def check_objective(config: ConfigDict) -> None:
    """The shares of hidden tokens must leave room for each other, and the objectives of a switch must be known."""
    objective = config.objective
    if objective.mask_share + objective.random_share > 1 + 1e-9:
        raise UserError(
            f'config.objective.mask_share = {objective.mask_share} and config.objective.random_share = '
            f'{objective.random_share} are shares of the same tokens: their sum must be at most 1'
        )
    for _, kind in phases(config):
        if kind not in OBJECTIVES:
            raise unknown('objective.switch', kind, OBJECTIVES)
        if OBJECTIVES[kind].pairs:
            check_pairs(config, kind)


def check_pairs(config: ConfigDict, kind: str) -> None:
    """A pair that is cut has no source or no target, and one that sees its neighbours has their targets as well."""
    if not config.data.whole_documents:
        raise UserError(
            f'config.objective.kind = {kind!r} needs rows that cut no pair: set config.data.whole_documents=true'
        )
    if config.data.cross_documents:
        raise UserError(f'config.objective.kind = {kind!r} keeps pairs apart: set config.data.cross_documents=false')


def check_schedule(config: ConfigDict) -> None:
    """Warmup and decay must fit into the run."""
    optimizer, steps = config.optimizer, config.training.steps
    if optimizer.warmup_steps >= steps:
        raise UserError(
            f'config.optimizer.warmup_steps = {optimizer.warmup_steps} leaves nothing of '
            f'config.training.steps = {steps}'
        )
    if optimizer.schedule == 'inverse_sqrt' and not optimizer.warmup_steps:
        raise UserError(
            "config.optimizer.warmup_steps = 0: the schedule 'inverse_sqrt' falls from the end of its warmup, which "
            'needs at least 1 step (4,000 in Vaswani et al. 2017)'
        )
    left = steps - optimizer.warmup_steps
    if optimizer.schedule == 'wsd' and optimizer.decay_steps > left:
        raise UserError(
            f'config.optimizer.decay_steps = {optimizer.decay_steps} does not fit into the {left} steps that '
            f'config.optimizer.warmup_steps = {optimizer.warmup_steps} leaves of config.training.steps = {steps}'
        )


def check_optimizer(optimizer: ConfigDict) -> None:
    """Groups must be readable, and schedule_free decides about its own schedule and average."""
    parse_groups(optimizer.groups)
    if optimizer.kind != 'schedule_free':
        return
    if optimizer.schedule != 'constant':
        raise UserError(
            f'config.optimizer.schedule = {optimizer.schedule!r}: schedule_free takes the place of a decay by '
            'averaging its iterates; set config.optimizer.schedule=constant, warmup_steps stays'
        )
    if not optimizer.b1 > 0:
        raise UserError(
            f'config.optimizer.b1 = {optimizer.b1}: schedule_free trains between its iterates and their average, with '
            'the share b1 of the average, which must be above 0 (0.9 is usual)'
        )
    if optimizer.average:
        raise UserError(
            f'config.optimizer.average = {optimizer.average}: schedule_free has an average of its own, which is '
            'evaluated; set config.optimizer.average=0'
        )


def check_parametrization(model: ConfigDict) -> None:
    """muP's rules are for a head as wide as the model, whose sum grows with it."""
    if model.parametrization.kind == 'mup' and model.embedding.width != model.width:
        raise UserError(
            f'config.model.embedding.width = {model.embedding.width}: under config.model.parametrization.kind = '
            f"'mup' it must be config.model.width = {model.width} (or 0)"
        )


def check_adaptive(config: ConfigDict) -> None:
    """Cutoffs must rise within the vocabulary, every cluster have a width, and nothing ask for plain logits."""
    model, head = config.model, config.model.head
    if not head.cutoffs:
        return
    given = f'config.model.head.cutoffs = {head.cutoffs!r}'
    try:
        cutoffs = [int(cutoff) for cutoff in head.cutoffs.split(',')]
    except ValueError:
        raise UserError(f"{given}: expected whole numbers, as in '2000,8000'") from None
    bounds = [0, *cutoffs, model.vocab_size]
    if any(end <= start for start, end in itertools.pairwise(bounds)):
        raise UserError(f'{given}: they must rise, between 1 and config.model.vocab_size = {model.vocab_size}')
    narrowest = model.embedding.width / head.divisor ** len(cutoffs)
    if narrowest < 1:
        raise UserError(
            f'config.model.head.divisor = {head.divisor}: the last of {len(cutoffs) + 1} clusters would be narrower '
            f'than 1, as config.model.embedding.width = {model.embedding.width}'
        )
    refused = {
        'model.head.softcap': 'caps logits, of which there are several kinds',
        'model.head.transform': 'gives the width of one table, and there are several',
        'loss.z_loss': 'keeps a sum in bounds that is always 1',
    }
    values = flatten(config)
    for key, what in refused.items():
        if values[key] and not (key == 'model.head.transform' and head.divisor == 1):
            raise UserError(f'config.{key} = {values[key]!r} {what}, under {given}: turn one of the two off')
    if model.parametrization.kind == 'mup':
        raise UserError(f"config.model.parametrization.kind = 'mup' has no rule for {given}: turn one of the two off")


def check_corpus(data: ConfigDict) -> None:
    """The corpus must be known; whether its text is there is seen when it is prepared."""
    if data.corpus not in CORPORA and not data.corpus.startswith('tfds:'):
        raise unknown('data.corpus', data.corpus, [*CORPORA, 'tfds:NAME'])
    if data.corpus in ('text', 'pairs') and not data.path:
        raise UserError(
            f"config.data.path = '': corpus {data.corpus!r} needs a file or a folder, --config.data.path=PATH"
        )


def check_mesh(config: ConfigDict) -> None:
    """The part of each batch that a device gets must be a whole number of rows, and of heads."""
    given = [config.sharding[axis] for axis in AXES]
    if given.count(-1) > 1:
        raise UserError(
            f'config.sharding.{" x ".join(AXES)} = {" x ".join(map(str, given))}: only one of them can take what is '
            'left (-1); data does unless it is set'
        )
    context, lengths = max(config.sharding.context, 1), {'data.length': config.data.length}
    for key, length in (lengths | {'evaluation.context': config.evaluation.context}).items():
        if length % context:
            raise UserError(f'config.sharding.context = {context} does not divide config.{key} = {length}')
    tensor, kv_heads = max(config.sharding.tensor, 1), config.model.attention.num_kv_heads
    if attends(config.model) and kv_heads % tensor:
        raise UserError(
            f'config.sharding.tensor = {tensor} does not divide the heads of keys and values, '
            f'config.model.attention.num_kv_heads = {kv_heads}'
        )
    microbatch = config.training.batch_size // config.training.accumulation
    devices = max(config.sharding.data, 1) * max(config.sharding.fsdp, 1)
    if microbatch % devices:
        raise UserError(
            f'a microbatch of {microbatch} rows (config.training.batch_size / accumulation) cannot be divided over '
            f'{devices} devices (config.sharding.data x fsdp)'
        )
    if config.evaluation.batch_size % devices:
        raise UserError(
            f'config.evaluation.batch_size = {config.evaluation.batch_size} cannot be divided over {devices} devices '
            '(config.sharding.data x fsdp)'
        )
