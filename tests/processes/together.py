"""Runs of several real processes on this machine, from the command line."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpt2jax.processes.supervisor import free_port

ROOT = Path(__file__).parents[2]
STEPS = 60
OPTIONS = {
    'data.corpus': 'text',
    'data.tokenizer': 'bytes',
    'data.length': 32,
    'model.num_layers': 2,
    'model.width': 32,
    'model.attention.num_heads': 2,
    'model.dropout': 0.1,
    'training.steps': STEPS,
    'training.batch_size': 8,
    'training.log_every': 1,
    'optimizer.warmup_steps': 5,
    'evaluation.every': 0,
    'evaluation.batch_size': 8,
    'evaluation.num_rows': 16,
    'checkpoint.every_steps': 10,
    'checkpoint.every_minutes': 0.0,
    'sampling.max_new_tokens': 8,
    'sampling.num_samples': 1,
    'runtime.compilation_cache': '',
    'runtime.start_seconds': 120.0,
    'runtime.patience_seconds': 60.0,
}


def write_text(folder):
    """A text with some order in it, for the corpus 'text'."""
    draw = random.Random(0)
    words = ['king', 'queen', 'rose', 'sword', 'night', 'storm', 'crown', 'ghost', 'and', 'the', 'of', 'a']
    paragraphs = [' '.join(draw.choices(words, k=40)) for _ in range(150)]
    (folder / 'plays.txt').write_text('\n\n'.join(paragraphs))
    return folder


def train(text, workdir, *flags, devices=None, preexec_fn=None, **changes):
    """Starts `launch.py train`; `devices` is how many each process has."""
    options = OPTIONS | {name.replace('__', '.'): value for name, value in changes.items()}
    options |= {'data.path': text / 'plays.txt', 'data.directory': text / 'cache'}
    if devices is not None:
        options['sharding.cpu_devices'] = devices
    command = [sys.executable, 'launch.py', 'train', '--config=configs/laptop.py', f'--workdir={workdir}', *flags]
    return subprocess.Popen(
        [*command, *(f'--config.{key}={value}' for key, value in options.items())],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'COLUMNS': '300'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec_fn,
    )


def cluster(count):
    """The flags of each of `count` processes."""
    coordinator = f'--coordinator=localhost:{free_port()}', f'--num_processes={count}'
    return [(*coordinator, f'--process_id={index}') for index in range(count)]


def finish(process, timeout=240):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def worker(process, index):
    """The number of the process that trains as process `index`, below the supervisor `process`."""
    for _ in range(600):
        for pid in children_of(process.pid):
            command = Path(f'/proc/{pid}/cmdline').read_bytes().decode()
            if f'--process_id={index}' in command:
                return pid
        time.sleep(0.05)
    raise AssertionError(f'process {index} was not started')


def children_of(pid):
    try:
        found = [int(child) for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
    except FileNotFoundError:
        return []
    return found + [below for child in found for below in children_of(child)]


def wait_for(condition, process, what, seconds=120):
    """Until the condition holds; the process must still be running."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (what, finish(process))
        assert time.monotonic() < deadline, f'{what} did not come'
        time.sleep(0.005)


def reached(workdir, step):
    """A condition: the run has written the metrics of a step."""
    metrics = workdir / 'metrics.jsonl'
    return lambda: metrics.exists() and f'"step": {step},' in metrics.read_text()


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return {line['step']: line['loss'] for line in lines if line['kind'] == 'train'}


def saved_steps(workdir):
    folders = (workdir / 'checkpoints').glob('*/manifest.json')
    return sorted(int(path.parent.name) for path in folders if path.parent.name.isdecimal())


def kill(pid, number=signal.SIGKILL):
    os.kill(pid, number)


def step_of(text):
    """The step that a message says was saved, or is continued from."""
    return int(re.search(r'(?:saved|from) step (\d+)', text)[1])
