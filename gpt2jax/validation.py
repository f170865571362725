"""Fills in what a config leaves open and refuses what cannot work, before any data or device is touched."""

import math

from ml_collections import ConfigDict, FrozenConfigDict

from gpt2jax.config import flatten, overlay
from gpt2jax.consistency import check_together
from gpt2jax.data import vocab_size_of
from gpt2jax.errors import UserError, unknown
from gpt2jax.models import ARCHITECTURES
from gpt2jax.models.feedforward import ACTIVATIONS, GATED
from gpt2jax.models.kernels import KERNELS
from gpt2jax.models.norms import NORMS
from gpt2jax.models.positions import POSITIONS
from gpt2jax.objectives import OBJECTIVES
from gpt2jax.optimizers import OPTIMIZERS, SCHEDULES
from gpt2jax.sharding import AXES

CHOICES = {
    'data.order': ('shuffled', 'contiguous'),
    'objective.kind': OBJECTIVES,
    'model.architecture': ARCHITECTURES,
    'model.remat': ('none', 'full', 'dots', 'offload'),
    'model.dtype': ('float32', 'bfloat16'),
    'model.position.kind': POSITIONS,
    'model.position.scaling': ('none', 'linear', 'ntk'),
    'model.attention.kernel': KERNELS,
    'model.feedforward.kind': ACTIVATIONS,
    'model.norm.kind': NORMS,
    'model.norm.placement': ('pre', 'post', 'sandwich'),
    'model.init.residual': ('scaled', 'plain', 'zero'),
    'model.parametrization.kind': ('standard', 'mup'),
    'optimizer.kind': OPTIMIZERS,
    'optimizer.schedule': SCHEDULES,
}

AT_LEAST_ONE = (
    'data.length',
    'data.prefetch',
    'objective.mean_span',
    'objective.max_span',
    'model.num_layers',
    'model.width',
    'model.vocab_multiple',
    'model.attention.num_heads',
    'model.head.divisor',
    'model.position.base',
    'model.position.max_distance',
    'model.parametrization.base_width',
    'model.parametrization.base_head_width',
    'training.steps',
    'training.batch_size',
    'training.accumulation',
    'training.log_every',
    'checkpoint.keep',
    'sampling.num_samples',
    'sampling.max_new_tokens',
    'runtime.start_seconds',
    'runtime.patience_seconds',
)

AT_LEAST_ZERO = (
    'seed',
    'model.vocab_size',
    'model.encoder_layers',
    'model.memory_length',
    'model.position.max_length',
    'model.position.trained_length',
    'model.position.buckets',
    'model.position.clamp_length',
    'model.embedding.width',
    'model.embedding.token_types',
    'model.attention.num_kv_heads',
    'model.attention.softcap',
    'model.attention.window',
    'model.attention.global_every',
    'model.head.softcap',
    'model.feedforward.width',
    'model.recurrent.width',
    'loss.chunk_tokens',
    'loss.z_loss',
    'optimizer.weight_decay',
    'optimizer.clip_norm',
    'optimizer.warmup_steps',
    'optimizer.decay_steps',
    'evaluation.every',
    'evaluation.batch_size',
    'evaluation.num_rows',
    'evaluation.stride',
    'evaluation.context',
    'evaluation.pseudo_rows',
    'checkpoint.every_steps',
    'checkpoint.every_minutes',
    'sampling.temperature',
    'sampling.top_k',
    'sampling.beams',
    'sampling.length_penalty',
    'sharding.cpu_devices',
)

SHARES = (  # in [0, 1]
    'objective.start_rate',
    'evaluation.rate',
    'objective.mask_share',
    'objective.random_share',
    'objective.causal_share',
    'optimizer.final_fraction',
)

FRACTIONS = (  # in [0, 1)
    'loss.label_smoothing',
    'objective.prefix',
    'model.dropout',
    'model.attention.dropout',
    'model.recurrent.weight_drop',
    'model.recurrent.input_drop',
    'model.recurrent.hidden_drop',
    'model.recurrent.word_drop',
    'optimizer.b1',
    'optimizer.b2',
    'optimizer.momentum',
    'optimizer.average',
)


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
            'model.position.trained_length': model.position.trained_length or config.data.length,
            'model.encoder_layers': model.encoder_layers or model.num_layers,
            'model.embedding.width': model.embedding.width or model.width,
            'model.attention.num_kv_heads': model.attention.num_kv_heads or model.attention.num_heads,
            'model.recurrent.width': model.recurrent.width or model.width,
            'model.feedforward.width': model.feedforward.width or default_feedforward(model),
            'optimizer.decay_steps': config.optimizer.decay_steps
            or max(1, min(steps // 5, steps - config.optimizer.warmup_steps)),
            'evaluation.rate': config.evaluation.rate or config.objective.rate,
            'evaluation.stride': config.evaluation.stride or config.data.length,
            'evaluation.context': config.evaluation.context
            or (config.evaluation.stride or config.data.length) + model.memory_length,
            'evaluation.batch_size': config.evaluation.batch_size
            or max(1, config.training.batch_size // config.training.accumulation),
        },
    )
    check_together(config)
    return FrozenConfigDict(config)


def default_feedforward(model: ConfigDict) -> int:
    """Four times the width; with a gate two thirds of that, rounded up to a multiple of 8 (Shazeer 2020, section 3)."""
    return -(-8 * model.width // 24) * 8 if model.feedforward.kind in GATED else 4 * model.width


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
    for key in SHARES:
        if not 0 <= flat[key] <= 1:
            raise UserError(f'config.{key} = {flat[key]}: must be in [0, 1]')
    for key in ('objective.rate', 'sampling.top_p'):
        if not 0 < flat[key] <= 1:
            raise UserError(f'config.{key} = {flat[key]}: must be in (0, 1]')
    for axis in AXES:
        if flat[f'sharding.{axis}'] != -1 and flat[f'sharding.{axis}'] < 1:
            raise UserError(f'config.sharding.{axis} = {flat[f"sharding.{axis}"]}: must be -1 or at least 1')
