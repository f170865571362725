"""A batch script for Slurm: one task a GPU, as JAX's own detection of Slurm expects it (jax._src.clusters).

Before the time limit, and when it is preempted, each task gets SIGTERM, saves and ends with 75; the script then asks
Slurm to queue it again. The code comes from the repository it was submitted from, which the nodes see as well.
"""

import shlex
from pathlib import PurePosixPath

from gpt2jax.errors import RUN_AGAIN, UserError
from gpt2jax.pods.host import fetch, training
from gpt2jax.pods.request import GRACE_SECONDS, USER_ERROR, Rendered, Request

# What a job takes from where it was submitted: enough to find the active environment, and no secret that was not named.
ENVIRONMENT = ('HOME', 'USER', 'PATH', 'LD_LIBRARY_PATH', 'VIRTUAL_ENV', 'CONDA_PREFIX')


def render(request: Request) -> Rendered:
    """The batch script. Raises UserError for what Slurm cannot do."""
    if request.machine.kind != 'gpu':
        raise UserError('--engine=slurm: needs --gpus and --nodes; TPUs are lent by the other engines')
    if not PurePosixPath(request.workdir).is_absolute() and '://' not in request.workdir:
        raise UserError(f'--workdir={request.workdir}: an absolute path that all nodes share, or gs://BUCKET/PATH')
    if request.spot:
        raise UserError('--spot: Slurm has partitions for that: --extra=--partition=NAME')
    array = [f'--array={request.seeds}'] if request.seeds else []
    return Rendered(
        files={'job.sh': script(request)},
        command=['sbatch', *array, *request.extra, 'job.sh'],
        install='it is there on the login node of a cluster; run this command on that node',
        after={'watch': 'squeue --me --name ' + request.name, 'stop': 'scancel --me --name ' + request.name},
        from_environment=request.secrets,
    )


def script(request: Request) -> str:
    """Fetch the code once, train with one task a GPU, and decide by the exit status what comes next."""
    machine = request.machine
    gpus = f'{machine.gpu.lower()}:{machine.chips_per_host}' if machine.gpu else machine.chips_per_host
    options = {
        'job-name': request.name,
        'nodes': machine.hosts,
        'ntasks-per-node': machine.chips_per_host,
        'gpus-per-node': gpus,
        'requeue': None,
        'open-mode': 'append',
        'output': '%x-%A_%a.log' if request.seeds else '%x-%j.log',
        'signal': f'TERM@{GRACE_SECONDS}',
        'export': ','.join((*ENVIRONMENT, *request.secrets)),
    }
    lines = (f'#SBATCH --{name}' + ('' if value is None else f'={value}') for name, value in options.items())
    train = training(request)
    if request.seeds:
        seed = '"$SLURM_ARRAY_TASK_ID"'
        train = training(request, f'--config.seed={seed}', f'{shlex.quote(request.workdir + "/seed")}{seed}')
    return '\n'.join(
        (
            '#!/bin/bash',
            *lines,
            '',
            f'# {RUN_AGAIN}: asked to stop, and saved; {USER_ERROR}: a mistake, which is final; else a failure.',
            'set -uo pipefail',
            'failures="$PWD/failures-$SLURM_JOB_ID"',
            '',
            'train() {',
            '  mkdir -p "code-$SLURM_JOB_ID" && cd "code-$SLURM_JOB_ID" || return 1',
            *(f'  {line} || return 1' for line in fetch(request)),
            f'  srun --export=ALL --kill-on-bad-exit=0 --wait={GRACE_SECONDS} python3 {train}',
            '}',
            '',
            'train',
            'status=$?',
            f'if [ "$status" -eq 0 ] || [ "$status" -eq {USER_ERROR} ]; then exit "$status"; fi',
            f'if [ "$status" -ne {RUN_AGAIN} ]; then',
            '  echo "$status" >> "$failures"',
            f'  if [ "$(wc -l < "$failures")" -gt {request.retries} ]; then exit "$status"; fi',
            'fi',
            'echo "exit status $status: queued again"',
            'scontrol requeue "$SLURM_JOB_ID"',
            '',
        )
    )
