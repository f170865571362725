"""The manifest: valid, with the right sizes, and restarting after the right exit statuses."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from pods.standins import commit_of, rendered, run

SCHEMA = json.loads((Path(__file__).parent / 'jobset_schema.json').read_text())
TPU = ('--engine=jobset', '--config=configs/gpt2_small.py', '--workdir=gs://bucket/run', '--topology=v5e:4x4')
GPU = ('--engine=jobset', '--config=configs/gpt2_small.py', '--workdir=gs://bucket/run', '--gpus=H100:8', '--nodes=2')
SLICES = ('--slices=2', '--config.training.accumulation=1')
ONE = ('--config.training.accumulation=2',)


def manifest(capsys, *flags):
    """The manifest as a tree, checked against the schema."""
    tree = yaml.safe_load(rendered(capsys, *flags)['jobset.yaml'])
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(tree, SCHEMA, cls=jsonschema.Draft202012Validator)
    return tree


def job_of(tree):
    """The spec of the Job of one slice."""
    return tree['spec']['replicatedJobs'][0]['template']['spec']


def expand(text, environment):
    """What Kubernetes makes of a command: $(NAME) of a known variable is replaced, $$ stands for a dollar."""
    return re.sub(r'\$(\$|\((.*?)\))', lambda m: '$' if m[1] == '$' else environment.get(m[2], m[0]), text)


@pytest.mark.parametrize(
    'flags',
    [
        (*TPU, *ONE),
        (*TPU, *SLICES),
        (*TPU, *ONE, '--spot', '--secret_env=HF_TOKEN,GIT_TOKEN', '--image=gcr.io/p/i:1'),
        (*GPU, *ONE),
        (*GPU, *ONE, '--spot', '--secret_env=HF_TOKEN'),
    ],
)
def test_every_manifest_is_valid(capsys, repository, flags):
    tree = manifest(capsys, *flags)
    assert tree['metadata']['annotations']['gpt2jax/commit'] == commit_of(repository)


def test_the_schema_refuses_what_the_api_does_not_have(capsys, repository):
    tree = manifest(capsys, *TPU, *ONE)
    job_of(tree)['template']['spec']['containers'][0]['resource'] = {}
    with pytest.raises(jsonschema.ValidationError, match='resource'):
        jsonschema.validate(tree, SCHEMA)


def test_a_slice_is_a_job_and_a_host_is_a_pod(capsys, repository):
    tree = manifest(capsys, *TPU, *SLICES)
    job = job_of(tree)
    assert tree['spec']['replicatedJobs'][0]['replicas'] == 2
    assert (job['parallelism'], job['completions'], job['completionMode']) == (4, 4, 'Indexed')
    pod = job['template']['spec']
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
        'cloud.google.com/gke-tpu-topology': '4x4',
    }
    assert pod['containers'][0]['resources'] == {'limits': {'google.com/tpu': 4}}
    assert pod['terminationGracePeriodSeconds'] == 300
    topology = tree['metadata']['annotations']['alpha.jobset.sigs.k8s.io/exclusive-topology']
    assert topology == 'cloud.google.com/gke-nodepool'
    assert '--coordinator' not in pod['containers'][0]['command'][2]


def test_gpu_nodes_are_told_their_coordinator_and_number(capsys, repository):
    tree = manifest(capsys, *GPU, *ONE, '--name=run')
    pod = job_of(tree)['template']['spec']
    assert pod['containers'][0]['resources'] == {'limits': {'nvidia.com/gpu': 8}}
    assert pod['nodeSelector'] == {'cloud.google.com/gke-accelerator': 'nvidia-h100-80gb'}
    assert tree['spec']['network']['enableDNSHostnames'] is True
    flags = '--coordinator=run-worker-0-0.run:8476 --num_processes=2 --process_id="$JOB_COMPLETION_INDEX"'
    assert flags in pod['containers'][0]['command'][2]


@pytest.mark.parametrize(
    ('status', 'action'),
    [(75, 'RestartJobSetAndIgnoreMaxRestarts'), (2, 'FailJobSet'), (1, 'RestartJobSet'), (137, 'RestartJobSet')],
)
def test_the_exit_status_decides_what_follows(capsys, repository, status, action):
    """The rules as the controllers of Jobs and JobSets go through them."""
    tree = manifest(capsys, *TPU, *ONE, '--retries=7')
    reason, message = 'BackoffLimitExceeded', 'Job has reached the specified backoff limit'
    for index, rule in enumerate(job_of(tree)['podFailurePolicy']['rules']):
        if rule['onExitCodes']['operator'] == 'In' and status in rule['onExitCodes']['values']:
            reason = 'PodFailurePolicy'
            failed = f'Container train for pod default/x failed with exit code {status}'
            message = f'{failed} matching FailJob rule at index {index}'
            break
    policy = tree['spec']['failurePolicy']
    fitting = (
        rule['action']
        for rule in policy['rules']
        if reason in rule['onJobFailureReasons']
        and any(re.search(pattern, message) for pattern in rule['onJobFailureMessagePatterns'])
    )
    assert next(fitting, 'RestartJobSet') == action
    assert (policy['maxRestarts'], job_of(tree)['backoffLimit']) == (7, 0)


def test_secrets_are_references(capsys, repository, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', 'the value')
    tree = manifest(capsys, *TPU, *ONE, '--secret_env=HF_TOKEN')
    (variable,) = job_of(tree)['template']['spec']['containers'][0]['env']
    assert variable == {'name': 'HF_TOKEN', 'valueFrom': {'secretKeyRef': {'name': 'gpt2jax', 'key': 'HF_TOKEN'}}}
    assert 'the value' not in str(tree)


def test_spot_machines_are_asked_for_and_tolerated(capsys, repository):
    pod = job_of(manifest(capsys, *TPU, *ONE, '--spot'))['template']['spec']
    assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
    assert pod['tolerations'][0]['key'] == 'cloud.google.com/gke-spot'


NASTY = [
    '$(touch x)',
    '$(HOME)',
    '$$(HOME)',
    '`touch x`',
    "a'b",
    '"; touch x; "',
    'a\nb: c',
    '- !!python/object',
    '#',
    '😀',
]


@pytest.mark.parametrize('text', NASTY)
def test_a_value_reaches_the_training_as_it_was_typed(capsys, repository, tools, tmp_path, text):
    """The pod's own command, after Kubernetes has replaced variables in it, fetches the commit and trains."""
    tree = manifest(capsys, *TPU, *ONE, f'--config.sampling.prompt={text}')
    command = job_of(tree)['template']['spec']['containers'][0]['command']
    home = tmp_path / 'home'
    home.mkdir()
    tools.add('python3', {'pattern': '^-m pip', 'output': ''}, {'pattern': '.', 'run': f'exec {python()} "$@"'})
    done = run(home, *(expand(word, {'HOME': 'replaced'}) for word in command), HOME=str(home))
    assert done.returncode == 0, done.stderr
    words = json.loads(done.stdout.partition('trained ')[2])
    assert words[:2] == ['train', '--config=configs/gpt2_small.py']
    assert f'--config.sampling.prompt={text}' in words
    assert '--workdir=gs://bucket/run' in words
    assert not list(home.rglob('x'))


def python():
    """The interpreter, past the stand-in."""
    import sys

    return sys.executable
