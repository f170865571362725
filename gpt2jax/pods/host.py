"""What one host does: fetch the code at its commit, install what it needs, train. Written as a shell script.

Every word that comes from the user passes through shlex.quote; what a host only learns there (its number, its
coordinator, its secrets) is a reference to the environment.
"""

import shlex

from gpt2jax.pods.request import Request

COORDINATOR_PORT = 8476
START = '--config.runtime.start_seconds=600'  # hosts take their time to install, and not all the same
HAS_PYTHON = "python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'"


def host_script(request: Request, flags: str = '') -> str:
    """The script of one host; it becomes the training process, so signals and the exit status are those of launch.py.

    Args:
      flags: shell text behind the training command, for what only the host knows; already quoted.
    """
    needs = f'requirements-{request.machine.kind}.txt'
    return '\n'.join(
        (
            '#!/bin/bash',
            f'# One host of {request.name}. Exit status 75: asked to stop, and saved; run it again.',
            'set -uo pipefail',
            "trap 'exit 1' ERR  # pip ends with 2 when the network fails, and 2 is never retried",
            f'mkdir -p "$HOME/gpt2jax/{request.name}/code"',
            f'cd "$HOME/gpt2jax/{request.name}/code"',
            *fetch(request),
            f'if {HAS_PYTHON}; then',
            '  python=python3',
            'else',
            '  python3 -m pip install -q --target ../uv uv',
            '  ../uv/bin/uv venv -q --seed --allow-existing --python 3.12 ../venv',
            '  python=../venv/bin/python',
            'fi',
            f'"$python" -m pip install -q -r {needs}',
            f'exec "$python" {training(request, flags)}',
            '',
        )
    )


def fetch(request: Request) -> list[str]:
    """Lines that check the commit out in the current folder; run twice, they change nothing."""
    repository, helper = shlex.quote(request.code.repository), ''
    if 'GIT_TOKEN' in request.secrets:
        answer = '!f() { echo username=x-access-token; echo "password=$GIT_TOKEN"; }; f'
        helper = f'-c credential.helper={shlex.quote(answer)} '
    return [
        'git init -q .',
        f'GIT_TERMINAL_PROMPT=0 git {helper}fetch -q --depth=1 {repository} {request.code.commit}',
        'git checkout -q --force --detach FETCH_HEAD',
    ]


def training(request: Request, flags: str = '', workdir: str = '') -> str:
    """The training command behind `python`, as shell text. `workdir`: shell text in place of the request's."""
    words = shlex.join(['launch.py', 'train', f'--config={request.recipe}', START, *request.overrides])
    where = workdir or shlex.quote(request.workdir)
    return ' '.join(filter(None, (words, f'--workdir={where}', flags)))


def process_flags(coordinator: str, number: str, request: Request) -> str:
    """The flags by which processes of GPU nodes find each other; TPU hosts learn it from libtpu's environment."""
    if request.machine.kind == 'tpu' or request.num_hosts == 1:
        return ''
    return f'--coordinator={coordinator}:{COORDINATOR_PORT} --num_processes={request.num_hosts} --process_id={number}'
