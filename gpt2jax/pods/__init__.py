"""Launching a run on machines that others lend: what each outside tool is told, with the same workdir and one commit.

request -> machines, code, fitting (what is asked for, checked) -> host (what a host does) -> one file an engine
"""

from gpt2jax.pods.code import Code, find_code
from gpt2jax.pods.engines import ENGINES
from gpt2jax.pods.fitting import check_fits
from gpt2jax.pods.machines import find_machine
from gpt2jax.pods.request import Rendered, Request, check_flags

__all__ = ['ENGINES', 'Code', 'Rendered', 'Request', 'check_fits', 'check_flags', 'find_code', 'find_machine']
