"""A whole study from the command line, small: killed in mid-run, continued, with a run that fails."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from gpt2jax.studies.study import ROOT

EXPERIMENT = '''"""Is RMSNorm as good?

Read it.
"""

from gpt2jax.studies import Study, arm, chain


def get_study():
    return Study(
        base='configs/laptop.py',
        changes={changes},
        arms=chain(
            arm('layer'),
            arm('rms', {{'model.norm.kind': 'rmsnorm'}}),
            arm('broken', {{'optimizer.learning_rate': 1e30}}),
        ),
        seeds=(0,),
    )
'''
CHANGES = {
    'data.corpus': 'text',
    'data.tokenizer': 'bytes',
    'data.length': 32,
    'model.num_layers': 1,
    'model.width': 32,
    'model.attention.num_heads': 2,
    'model.dropout': 0.1,
    'training.steps': 60,
    'training.batch_size': 4,
    'training.log_every': 1,
    'optimizer.warmup_steps': 5,
    'evaluation.every': 20,
    'evaluation.batch_size': 4,
    'checkpoint.every_steps': 3,
    'checkpoint.every_minutes': 0.0,
    'sampling.max_new_tokens': 4,
    'sharding.cpu_devices': 1,
}


@pytest.fixture(name='launch')
def make_launch(tmp_path):
    """Starts a subcommand of launch.py."""
    draw = random.Random(0)
    words = ['king', 'queen', 'rose', 'sword', 'night', 'storm', 'crown', 'ghost', 'and', 'the', 'of', 'a']
    (tmp_path / 'plays.txt').write_text('\n\n'.join(' '.join(draw.choices(words, k=40)) for _ in range(150)))
    paths = {'data.path': f'{tmp_path}/plays.txt', 'data.directory': f'{tmp_path}/cache'}
    (tmp_path / 'norms.py').write_text(EXPERIMENT.format(changes=CHANGES | paths))

    def launch(*arguments):
        environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'COLUMNS': '300'}
        command = [sys.executable, str(ROOT / 'launch.py'), *arguments]
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)

    return launch


def curve(folder):
    """What must not change however a run is cut into pieces."""
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    return [
        tuple(line.get(key) for key in ('kind', 'step', 'loss', 'gradient_norm', 'bits_per_byte')) for line in lines
    ]


def wait_until(found, seconds=120):
    began = time.monotonic()
    while not found():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)


@pytest.mark.slow
def test_a_study_that_is_killed_continues_and_shows_what_failed(launch, tmp_path):
    command = ('study', '--experiment=norms.py')
    cells = tmp_path / 'runs' / 'studies' / 'norms' / 'cells'
    study = launch(*command)
    wait_until(lambda: any(cells.glob('rms/*/checkpoints/*')))
    study.send_signal(signal.SIGKILL)
    study.wait()
    (layer,), (rms,) = cells.glob('layer/*'), cells.glob('rms/*')
    assert 'finished' not in json.loads((rms / 'run.json').read_text())
    changed = (layer / 'metrics.jsonl').stat().st_mtime_ns

    study = launch(*command)
    out = study.communicate(timeout=300)[0]
    assert study.returncode == 1, out  # one run failed
    assert (layer / 'metrics.jsonl').stat().st_mtime_ns == changed
    assert 'layer, seed 0: begins' not in out
    assert 'rms, seed 0: finished (2 of 3 runs finished)' in out
    assert 'broken, seed 0: failed, and is tried once more: step ' in out
    assert 'broken, seed 0: failed twice: step ' in out
    assert 'broken failed in 1 of 1 runs' in out
    assert 'One seed an arm' in out

    typed = json.loads((tmp_path / 'runs/studies/norms/report.json').read_text())['study']['results'][1]['command']
    words = typed.replace('configs/', f'{ROOT}/configs/').split()[2:-1]
    alone = launch(*words, f'--workdir={tmp_path / "alone"}')
    out = alone.communicate(timeout=300)[0]
    assert alone.returncode == 0, out
    assert curve(tmp_path / 'alone') == curve(rms)

    again = launch(*command)
    assert 'begins' not in again.communicate(timeout=300)[0]
    compare = launch('compare', f'--workdir={layer}', f'--workdir={rms}')
    out = compare.communicate(timeout=300)[0]
    assert compare.returncode == 0, out
    assert 'One seed an arm' in out
    page = next((tmp_path / 'runs' / 'compare').glob('*/report.html')).read_text()
    assert 'model.norm.kind: &#x27;layernorm&#x27; -&gt; &#x27;rmsnorm&#x27;' in page
    assert 'Nothing was matched' in page


@pytest.mark.slow
def test_an_arm_against_itself_is_no_difference(launch, tmp_path):
    text = (tmp_path / 'norms.py').read_text()
    start, end = text.index("            arm('rms'"), text.index('        ),\n        seeds')
    text = text[:start] + "            arm('again'),\n" + text[end:]
    (tmp_path / 'itself.py').write_text(text.replace('seeds=(0,)', 'seeds=(0, 1)'))
    study = launch('study', '--experiment=itself.py', '--parallel=2')
    out = study.communicate(timeout=300)[0]
    assert study.returncode == 0, out
    assert 'No winner.' in out
    (finding,) = json.loads((tmp_path / 'runs/studies/itself/report.json').read_text())['findings']
    versus = finding['arms'][1]['versus']
    assert (versus['difference']['mean'], versus['difference']['sd'], versus['p']) == (0.0, 0.0, 1.0)
