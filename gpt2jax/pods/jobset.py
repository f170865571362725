"""A JobSet on GKE or another Kubernetes: one Job a TPU slice, one pod a host (jobset.sigs.k8s.io, from v0.10.0).

A pod that ends with 75 (asked to stop, and saved) fails its Job by rule 0 of podFailurePolicy, and the JobSet starts
anew without counting it; 2 (a mistake of the user) fails by rule 1 and ends the JobSet; anything else, a lost node
included, counts towards maxRestarts. JobSet tells the rules apart by the message that Kubernetes writes for each.
"""

import re

from gpt2jax.errors import RUN_AGAIN, UserError
from gpt2jax.pods.host import host_script, process_flags
from gpt2jax.pods.machines import GKE_GPUS
from gpt2jax.pods.rendering import to_yaml
from gpt2jax.pods.request import GRACE_SECONDS, USER_ERROR, Rendered, Request
from gpt2jax.storage import is_bucket

IMAGE = 'python:3.12'
SECRET = 'gpt2jax'  # the Kubernetes Secret that holds what --secret_env names
EXCLUSIVE = 'alpha.jobset.sigs.k8s.io/exclusive-topology'
NODE_LABEL = 'cloud.google.com/gke-'


def render(request: Request) -> Rendered:
    """The manifest. Raises UserError for a workdir that pods do not share."""
    if not is_bucket(request.workdir):
        raise UserError(f'--workdir={request.workdir}: pods share no disk; give gs://BUCKET/PATH')
    if request.machine.gpu and not request.machine.gke:
        raise UserError(
            f'--gpus={request.machine.name}: GKE lends {", ".join(GKE_GPUS)}; give the number alone for any'
        )
    context = ['--context', request.cluster] if request.cluster else []
    label = f'jobset.sigs.k8s.io/jobset-name={request.name}'
    return Rendered(
        files={'jobset.yaml': to_yaml(manifest(request))},
        command=['kubectl', *context, 'create', '--filename', 'jobset.yaml', *request.extra],
        install='https://kubernetes.io/docs/tasks/tools/, then point it at your cluster: gcloud container clusters '
        'get-credentials CLUSTER',
        after={
            'watch': ' '.join(['kubectl', *context, 'get', f'jobset/{request.name}', 'pods', '--selector', label]),
            'log': ' '.join(['kubectl', *context, 'logs', '--follow', '--prefix', '--selector', label]),
            'stop': ' '.join(['kubectl', *context, 'delete', 'jobset', request.name]),
        },
    )


def manifest(request: Request) -> dict:
    """The JobSet as a tree."""
    metadata = {'name': request.name, 'annotations': {'gpt2jax/commit': request.code.commit}}
    if request.machine.kind == 'tpu':
        metadata['annotations'][EXCLUSIVE] = f'{NODE_LABEL}nodepool'
    job = {
        'parallelism': request.machine.hosts,
        'completions': request.machine.hosts,
        'completionMode': 'Indexed',
        'backoffLimit': 0,
        'podFailurePolicy': {'rules': [fail_on(RUN_AGAIN), fail_on(USER_ERROR)]},
        'template': {'spec': pod(request)},
    }
    return {
        'apiVersion': 'jobset.x-k8s.io/v1alpha2',
        'kind': 'JobSet',
        'metadata': metadata,
        'spec': {
            'failurePolicy': {
                'maxRestarts': request.retries,
                'rules': [
                    after_rule(0, 'runAgain', 'RestartJobSetAndIgnoreMaxRestarts'),
                    after_rule(1, 'mistake', 'FailJobSet'),
                ],
            },
            'network': {'enableDNSHostnames': True, 'publishNotReadyAddresses': True},
            'replicatedJobs': [{'name': 'worker', 'replicas': request.slices, 'template': {'spec': job}}],
        },
    }


def fail_on(status: int) -> dict:
    """A rule of podFailurePolicy: this exit status fails the Job at once."""
    return {'action': 'FailJob', 'onExitCodes': {'containerName': 'train', 'operator': 'In', 'values': [status]}}


def after_rule(index: int, name: str, action: str) -> dict:
    """A rule of failurePolicy: what follows when podFailurePolicy's rule `index` has failed a Job."""
    return {
        'name': name,
        'action': action,
        'onJobFailureReasons': ['PodFailurePolicy'],
        'onJobFailureMessagePatterns': [f'matching FailJob rule at index {index}$'],
    }


def pod(request: Request) -> dict:
    """The pod of one host. Slices that train together use the host's network, which is faster between them."""
    spec = {
        'restartPolicy': 'Never',
        'terminationGracePeriodSeconds': GRACE_SECONDS,
        'nodeSelector': node_selector(request),
        'containers': [container(request)],
    }
    if request.spot:
        spec['tolerations'] = [
            {'key': f'{NODE_LABEL}spot', 'operator': 'Equal', 'value': 'true', 'effect': 'NoSchedule'}
        ]
    if request.slices > 1:
        spec |= {'hostNetwork': True, 'dnsPolicy': 'ClusterFirstWithHostNet'}
    if not spec['nodeSelector']:
        del spec['nodeSelector']
    return spec


def node_selector(request: Request) -> dict[str, str]:
    """Which nodes will do. Without a kind of GPU, or with one that GKE does not lend: any that has them."""
    machine, selector = request.machine, {}
    if machine.kind == 'tpu':
        selector = {f'{NODE_LABEL}tpu-accelerator': machine.gke, f'{NODE_LABEL}tpu-topology': machine.topology}
    elif machine.gke:
        selector = {f'{NODE_LABEL}accelerator': machine.gke}
    return selector | ({f'{NODE_LABEL}spot': 'true'} if request.spot else {})


def container(request: Request) -> dict:
    """The container that trains. TPU hosts find each other by what GKE puts into their environment."""
    tpu = request.machine.kind == 'tpu'
    flags = process_flags(f'{request.name}-worker-0-0.{request.name}', '"$JOB_COMPLETION_INDEX"', request)
    environment = [
        {'name': name, 'valueFrom': {'secretKeyRef': {'name': SECRET, 'key': name}}} for name in request.secrets
    ]
    if not tpu:  # where GKE mounts the driver
        environment.append({'name': 'LD_LIBRARY_PATH', 'value': '/usr/local/nvidia/lib64'})
    return {
        'name': 'train',
        'image': request.image or IMAGE,
        'command': ['bash', '-c', escape(host_script(request, flags))],
        'ports': [{'containerPort': port} for port in ((8471, 8080, 8482) if tpu else (8476,))],
        **({'env': environment} if environment else {}),
        'resources': {'limits': {'google.com/tpu' if tpu else 'nvidia.com/gpu': request.machine.chips_per_host}},
    }


def escape(text: str) -> str:
    """Keeps Kubernetes from replacing $(NAME) in a command: a dollar before a dollar or a bracket is doubled."""
    return re.sub(r'\$(?=[$(])', '$$', text)
