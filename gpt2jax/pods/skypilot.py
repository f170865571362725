"""A managed job of SkyPilot (docs.skypilot.co), which finds machines on many clouds and replaces those it loses.

`recover_on_exit_codes` holds 75: recovered without counting. SkyPilot cannot tell a mistake of the user (2) from
another failure, so it tries that again, as often as `max_restarts_on_errors` says.
"""

import shlex

from gpt2jax.errors import RUN_AGAIN, UserError
from gpt2jax.pods.host import host_script, process_flags
from gpt2jax.pods.rendering import to_yaml
from gpt2jax.pods.request import Rendered, Request
from gpt2jax.storage import is_bucket

FIRST_NODE = '"$(head -n 1 <<< "$SKYPILOT_NODE_IPS")"'


def render(request: Request) -> Rendered:
    """The task. Raises UserError for what SkyPilot cannot do."""
    if not is_bucket(request.workdir):
        raise UserError(f'--workdir={request.workdir}: the nodes share no disk; give gs://BUCKET/PATH')
    if request.machine.kind == 'tpu' and request.slices > 1:
        raise UserError('--slices: SkyPilot starts one slice; take --engine=jobset, xpk or gcloud')
    if request.machine.kind == 'tpu' and not request.machine.runtime:
        raise UserError(f'--topology={request.machine.name}: lent by GKE alone; take --engine=jobset or xpk')
    if request.machine.kind == 'gpu' and not request.machine.gpu:
        raise UserError(f'--gpus={request.machine.name}: SkyPilot needs the kind too, as H100:8')
    secrets = [word for name in request.secrets for word in ('--secret', name)]
    return Rendered(
        files={'task.yaml': to_yaml(task(request))},
        command=['sky', 'jobs', 'launch', '--yes', '--detach-run', *secrets, *request.extra, 'task.yaml'],
        install="pip install 'skypilot[gcp]' (or aws, kubernetes, ...), then: sky check",
        after={
            'watch': 'sky jobs queue',
            'log': shlex.join(['sky', 'jobs', 'logs', '--name', request.name]),
            'stop': shlex.join(['sky', 'jobs', 'cancel', '--yes', '--name', request.name]),
        },
        from_environment=request.secrets,
    )


def task(request: Request) -> dict:
    """The task as a tree. Values of secrets stay null: the command takes them from the environment."""
    flags = process_flags(FIRST_NODE, '"$SKYPILOT_NODE_RANK"', request)
    return {
        'name': request.name,
        'num_nodes': 1 if request.machine.kind == 'tpu' else request.machine.hosts,
        'resources': resources(request),
        **({'secrets': dict.fromkeys(request.secrets)} if request.secrets else {}),
        'run': host_script(request, flags),
    }


def resources(request: Request) -> dict:
    """What to rent, where, and when to try again."""
    machine = request.machine
    if machine.kind == 'tpu':
        rented = {
            'accelerators': f'tpu-{machine.accelerator_type}',
            'accelerator_args': {'runtime_version': machine.runtime},
        }
    else:
        rented = {'accelerators': f'{machine.gpu}:{machine.chips_per_host}'}
        if request.image:
            rented['image_id'] = f'docker:{request.image}'
    return {
        **({'infra': infra(request)} if infra(request) else {}),
        **rented,
        'use_spot': request.spot,
        'job_recovery': {'max_restarts_on_errors': request.retries, 'recover_on_exit_codes': [RUN_AGAIN]},
    }


def infra(request: Request) -> str:
    """--cluster as SkyPilot has it (aws/us-east-1, k8s/CONTEXT), or a zone of Google's; '': wherever it is cheapest."""
    if request.cluster or not request.zone:
        return request.cluster or ('gcp' if request.machine.kind == 'tpu' else '')
    return f'gcp/{request.zone.rpartition("-")[0]}/{request.zone}'
