"""GPT-2's objective.

Axes: B rows, L length.
"""

import jax.numpy as jnp

from gpt2jax.objectives.example import Example, Objective, position_in_segment


class Causal(Objective):
    """Every token predicts the next one from itself and what came before (Radford et al. 2019, section 2).

    The order is the index in the row; documents are kept apart by their segments. Nothing is drawn.
    """

    reads = 'causal'

    def evaluations(self):
        return [('likelihood', self)]

    def __call__(self, batch, key, progress) -> Example:
        inputs_BL, targets_BL = batch['tokens'][:, :-1], batch['tokens'][:, 1:]
        segment_BL = batch['segment'][:, :-1]
        index_L = jnp.arange(inputs_BL.shape[1], dtype=jnp.int32)
        return Example(
            inputs=inputs_BL,
            targets=targets_BL,
            weights=(batch['segment'][:, 1:] > 0).astype(jnp.float32),
            order=jnp.broadcast_to(index_L, inputs_BL.shape),
            segment=segment_BL,
            position=position_in_segment(segment_BL),
            row=batch['row'],
            visibility='causal',
        )
