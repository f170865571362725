"""A repository to launch from and stand-ins for outside tools, which record what they are told."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import launch
from gpt2jax.commands import launching

ROOT = Path(__file__).parents[2]

# Records its words, folder and secrets, then does what the first rule says whose pattern is found in its words and that
# is not used up: prints an output and ends with a status, or runs a script.
TOOL = """#!{python}
import json, os, re, sys
from pathlib import Path
here = Path({folder!r})
words = sys.argv[1:]
seen = {{name: os.environ[name] for name in ('HF_TOKEN', 'GIT_TOKEN') if name in os.environ}}
entry = {{'tool': {tool!r}, 'words': words, 'cwd': os.getcwd(), 'environment': seen}}
with open(here / 'calls.jsonl', 'a') as file:
    file.write(json.dumps(entry) + '\\n')
rules = json.loads((here / {tool!r} / 'rules.json').read_text())
for rule in rules:
    if rule.get('times') != 0 and re.search(rule['pattern'], ' '.join(words)):
        if 'times' in rule:
            rule['times'] -= 1
            (here / {tool!r} / 'rules.json').write_text(json.dumps(rules))
        if 'run' in rule:
            os.execvp('bash', ['bash', '-c', rule['run'], 'rule', *words])
        print(rule.get('output', ''))
        sys.exit(rule.get('status', 0))
"""


class Tools:
    """Executables in front of PATH."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder = folder
        self.bin = folder / 'bin'
        self.bin.mkdir(parents=True)
        monkeypatch.setenv('PATH', f'{self.bin}{os.pathsep}{os.environ["PATH"]}')

    def add(self, tool: str, *rules: dict) -> None:
        """A tool and its rules; where none fits it prints nothing and ends with 0."""
        (self.folder / tool).mkdir()
        (self.folder / tool / 'rules.json').write_text(json.dumps(rules))
        path = self.bin / tool
        path.write_text(TOOL.format(python=sys.executable, folder=str(self.folder), tool=tool))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self, tool: str) -> list[dict]:
        """What the tool was told, call by call."""
        file = self.folder / 'calls.jsonl'
        lines = file.read_text().splitlines() if file.exists() else []
        return [call for call in map(json.loads, lines) if call['tool'] == tool]


def run(folder, *command, **environment) -> subprocess.CompletedProcess:
    """A command with its output, in a folder."""
    environment = os.environ | {'GIT_CONFIG_GLOBAL': os.devnull, 'GIT_CONFIG_SYSTEM': os.devnull} | environment
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def make_repository(folder: Path) -> Path:
    """A repository with the recipes and a launch.py that only says how it was called, pushed to an `origin`."""
    repository, origin = folder / 'repository', folder / 'origin.git'
    shutil.copytree(ROOT / 'configs', repository / 'configs', ignore=shutil.ignore_patterns('__pycache__'))
    (repository / '.gitignore').write_text('runs/\n__pycache__/\n')
    for name in ('requirements-tpu.txt', 'requirements-gpu.txt'):
        (repository / name).write_text('\n')
    (repository / 'launch.py').write_text('import json, sys\nprint("trained", json.dumps(sys.argv[1:]))\n')
    for command in (
        ['init', '-q', '--initial-branch=main', '.'],
        ['add', '.'],
        ['-c', 'user.name=a', '-c', 'user.email=a@b.c', 'commit', '-q', '-m', 'recipes'],
        ['init', '-q', '--bare', str(origin)],
        ['remote', 'add', 'origin', f'file://{origin}'],
        ['push', '-q', 'origin', 'main'],
    ):
        done = run(repository, 'git', *command)
        assert done.returncode == 0, done.stderr
    return repository


def commit_of(repository: Path) -> str:
    """The commit that is checked out."""
    return run(repository, 'git', 'rev-parse', 'HEAD').stdout.strip()


def enter(repository: Path, monkeypatch) -> None:
    """Makes it the repository of `pod`, and the current folder."""
    monkeypatch.setattr(launching, 'ROOT', repository)
    monkeypatch.chdir(repository)


def pod(capsys, *arguments) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of `launch.py pod`; what tools print goes elsewhere."""
    status = launch.main(['pod', *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def rendered(capsys, *arguments) -> dict[str, str]:
    """The files that --dry_run shows, and 'command'."""
    status, out, err = pod(capsys, *arguments, '--dry_run')
    assert (status, err) == (0, ''), err
    parts = re.split(r'^--- (.+)\n', out, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
