"""The directions that optimizers step in, by name: optax's transformations of a gradient, before decay and rate.

A new one is one function and its name in OPTIMIZERS; clipping, weight decay, factors by path and the schedule are the
same for all (gpt2jax.optimizers.make_optimizer).
"""

import jax
import optax
from optax import contrib

from gpt2jax.optimizers.paths import ORTHOGONAL, path_name

MATCHED_RMS = 0.2  # of AdamW's updates, as Liu et al. measured


def adamw(optimizer) -> optax.GradientTransformation:
    """Adam; decoupled weight decay makes it AdamW (Loshchilov & Hutter 2019)."""
    return optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.epsilon)


def adafactor(optimizer) -> optax.GradientTransformation:
    """Second moments of a matrix as a row times a column (Shazeer & Stern 2018, algorithm 5).

    Every matrix is factored, and there is no first moment, so that the state is small. Second moments decay at
    1 - t^-0.8 (section 7.2) and an update's root mean square is at most 1 (section 6): b1, b2 and epsilon are not
    read. Rates are absolute, not relative to the size of the parameters (section 8), and the weight decay is
    multiplied by them: AdamW's learning rates and decays are of the right size.
    """
    return optax.chain(optax.scale_by_factored_rms(min_dim_size_to_factor=2), optax.clip_by_block_rms(1.0))


def lion(optimizer) -> optax.GradientTransformation:
    """The sign of an interpolated momentum (Chen et al. 2023, algorithm 2).

    Each entry moves by the full learning rate, so that this should be 3 to 10 times lower than AdamW's, and the weight
    decay as many times higher (section 5).
    """
    return optax.scale_by_lion(b1=optimizer.b1, b2=optimizer.b2)


def muon(optimizer) -> optax.GradientTransformation:
    """Momentum, made orthogonal, for the matrices of the blocks; Adam for all else (Jordan et al. 2024).

    Orthogonal updates are scaled to the root mean square of AdamW's, so that one learning rate and one weight decay
    serve both (Liu et al. 2025, section 2.2).
    """

    def numbers(params):
        """Which axes are in and out: of a Linear kernel [out, in]."""
        return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=0), params)

    def match_rms(update):
        return MATCHED_RMS * max(update.shape) ** 0.5 * update

    def label(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: 'muon' if ORTHOGONAL.search(path_name(path)) else 'adamw', params
        )

    orthogonal = optax.chain(
        contrib.scale_by_muon(beta=optimizer.momentum, weight_dimension_numbers=numbers),
        optax.stateless(lambda updates, _: jax.tree.map(match_rms, updates)),
    )
    return optax.partition({'muon': orthogonal, 'adamw': adamw(optimizer)}, label)


def schedule_free(optimizer) -> optax.GradientTransformation:
    """Adam without its first moment; the averaging that takes its place is wrapped around the whole optimizer."""
    return optax.scale_by_rms(decay=optimizer.b2, eps=optimizer.epsilon, eps_in_sqrt=False, bias_correction=True)


OPTIMIZERS = {'adamw': adamw, 'adafactor': adafactor, 'lion': lion, 'muon': muon, 'schedule_free': schedule_free}
