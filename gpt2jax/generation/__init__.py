"""Generation: cached sampling from causal models."""

from gpt2jax.generation.text import sample_texts

__all__ = ['sample_texts']
