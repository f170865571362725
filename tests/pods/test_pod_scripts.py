"""Every script and command, run against stand-ins: what the tools are told, and that 75 is tried again."""

import base64
import json
import re
import shlex
import shutil
import sys

import pytest
import yaml
from pods.standins import commit_of, pod, rendered, run

CONFIG = ('--config=configs/gpt2_small.py', '--config.training.accumulation=2')
SLURM = ('--engine=slurm', *CONFIG, '--gpus=H100:8', '--nodes=2', '--workdir=/shared/run')
GCLOUD = ('--engine=gcloud', *CONFIG, '--topology=v5e:4x4', '--zone=us-west4-a', '--workdir=gs://bucket/run')
SKY = ('--engine=skypilot', *CONFIG, '--workdir=gs://bucket/run')
XPK = ('--engine=xpk', *CONFIG, '--topology=v5e:4x4', '--cluster=c', '--workdir=gs://bucket/run')


def test_slurm_asks_for_a_task_a_gpu(capsys, repository):
    script = rendered(capsys, *SLURM, '--secret_env=HF_TOKEN')['job.sh']
    options = dict(re.findall(r'^#SBATCH --([\w-]+)=?(.*)$', script, re.M))
    assert (options['nodes'], options['ntasks-per-node'], options['gpus-per-node']) == ('2', '8', 'h100:8')
    assert (options['signal'], options['requeue'], options['open-mode']) == ('TERM@300', '', 'append')
    assert options['export'].split(',')[-1] == 'HF_TOKEN'
    assert 'ALL' not in options['export']


@pytest.mark.parametrize(
    ('statuses', 'requeued', 'last'),
    [([75, 0], 1, 0), ([75, 75, 75, 0], 3, 0), ([2], 0, 2), ([137, 75, 0], 2, 0), ([1, 1, 1], 2, 1)],
)
def test_slurm_queues_again_after_75_and_a_few_failures(capsys, repository, tools, statuses, requeued, last):
    assert pod(capsys, *SLURM, '--retries=2', '--dry_run')[0] == 0
    tools.add('sbatch')
    tools.add('srun', *({'pattern': '.', 'status': status, 'times': 1} for status in statuses))
    tools.add('scontrol')
    assert pod(capsys, *SLURM, '--retries=2', '--extra=--partition=gpu')[0] == 0
    (call,) = tools.calls('sbatch')
    assert call['words'] == ['--partition=gpu', 'job.sh']
    ended = []
    for _ in statuses:  # as Slurm does: the same job number after each requeue
        ended.append(run(call['cwd'], 'bash', 'job.sh', SLURM_JOB_ID='7').returncode)
        if len(tools.calls('scontrol')) < len(ended):
            break
    assert len(ended) == len(statuses)
    assert ended[-1] == last
    assert [call['words'] for call in tools.calls('scontrol')] == [['requeue', '7']] * requeued
    words = tools.calls('srun')[0]['words']
    assert words[words.index('python3') :] == [
        'python3',
        'launch.py',
        'train',
        '--config=configs/gpt2_small.py',
        '--config.runtime.start_seconds=600',
        '--config.training.accumulation=2',
        '--workdir=/shared/run',
    ]
    code = tools.calls('srun')[0]['cwd']
    assert run(code, 'git', 'rev-parse', 'HEAD').stdout.strip() == commit_of(repository)


def test_a_slurm_array_is_a_run_a_seed(capsys, repository, tools):
    tools.add('sbatch')
    tools.add('srun')
    assert pod(capsys, *SLURM, '--seeds=0-4')[0] == 0
    (call,) = tools.calls('sbatch')
    assert call['words'] == ['--array=0-4', 'job.sh']
    run(call['cwd'], 'bash', 'job.sh', SLURM_JOB_ID='9', SLURM_ARRAY_TASK_ID='3')
    (step,) = tools.calls('srun')
    assert step['words'][-2:] == ['--workdir=/shared/run/seed3', '--config.seed=3']


def test_a_slurm_job_that_cannot_fetch_its_code_is_tried_again(capsys, repository, tools):
    tools.add('sbatch')
    tools.add('srun')
    tools.add('scontrol')
    assert pod(capsys, *SLURM, '--retries=1', '--repository=/no/such/repository')[0] == 0
    folder = tools.calls('sbatch')[0]['cwd']
    assert [run(folder, 'bash', 'job.sh', SLURM_JOB_ID='7').returncode for _ in range(2)] == [0, 1]
    assert (len(tools.calls('scontrol')), tools.calls('srun')) == (1, [])


class Cloud:
    """gcloud as a stand-in: a TPU with a state, and hosts on which the command of ssh really runs."""

    def __init__(self, tools, tmp_path, statuses, hosts=4, states=()):
        self.tools, self.state, self.home = tools, tmp_path / 'state', tmp_path / 'homes'
        for state in states:
            self.state.write_text(state)
        attempts = '$(ls -d "$HOME"/gpt2jax/gpt2-small/attempt-* | wc -l)'
        trained = f'set -- {" ".join(map(str, statuses))}; shift $(({attempts} - 1)); echo trained; exit "$1"'
        ssh = f"""
            for word; do case "$word" in --command=*) command="${{word#--command=}}";; esac; done
            for host in $(seq 1 {hosts}); do
              mkdir -p {self.home}/$host
              HOME={self.home}/$host bash -c "$command" &
            done
            wait"""
        tools.add(
            'gcloud',
            {'pattern': ' describe ', 'run': f'cat {self.state} 2>/dev/null'},
            {'pattern': ' create ', 'run': f'echo "${{CREATED:-READY}}" > {self.state}'},
            {'pattern': ' delete ', 'run': f'rm -f {self.state}'},
            {'pattern': 'secrets versions access', 'output': 'from the manager'},
            {'pattern': ' ssh ', 'run': ssh},
        )
        tools.add(
            'python3',
            {'pattern': '^-c', 'status': 0},
            {'pattern': '^-m pip', 'status': 0},
            {'pattern': 'launch.py', 'run': trained},
        )

    def verbs(self):
        """What was done with the TPU."""
        words = [call['words'] for call in self.tools.calls('gcloud')]
        return [each[3] for each in words if each[:2] == ['compute', 'tpus'] and each[3] != 'describe']


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setenv('GPT2JAX_WAIT_SECONDS', '0')


@pytest.mark.parametrize(
    ('statuses', 'sessions', 'status'),
    [([75, 0], 2, 0), ([2], 1, 2), ([1, 75, 0], 3, 0), ([1, 1], 2, 1)],
)
def test_gcloud_creates_retries_and_deletes(capsys, repository, tools, tmp_path, quick, statuses, sessions, status):
    cloud = Cloud(tools, tmp_path, statuses)
    ended, _, err = pod(capsys, *GCLOUD, '--retries=1', '--project=p')
    assert ended == (2 if status else 0), err
    assert status == 0 or f'gcloud ended with status {status}' in err
    assert cloud.verbs() == ['create', *['ssh'] * sessions, 'delete']
    create = tools.calls('gcloud')[1]['words']
    assert create[:5] == ['compute', 'tpus', 'tpu-vm', 'create', 'gpt2-small']
    assert {'--accelerator-type=v5litepod-16', '--version=v2-alpha-tpuv5-lite', '--zone=us-west4-a'} < set(create)
    trained = [call for call in tools.calls('python3') if 'launch.py' in call['words']]
    assert len(trained) == 4 * sessions
    assert '--workdir=gs://bucket/run' in trained[0]['words']


def test_gcloud_follows_what_still_runs_when_the_connection_broke(capsys, repository, tools, tmp_path, quick):
    """A session that loses two hosts: the next one follows the same attempt, and trains nothing twice."""
    cloud = Cloud(tools, tmp_path, [0])
    rules_file = tools.folder / 'gcloud' / 'rules.json'
    rules = json.loads(rules_file.read_text())
    broken = rules[-1] | {'times': 1, 'run': rules[-1]['run'].replace('seq 1 4', 'seq 1 2')}
    rules_file.write_text(json.dumps([*rules[:-1], broken, rules[-1]]))
    ended, _, err = pod(capsys, *GCLOUD)
    assert ended == 0, err
    assert cloud.verbs() == ['create', 'ssh', 'ssh', 'delete']
    assert len([call for call in tools.calls('python3') if 'launch.py' in call['words']]) == 4


def test_gcloud_replaces_a_tpu_that_was_taken_back(capsys, repository, tools, tmp_path, quick):
    cloud = Cloud(tools, tmp_path, [0], states=['PREEMPTED'])
    assert pod(capsys, *GCLOUD)[0] == 0
    assert cloud.verbs() == ['delete', 'create', 'ssh', 'delete']


def test_gcloud_gives_up_when_there_is_no_quota(capsys, repository, tools, quick):
    tools.add('gcloud', {'pattern': ' create ', 'status': 1, 'output': 'RESOURCE_EXHAUSTED'})
    ended, _, err = pod(capsys, *GCLOUD, '--retries=2')
    assert (ended, 'gcloud ended with status 1' in err) == (2, True)
    assert [call['words'][3] for call in tools.calls('gcloud')].count('create') == 3


def test_gcloud_gives_up_on_a_tpu_that_cannot_be_found(capsys, repository, tools, quick):
    tools.add('gcloud')
    ended, _, _ = pod(capsys, *GCLOUD, '--retries=2')
    assert ended == 2
    assert [call['words'][3] for call in tools.calls('gcloud')].count('create') == 3


def test_gcloud_leaves_a_tpu_alone_that_no_connection_reaches(capsys, repository, tools, quick):
    tools.add('gcloud', {'pattern': ' describe ', 'output': 'READY'}, {'pattern': ' ssh ', 'status': 255})
    ended, _, _ = pod(capsys, *GCLOUD, '--retries=2')
    verbs = [call['words'][3] for call in tools.calls('gcloud')]
    assert (ended, verbs.count('ssh'), verbs.count('delete')) == (2, 3, 0)


def test_two_slices_are_one_queued_resource(capsys, repository, tools, tmp_path, quick, monkeypatch):
    monkeypatch.setenv('CREATED', 'ACTIVE')
    cloud = Cloud(tools, tmp_path, [75, 0], hosts=8)
    ended, _, err = pod(capsys, *GCLOUD, '--slices=2', '--config.training.accumulation=1', '--secret_env=HF_TOKEN')
    assert ended == 0, err
    assert cloud.verbs() == ['create', 'ssh', 'ssh', 'delete']
    words = [call['words'] for call in tools.calls('gcloud')]
    assert all(each[2] == 'queued-resources' for each in words if each[0] == 'compute')
    create = next(each for each in words if 'create' in each)
    assert {'--node-count=2', '--node-prefix=gpt2-small', '--runtime-version=v2-alpha-tpuv5-lite'} < set(create)
    assert {'--node=all', '--worker=all'} < set(next(each for each in words if 'ssh' in each))
    trained = [call for call in tools.calls('python3') if 'launch.py' in call['words']]
    assert {call['environment'].get('HF_TOKEN') for call in trained} == {'from the manager'}


def test_a_slice_of_an_unusual_shape_is_named_by_it(capsys, repository):
    flags = ('--engine=gcloud', *CONFIG, '--config.sharding.fsdp=8', '--zone=z', '--workdir=gs://b/r')
    usual = rendered(capsys, *flags, '--topology=v5p:8x8x16', '--config.training.batch_size=2048')['launch.sh']
    assert '--accelerator-type=v5p-2048' in usual
    rare = rendered(capsys, *flags, '--topology=v5p:4x16x16', '--config.training.batch_size=2048')['launch.sh']
    assert '--type=v5p --topology=4x16x16' in rare


def test_sky_recovers_from_75_and_finds_the_first_node(capsys, repository, tools, tmp_path):
    task = yaml.safe_load(rendered(capsys, *SKY, '--gpus=H100:8', '--nodes=2', '--secret_env=HF_TOKEN')['task.yaml'])
    assert task['num_nodes'] == 2
    assert task['resources']['accelerators'] == 'H100:8'
    assert task['resources']['job_recovery'] == {'max_restarts_on_errors': 10, 'recover_on_exit_codes': [75]}
    assert task['secrets'] == {'HF_TOKEN': None}
    tools.add('python3', {'pattern': 'launch.py', 'run': f'exec {shlex.quote(sys.executable)} "$@"'})
    addresses = {'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2', 'SKYPILOT_NODE_RANK': '1', 'HOME': str(tmp_path)}
    done = run(tmp_path, 'bash', '-c', task['run'], **addresses)
    words = json.loads(done.stdout.partition('trained ')[2])
    assert words[-3:] == ['--coordinator=10.0.0.1:8476', '--num_processes=2', '--process_id=1']


def test_sky_asks_for_a_slice_with_its_runtime(capsys, repository):
    flags = (*SKY, '--topology=v5e-16', '--zone=us-west4-a', '--spot')
    task = yaml.safe_load(rendered(capsys, *flags)['task.yaml'])
    assert task['resources']['infra'] == 'gcp/us-west4/us-west4-a'
    assert task['resources']['accelerators'] == 'tpu-v5litepod-16'
    assert task['resources']['accelerator_args'] == {'runtime_version': 'v2-alpha-tpuv5-lite'}
    assert (task['num_nodes'], task['resources']['use_spot']) == (1, True)
    assert '--coordinator' not in task['run']


def test_a_secret_is_taken_from_the_environment_by_its_name(capsys, repository, tools, monkeypatch):
    tools.add('sky')
    flags = (*SKY, '--gpus=H100:8', '--secret_env=HF_TOKEN')
    monkeypatch.delenv('HF_TOKEN', raising=False)
    status, _, err = pod(capsys, *flags)
    assert (status, '--secret_env=HF_TOKEN: this variable is not set' in err) == (2, True)
    monkeypatch.setenv('HF_TOKEN', 'the value')
    assert pod(capsys, *flags)[0] == 0
    (call,) = tools.calls('sky')
    assert call['words'] == ['jobs', 'launch', '--yes', '--detach-run', '--secret', 'HF_TOKEN', 'task.yaml']
    assert call['environment'] == {'HF_TOKEN': 'the value'}
    written = [path for path in (repository / 'runs').rglob('*') if path.is_file()]
    assert {path.name for path in written} == {'task.yaml', 'pod.json'}
    assert all('the value' not in path.read_text() for path in written)


def test_xpk_is_told_the_slice_and_a_command_that_runs(capsys, repository, tools, tmp_path):
    tools.add('xpk')
    tools.add('python3', {'pattern': 'launch.py', 'status': 75})
    assert pod(capsys, *XPK, '--project=p', '--spot', "--config.sampling.prompt='$(x)")[0] == 0
    (call,) = tools.calls('xpk')
    assert call['words'][:2] == ['workload', 'create']
    expected = {
        '--workload=gpt2-small',
        '--cluster=c',
        '--project=p',
        '--tpu-type=v5litepod-4x4',
        '--num-slices=1',
        '--spot',
    }
    assert expected < set(call['words'])
    assert '--restart-on-exit-codes=1,75' in call['words']
    command = next(word for word in call['words'] if word.startswith('--command=')).partition('=')[2]
    assert base64.b64decode(command.split()[4]).decode().startswith('#!/bin/bash\n')
    done = run(tmp_path, 'bash', '-c', f'({command}); exit $?', HOME=str(tmp_path))
    assert done.returncode == 75
    assert "--config.sampling.prompt='$(x)" in tools.calls('python3')[-1]['words']


def test_a_host_whose_setup_fails_never_ends_with_2(capsys, repository, tools, tmp_path):
    """pip ends with 2 on a broken network, and 2 would mean a mistake of the user."""
    tools.add('python3', {'pattern': '^-m pip', 'status': 2})
    host = rendered(capsys, *XPK)['host.sh']
    done = run(tmp_path, 'bash', '-c', host, HOME=str(tmp_path))
    assert done.returncode == 1
    assert not [call for call in tools.calls('python3') if 'launch.py' in call['words']]


def test_a_host_with_an_old_python_gets_a_newer_one(capsys, repository, tools, tmp_path):
    made = 'mkdir -p ../venv/bin; ln -s $(which python3) ../venv/bin/python'
    fake = f'mkdir -p ../uv/bin; echo "echo uv \\"\\$@\\"; {made}" '
    tools.add(
        'python3',
        {'pattern': '^-c', 'status': 1},
        {'pattern': 'pip install -q --target', 'run': fake + '> ../uv/bin/uv; chmod +x ../uv/bin/uv'},
    )
    done = run(tmp_path, 'bash', '-c', rendered(capsys, *XPK)['host.sh'], HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert 'uv venv -q --seed --allow-existing --python 3.12 ../venv' in done.stdout
    assert tools.calls('python3')[-1]['words'][:2] == ['launch.py', 'train']


@pytest.mark.parametrize(
    ('flags', 'tool', 'words'),
    [
        (('--engine=jobset', *CONFIG, '--topology=v5e-16', '--workdir=gs://b/r'), 'kubectl', 'get-credentials'),
        (XPK, 'xpk', 'pip install xpk'),
        ((*SKY, '--gpus=H100:8'), 'sky', 'pip install'),
        (SLURM, 'sbatch', 'login node'),
        (GCLOUD, 'gcloud', 'cloud.google.com/sdk'),
    ],
)
def test_a_missing_tool_is_named_and_the_files_stay(capsys, repository, monkeypatch, tmp_path, flags, tool, words):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'git').symlink_to(shutil.which('git'))
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    status, _, err = pod(capsys, *flags)
    assert status == 2
    assert err.startswith(f'launch.py: {tool} is not installed: ')
    assert words in err
    assert 'runs/pods/gpt2-small' in err
    record = json.loads((repository / 'runs' / 'pods' / 'gpt2-small' / 'pod.json').read_text())
    assert record['commit'] == commit_of(repository)
    assert f'--workdir={record["workdir"]}' in flags


def test_a_tool_that_fails_is_reported(capsys, repository, tools):
    tools.add('kubectl', {'pattern': '.', 'status': 3})
    status, _, err = pod(capsys, '--engine=jobset', *CONFIG, '--topology=v5e-16', '--workdir=gs://b/r', '--cluster=k')
    assert (status, 'kubectl ended with status 3' in err) == (2, True)
    (call,) = tools.calls('kubectl')
    assert call['words'] == ['--context', 'k', 'create', '--filename', 'jobset.yaml']
