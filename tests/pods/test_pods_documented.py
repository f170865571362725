"""docs/pods.md: every command renders, and runs against stand-ins for the outside tools."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
import yaml
from pods.standins import commit_of, pod, rendered, run

import launch

PAGE = (Path(__file__).parents[2] / 'docs' / 'pods.md').read_text()
BLOCKS = re.findall(r'^```\n(.*?)^```$', PAGE, re.M | re.S)
COMMANDS = [shlex.split(line)[3:] for block in BLOCKS for line in block.splitlines()]
TOOLS = {'jobset': 'kubectl', 'xpk': 'xpk', 'skypilot': 'sky', 'slurm': 'sbatch', 'gcloud': 'gcloud'}


def engine_of(flags):
    return next(flag.partition('=')[2] for flag in flags if flag.startswith('--engine='))


def test_the_page_shows_every_engine_and_flags_that_exist():
    assert all(line.startswith('python launch.py pod ') for block in BLOCKS for line in block.splitlines())
    assert {engine_of(flags) for flags in COMMANDS} == set(TOOLS)
    values = launch.Flags([])
    launch.COMMANDS['pod'].define(values)
    for flag in re.findall(r'`--(\w+)(?=[=` ])', PAGE):
        assert flag in values or flag.startswith('config') or flag in ('price',), flag


def test_the_requirements_that_are_named_exist():
    for name in re.findall(r'`(requirements-\w+\.txt)`', PAGE):
        assert (Path(__file__).parents[2] / name).is_file()


@pytest.mark.parametrize('flags', COMMANDS, ids=map(str, range(len(COMMANDS))))
def test_every_command_renders_and_runs(capsys, repository, tools, monkeypatch, flags):
    files = rendered(capsys, *(flag for flag in flags if flag != '--dry_run'))
    commit = commit_of(repository)
    assert any(commit in text for name, text in files.items() if name != 'command')
    for name, text in files.items():
        if name.endswith('.sh'):
            check_shell(text)
        elif name == 'task.yaml':
            check_shell(yaml.safe_load(text)['run'])
        elif name == 'jobset.yaml':
            job = yaml.safe_load(text)['spec']['replicatedJobs'][0]['template']['spec']
            check_shell(job['template']['spec']['containers'][0]['command'][2])
    tool = TOOLS[engine_of(flags)]
    answers = [{'pattern': ' describe ', 'output': 'READY', 'times': 1}] if tool == 'gcloud' else []
    tools.add(tool, *answers, *stop_gcloud(files))
    monkeypatch.setenv('GPT2JAX_WAIT_SECONDS', '0')
    status, out, err = pod(capsys, *flags)
    assert (status, err) == (0, '')
    if '--dry_run' in flags:
        assert tools.calls(tool) == []
        return
    assert tools.calls(tool)
    (record,) = (repository / 'runs').rglob('pod.json')
    assert json.loads(record.read_text())['commit'] == commit
    assert f'written to {record.parent.relative_to(repository)}' in out
    assert os.listdir(record.parent)


def check_shell(text):
    """bash -n."""
    done = run('/', 'bash', '-n', '-c', text)
    assert done.returncode == 0, done.stderr


def stop_gcloud(files):
    """Makes the stand-in answer for all hosts that they have trained to the end."""
    hosts = re.search(r'trains on all (\d+) hosts', files.get('launch.sh', ''))
    lines = '\n'.join(f'gpt2jax: host{n} ended with status 0' for n in range(int(hosts[1]))) if hosts else ''
    return [{'pattern': ' ssh ', 'output': lines}]
