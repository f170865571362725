"""GPT-BERT's objective.

Axes: B rows, L length.
"""

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from gpt2jax.objectives.causal import Causal
from gpt2jax.objectives.example import Example, Objective, position_in_segment
from gpt2jax.objectives.hiding import corrupt, hide, most_hidden, ordinary, row_keys


class Hybrid(Objective):
    """Each row is causal or masked, drawn with `causal_share` (Charpentier & Samuel 2024, section 3).

    Both predict the next token: in a masked row every token sees its whole document, hidden tokens are corrupted as in
    `Masked`, and each is predicted at the position before it (masked next-token prediction). A document's first token
    has no position before it and is never hidden.
    """

    mask_offset = 1

    def evaluations(self):
        masked = FrozenConfigDict(self.config.to_dict() | {'causal_share': 0.0})
        causal = ('likelihood', Causal(self.config, self.vocabulary)), self.config.causal_share > 0
        hidden = ('masked', Hybrid(masked, self.vocabulary)), self.config.causal_share < 1
        return [evaluation for evaluation, trained in (causal, hidden) if trained]

    def num_predictions(self, length: int) -> int:
        return length if self.config.causal_share else min(length, most_hidden(self.config, length + 1))

    def __call__(self, batch, key, progress) -> Example:
        tokens_BL, segment_BL = batch['tokens'], batch['segment'][:, :-1]

        def of_row(key, tokens_L, segment_L, begins_L):
            kind_key, hide_key, corrupt_key = jax.random.split(key, 3)
            causal = jax.random.uniform(kind_key) < self.config.causal_share
            inside_L = jnp.pad(segment_L[1:] == segment_L[:-1], (1, 0))
            may_hide_L = inside_L & ordinary(tokens_L, segment_L, self.vocabulary)
            hidden_L = hide(self.config, hide_key, may_hide_L, begins_L, segment_L, progress)
            corrupted_L = corrupt(self.config, self.vocabulary, corrupt_key, tokens_L, hidden_L)
            return causal, jnp.where(causal, tokens_L, corrupted_L), jnp.where(causal, segment_L > 0, hidden_L)

        keys_B = row_keys(key, batch['row'])
        causal_B, inputs_BL, predicted_BL = jax.vmap(of_row)(keys_B, tokens_BL, batch['segment'], batch['begins'])
        index_L = jnp.arange(segment_BL.shape[1], dtype=jnp.int32)
        return Example(
            inputs=inputs_BL[:, :-1],
            targets=tokens_BL[:, 1:],
            weights=predicted_BL[:, 1:].astype(jnp.float32),
            order=jnp.where(causal_B[:, None], index_L, 0),
            segment=segment_BL,
            position=position_in_segment(segment_BL),
            row=batch['row'],
            visibility='permuted',
        )
