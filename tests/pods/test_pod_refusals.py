"""What `pod` refuses before anything is written or run."""

import pytest
from pods.standins import commit_of, pod, rendered, run

GOOD = {
    'engine': 'jobset',
    'config': 'configs/gpt2_small.py',
    'topology': 'v5e:4x4',
    'workdir': 'gs://bucket/run',
    'config.training.accumulation': '2',
}
TOKEN = 'hf_' + 'a1B2' * 8


def flags(**changes):
    """The flags of a launch that works, with changes; None leaves one out."""
    values = GOOD | {name.replace('__', '.'): value for name, value in changes.items()}
    return [f'--{name}={value}' for name, value in values.items() if value is not None]


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'engine': 'kubernetes'}, '--engine=kubernetes: one of jobset, xpk, skypilot, slurm, gcloud'),
        ({'engine': None}, '--engine is missing'),
        ({'workdir': None}, '--workdir is missing'),
        ({'workdir': '/tmp/run'}, 'pods share no disk'),
        ({'workdir': 'gs://bucket/a b'}, '--workdir='),
        ({'workdir': 'gs://bucket/$(reboot)'}, '--workdir='),
        ({'name': 'GPT2'}, '--name=GPT2'),
        ({'name': 'a' * 41}, 'at most 40'),
        ({'name': 'x;reboot'}, '--name=x;reboot'),
        ({'image': 'a b'}, '--image=a b'),
        ({'zone': 'z;reboot'}, '--zone'),
        ({'topology': 'v5e:3x3'}, 'there are v5e: 1x1'),
        ({'slices': '0'}, '--slices=0'),
        ({'slices': '2', 'topology': 'v5e:2x4'}, 'two or more hosts'),
        ({'retries': '-1'}, '--retries=-1'),
        ({'seeds': '0-4'}, 'only Slurm has arrays'),
        ({'seeds': '0-4;reboot', 'engine': 'slurm'}, '--seeds'),
        ({'topology': None, 'gpus': 'H900:8'}, 'GKE lends H200, H100'),
        ({'engine': 'slurm'}, '--engine=slurm: needs --gpus'),
        ({'engine': 'slurm', 'topology': None, 'gpus': '8', 'workdir': 'runs/x'}, 'an absolute path'),
        ({'engine': 'xpk'}, '--cluster is missing'),
        ({'engine': 'xpk', 'cluster': 'c', 'secret_env': 'HF_TOKEN'}, '--engine=jobset'),
        ({'engine': 'gcloud'}, '--zone is missing'),
        ({'engine': 'gcloud', 'zone': 'z', 'topology': '7x:2x2x2'}, 'GKE alone'),
        ({'engine': 'skypilot', 'slices': '2', 'config__training__accumulation': '1'}, 'SkyPilot starts one slice'),
        ({'engine': 'skypilot', 'topology': None, 'gpus': '8'}, 'needs the kind'),
        ({'repository': 'ext::sh -c reboot'}, '--repository=ext::sh'),
        ({'repository': '--upload-pack=reboot'}, '--repository'),
        ({'config__model__width': '770'}, 'config.model.width = 770 is not a multiple'),
        ({'config__training__accumulation': '32', 'topology': 'v5e:4x8'}, 'try --config.training.accumulation=16'),
        ({'config__training__batch_size': '40'}, 'a microbatch of 20 rows'),
        ({'config__sharding__fsdp': '32'}, 'does not fit 16 devices'),
        ({'config__sharding__data': '1', 'config__sharding__fsdp': '32', 'slices': '2'}, 'slow network'),
        ({'config__evaluation__batch_size': '3'}, 'config.evaluation.batch_size = 3'),
    ],
)
def test_what_cannot_work_is_refused_in_words(capsys, repository, changes, words):
    status, out, err = pod(capsys, *flags(**changes))
    assert (status, out) == (2, '')
    assert words in err
    assert not (repository / 'runs').exists()


@pytest.mark.parametrize(
    'flag',
    [
        f'--secret_env={TOKEN}',
        f'--secret_env=HF_TOKEN={TOKEN}',
        '--secret_env=HF_TOKEN=x',
        f'--extra=--env={TOKEN}',
        '--extra=--password=hunter2',
        '--extra=--env=WANDB_API_KEY=0123',
        f'--config.sampling.prompt={TOKEN}',
        '--repository=https://me:ghost@example.org/x.git',
        '--workdir=gs://key:word@bucket/x',
        '--image=ghp_' + 'a' * 36,
    ],
)
def test_a_secret_in_a_flag_is_refused_and_not_repeated(capsys, repository, flag):
    status, out, err = pod(capsys, *flags(), flag)
    assert (status, out) == (2, '')
    assert flag.partition('=')[0].removeprefix('--') in err
    assert '--secret_env=HF_TOKEN' in err or 'without their values' in err
    for secret in (TOKEN, 'hunter2', '0123', 'ghost', 'key:word', 'ghp_a'):
        assert secret not in err
    assert not (repository / 'runs').exists()


def test_what_only_resembles_a_secret_passes(capsys, repository):
    files = rendered(capsys, *flags(workdir='gs://hf-continued-runs/task-1234567890abcdef/tokenizer=gpt2'))
    assert 'tokenizer=gpt2' in files['jobset.yaml']


def test_changes_that_are_not_committed_are_refused_unless_allowed(capsys, repository):
    (repository / 'launch.py').write_text('changed')
    status, out, err = pod(capsys, *flags(), '--dry_run')
    assert (status, out) == (2, '')
    assert 'not committed: launch.py' in err
    assert '--allow_dirty' in err
    status, out, err = pod(capsys, *flags(), '--dry_run', '--allow_dirty')
    assert (status, err) == (0, '')
    assert 'hosts see the commit alone' in out


def test_a_commit_that_was_not_pushed_is_refused(capsys, repository):
    (repository / 'more.txt').write_text('more')
    run(repository, 'git', 'add', '.')
    run(repository, 'git', '-c', 'user.name=a', '-c', 'user.email=a@b.c', 'commit', '-q', '-m', 'more')
    status, out, err = pod(capsys, *flags())
    assert (status, out) == (2, '')
    assert f'commit {commit_of(repository)[:12]} has not been pushed to file://' in err
    run(repository, 'git', 'push', '-q', 'origin', 'main')
    assert commit_of(repository) in rendered(capsys, *flags())['jobset.yaml']


def test_without_an_origin_the_repository_is_asked_for(capsys, repository):
    run(repository, 'git', 'remote', 'remove', 'origin')
    status, _, err = pod(capsys, *flags())
    assert (status, '--repository=URL' in err) == (2, True)
    text = rendered(capsys, *flags(repository='git@example.org:me/gpt2jax.git'))['jobset.yaml']
    assert f'fetch -q --depth=1 git@example.org:me/gpt2jax.git {commit_of(repository)}' in text


def test_a_password_in_the_address_of_origin_is_refused(capsys, repository):
    run(repository, 'git', 'remote', 'set-url', 'origin', 'https://me:ghost@example.org/x.git')
    status, _, err = pod(capsys, *flags())
    assert (status, 'ghost' in err, '--secret_env=GIT_TOKEN' in err) == (2, False, True)


def test_a_recipe_has_to_be_part_of_the_commit(capsys, repository, tmp_path):
    (repository / '.gitignore').write_text('runs/\n__pycache__/\nconfigs/mine.py\n')
    run(repository, 'git', 'add', '.')
    run(repository, 'git', '-c', 'user.name=a', '-c', 'user.email=a@b.c', 'commit', '-q', '-m', 'ignore')
    run(repository, 'git', 'push', '-q', 'origin', 'main')
    (repository / 'configs' / 'mine.py').write_text((repository / 'configs' / 'gpt2_small.py').read_text())
    status, _, err = pod(capsys, *flags(config='configs/mine.py'))
    assert (status, 'is not part of commit' in err) == (2, True)
    (tmp_path / 'mine.py').write_text((repository / 'configs' / 'gpt2_small.py').read_text())
    status, _, err = pod(capsys, *flags(config=str(tmp_path / 'mine.py')))
    assert (status, 'outside of' in err) == (2, True)
