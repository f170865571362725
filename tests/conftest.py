"""All tests run on the CPU; what a run compiles is kept for the next run of the tests."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # before the first import of jax, and for subprocesses too

import jax
import pytest

import tests.helpers


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled programs under pytest's own cache."""
    jax.config.update('jax_compilation_cache_dir', str(config.cache.mkdir('compiled')))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


@pytest.fixture
def tiny():
    """`tests.helpers.tiny_config`: a resolved config of a small GPT-2, with changes."""
    return tests.helpers.tiny_config
