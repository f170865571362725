"""gpt2jax: a JAX/Flax laboratory for language models around GPT-2."""

__version__ = '0.1.0'
