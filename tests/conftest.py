"""All tests run on the CPU; what they compile is kept for the next run of the tests."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Tells JAX before anything imports it; processes that tests start are told as well."""
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(config.cache.mkdir('compiled')))
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
    # Tests compile far more than they compute: 0.6 of the time with these.
    quick = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
    if quick not in os.environ.get('XLA_FLAGS', ''):
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {quick}'.strip()
