"""Fills in what a config leaves open and refuses what cannot work, before any data or device is touched."""

import difflib
import math

from ml_collections import ConfigDict, FrozenConfigDict

from gpt2jax.config import flatten, overlay
from gpt2jax.data import vocab_size_of
from gpt2jax.data.corpora import CORPORA
from gpt2jax.errors import UserError
from gpt2jax.models import ARCHITECTURES
from gpt2jax.models.attention import KERNELS
from gpt2jax.models.feedforward import ACTIVATIONS
from gpt2jax.models.norms import NORMS
from gpt2jax.models.positions import POSITIONS
from gpt2jax.objectives import OBJECTIVES
from gpt2jax.optimizers import OPTIMIZERS, SCHEDULES

CHOICES = {
    'objective.kind': OBJECTIVES,
    'model.architecture': ARCHITECTURES,
    'model.remat': ('none', 'full', 'dots'),
    'model.dtype': ('float32', 'bfloat16'),
    'model.position.kind': POSITIONS,
    'model.attention.kernel': KERNELS,
    'model.feedforward.kind': ACTIVATIONS,
    'model.norm.kind': NORMS,
    'model.init.residual': ('scaled', 'plain'),
    'optimizer.kind': OPTIMIZERS,
    'optimizer.schedule': SCHEDULES,
}

AT_LEAST_ONE = (
    'data.length',
    'data.prefetch',
    'model.num_layers',
    'model.width',
    'model.vocab_multiple',
    'model.attention.num_heads',
    'training.steps',
    'training.batch_size',
    'training.accumulation',
    'training.log_every',
    'checkpoint.keep',
    'sampling.num_samples',
    'sampling.max_new_tokens',
    'sharding.fsdp',
)

AT_LEAST_ZERO = (
    'seed',
    'model.vocab_size',
    'model.position.max_length',
    'model.attention.num_kv_heads',
    'model.feedforward.width',
    'loss.chunk_tokens',
    'loss.z_loss',
    'optimizer.weight_decay',
    'optimizer.clip_norm',
    'optimizer.warmup_steps',
    'optimizer.decay_steps',
    'evaluation.every',
    'evaluation.batch_size',
    'evaluation.num_rows',
    'checkpoint.every_steps',
    'checkpoint.every_minutes',
    'sampling.temperature',
    'sampling.top_k',
    'sharding.cpu_devices',
)

FRACTIONS = ('model.dropout', 'model.attention.dropout', 'optimizer.b1', 'optimizer.b2')  # in [0, 1)


def resolve(config: ConfigDict) -> FrozenConfigDict:
    """The config with every '0: ...' filled in, checked, and frozen.

    Raises:
      UserError: a value that is not one of its choices, out of its range, or at odds with another one.
    """
    check_values(config)
    model, steps = config.model, config.training.steps
    config = overlay(
        config,
        {
            'model.vocab_size': model.vocab_size or vocab_size_of(config.data.tokenizer),
            'model.position.max_length': model.position.max_length or config.data.length,
            'model.attention.num_kv_heads': model.attention.num_kv_heads or model.attention.num_heads,
            'model.feedforward.width': model.feedforward.width or 4 * model.width,
            'optimizer.decay_steps': config.optimizer.decay_steps
            or max(1, min(steps // 5, steps - config.optimizer.warmup_steps)),
            'evaluation.batch_size': config.evaluation.batch_size
            or max(1, config.training.batch_size // config.training.accumulation),
        },
    )
    check_together(config)
    return FrozenConfigDict(config)


def check_values(config: ConfigDict) -> None:
    """Each value by itself."""
    flat = flatten(config)
    for key, choices in CHOICES.items():
        if flat[key] not in choices:
            raise unknown(key, flat[key], choices)
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f'config.{key} = {value}: must be a finite number')
    for keys, least in ((AT_LEAST_ONE, 1), (AT_LEAST_ZERO, 0)):
        for key in keys:
            if not flat[key] >= least:
                raise UserError(f'config.{key} = {flat[key]}: must be at least {least}')
    for key in FRACTIONS:
        if not 0 <= flat[key] < 1:
            raise UserError(f'config.{key} = {flat[key]}: must be in [0, 1)')
    for key in ('optimizer.learning_rate', 'optimizer.epsilon', 'model.norm.epsilon', 'model.init.std'):
        if not flat[key] > 0:
            raise UserError(f'config.{key} = {flat[key]}: must be a positive number')
    if not flat['seed'] < 2**32:
        raise UserError(f'config.seed = {flat["seed"]}: must be below 2**32, as JAX would use its lowest 32 bits alone')
    if not 0 <= flat['optimizer.final_fraction'] <= 1:
        raise UserError(f'config.optimizer.final_fraction = {flat["optimizer.final_fraction"]}: must be in [0, 1]')
    if not 0 < flat['sampling.top_p'] <= 1:
        raise UserError(f'config.sampling.top_p = {flat["sampling.top_p"]}: must be in (0, 1]')
    if flat['sharding.data'] != -1 and flat['sharding.data'] < 1:
        raise UserError(f'config.sharding.data = {flat["sharding.data"]}: must be -1 or at least 1')


def unknown(key: str, value: str, choices) -> UserError:
    """The error of a name that is not one of its choices."""
    close = difflib.get_close_matches(value, choices, 1)
    hint = f'did you mean {close[0]!r}? ' if close else ''
    return UserError(f'config.{key} = {value!r}: unknown; {hint}One of: {", ".join(sorted(choices))}')


def check_together(config: ConfigDict) -> None:
    """Values that must fit each other; `config` is filled in."""
    model, data, training = config.model, config.data, config.training
    heads, kv_heads = model.attention.num_heads, model.attention.num_kv_heads
    if model.width % heads:
        raise UserError(
            f'config.model.width = {model.width} is not a multiple of config.model.attention.num_heads = {heads}; '
            f'widths that work: {model.width // heads * heads}, {(model.width // heads + 1) * heads}'
        )
    if heads % kv_heads:
        raise UserError(f'config.model.attention.num_heads = {heads} is not a multiple of num_kv_heads = {kv_heads}')
    if model.position.kind == 'learned' and data.length > model.position.max_length:
        raise UserError(
            f'config.data.length = {data.length} is beyond the position table, '
            f'config.model.position.max_length = {model.position.max_length}'
        )
    if model.attention.kernel == 'fused' and model.attention.dropout:
        raise UserError(
            f'config.model.attention.dropout = {model.attention.dropout}: the fused kernel cannot drop attention '
            "weights; set it to 0, or config.model.attention.kernel to 'einsum' or 'auto'"
        )
    needed = vocab_size_of(data.tokenizer)
    if model.vocab_size < needed:
        raise UserError(
            f'config.model.vocab_size = {model.vocab_size}: the tokenizer {data.tokenizer} has {needed} ids'
        )
    if training.batch_size % training.accumulation:
        raise UserError(
            f'config.training.batch_size = {training.batch_size} is not a multiple of '
            f'config.training.accumulation = {training.accumulation}'
        )
    check_mesh(config)
    check_schedule(config)
    check_corpus(data)


def check_schedule(config: ConfigDict) -> None:
    """Warmup and decay must fit into the run."""
    optimizer, steps = config.optimizer, config.training.steps
    if optimizer.warmup_steps >= steps:
        raise UserError(
            f'config.optimizer.warmup_steps = {optimizer.warmup_steps} leaves nothing of '
            f'config.training.steps = {steps}'
        )
    left = steps - optimizer.warmup_steps
    if optimizer.schedule == 'wsd' and optimizer.decay_steps > left:
        raise UserError(
            f'config.optimizer.decay_steps = {optimizer.decay_steps} does not fit into the {left} steps that '
            f'config.optimizer.warmup_steps = {optimizer.warmup_steps} leaves of config.training.steps = {steps}'
        )


def check_corpus(data: ConfigDict) -> None:
    """The corpus must be known; whether its text is there is seen when it is prepared."""
    if data.corpus not in CORPORA and not data.corpus.startswith('tfds:'):
        raise unknown('data.corpus', data.corpus, [*CORPORA, 'tfds:NAME'])
    if data.corpus == 'text' and not data.path:
        raise UserError("config.data.path = '': corpus 'text' needs a file or a folder, --config.data.path=PATH")


def check_mesh(config: ConfigDict) -> None:
    """The part of each batch that a device gets must be a whole number of rows."""
    microbatch = config.training.batch_size // config.training.accumulation
    devices = max(config.sharding.data, 1) * config.sharding.fsdp
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
