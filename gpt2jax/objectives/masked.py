"""BERT's objective.

Axes: B rows, L length.
"""

import jax
import jax.numpy as jnp

from gpt2jax.objectives.example import Example, Objective, position_in_segment
from gpt2jax.objectives.hiding import corrupt, hide, most_hidden, ordinary, row_keys


class Masked(Objective):
    """Hidden tokens are predicted from all of their document (Devlin et al. 2019, section 3.1).

    Exactly round(rate * ordinary tokens) of a row are hidden, so that the vocabulary product can be made for these
    alone; words or spans of them together when the config says so.
    """

    mask_offset = 0

    def evaluations(self):
        return [('masked', self)]

    def num_predictions(self, length: int) -> int:
        return most_hidden(self.config, length)

    def __call__(self, batch, key, progress) -> Example:
        tokens_BL, segment_BL, begins_BL = (batch[name][:, :-1] for name in ('tokens', 'segment', 'begins'))

        def of_row(key, tokens_L, segment_L, begins_L):
            hide_key, corrupt_key = jax.random.split(key)
            may_hide_L = ordinary(tokens_L, segment_L, self.vocabulary)
            hidden_L = hide(self.config, hide_key, may_hide_L, begins_L, segment_L, progress)
            return hidden_L, corrupt(self.config, self.vocabulary, corrupt_key, tokens_L, hidden_L)

        keys_B = row_keys(key, batch['row'])
        hidden_BL, inputs_BL = jax.vmap(of_row)(keys_B, tokens_BL, segment_BL, begins_BL)
        return Example(
            inputs=inputs_BL,
            targets=tokens_BL,
            weights=hidden_BL.astype(jnp.float32),
            order=jnp.zeros_like(tokens_BL),
            segment=segment_BL,
            position=position_in_segment(segment_BL),
            row=batch['row'],
            visibility='full',
        )
