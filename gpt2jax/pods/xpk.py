"""A workload of xpk (github.com/AI-Hypercomputer/xpk), which queues JobSets on a cluster of `xpk cluster create`.

xpk puts the command into a manifest as text, so the script of a host travels as base64: one word without a quote or a
line break. By itself xpk restarts after signals alone; here after 1 and 75 too, and it counts all of them.
"""

import base64
import shlex

from gpt2jax.errors import RUN_AGAIN, UserError
from gpt2jax.pods.host import host_script
from gpt2jax.pods.jobset import IMAGE
from gpt2jax.pods.request import GRACE_SECONDS, Rendered, Request
from gpt2jax.storage import is_bucket


def render(request: Request) -> Rendered:
    """The command. Raises UserError for what xpk cannot do."""
    if request.machine.kind != 'tpu':
        raise UserError('--engine=xpk: TPUs only here; for GPUs take --engine=jobset, skypilot or slurm')
    if not is_bucket(request.workdir):
        raise UserError(f'--workdir={request.workdir}: pods share no disk; give gs://BUCKET/PATH')
    if not request.cluster:
        raise UserError('--cluster is missing: the name that xpk cluster create was given')
    if request.secrets:
        raise UserError(
            '--secret_env: xpk would write the value into its manifest; take --engine=jobset, which refers '
            'to a Kubernetes Secret'
        )
    script = host_script(request)
    text = base64.b64encode(script.encode()).decode()
    where = [f'--{name}={value}' for name, value in where_flags(request).items() if value]
    command = [
        'xpk',
        'workload',
        'create',
        f'--workload={request.name}',
        *where,
        f'--tpu-type={tpu_type(request)}',
        f'--num-slices={request.slices}',
        f'--docker-image={request.image or IMAGE}',
        f'--max-restarts={request.retries}',
        f'--restart-on-exit-codes=1,{RUN_AGAIN}',
        f'--termination-grace-period-seconds={GRACE_SECONDS}',
        *(['--spot'] if request.spot else []),
        f'--command=exec bash -c "$(echo {text} | base64 -d)"',
        *request.extra,
    ]
    return Rendered(
        files={'host.sh': script, 'launch.sh': '#!/bin/bash\n' + shlex.join(command) + '\n'},
        command=command,
        install='pip install xpk (it needs gcloud and kubectl)',
        after={
            'watch': shlex.join(['xpk', 'workload', 'list', *where]),
            'stop': shlex.join(['xpk', 'workload', 'delete', f'--workload={request.name}', *where]),
        },
    )


def where_flags(request: Request) -> dict[str, str]:
    """Which cluster."""
    return {'cluster': request.cluster, 'project': request.project, 'zone': request.zone}


def tpu_type(request: Request) -> str:
    """xpk's name of a slice, by its shape: v5litepod-4x4."""
    return f'{request.machine.accelerator_type.rpartition("-")[0]}-{request.machine.topology}'
