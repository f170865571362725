"""What it costs to train in several processes instead of one, on the same devices of this machine.

    python -m benchmarks.processes [--turns=5] [--steps=120]

Both arms train configs/laptop.py with two devices: in one process, and in two that are joined by gloo, watched, and
vote after every step. They run in turns; each gives the median of its own steps' tokens a second.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARMS = {
    'one process of two devices': ('--config.sharding.cpu_devices=2',),
    'two processes of one device': ('--config.sharding.cpu_devices=1', '--local_processes=2'),
}


def tokens_per_second(flags: tuple[str, ...], steps: int) -> float:
    """The median over the logged steps of a run, without the first ones."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            'launch.py',
            'train',
            '--config=configs/laptop.py',
            f'--workdir={folder}/run',
            *flags,
        ]
        options = {
            'training.steps': steps,
            'training.log_every': 5,
            'optimizer.warmup_steps': 5,
            'evaluation.every': 0,
            'evaluation.num_rows': 8,
            'sampling.num_samples': 1,
            'sampling.max_new_tokens': 1,
        }
        command += [f'--config.{key}={value}' for key, value in options.items()]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        lines = map(json.loads, (Path(folder) / 'run' / 'metrics.jsonl').read_text().splitlines())
        rates = [line['tokens_per_second'] for line in lines if line['kind'] == 'train']
    return statistics.median(rates[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--turns', type=int, default=5)
    parser.add_argument('--steps', type=int, default=120)
    arguments = parser.parse_args()
    rates = {name: [] for name in ARMS}
    for turn in range(arguments.turns):
        for name, flags in ARMS.items():
            rates[name].append(tokens_per_second(flags, arguments.steps))
            print(f'turn {turn + 1}: {name}: {rates[name][-1]:,.0f} tokens/s', flush=True)
    one, two = (statistics.median(rates[name]) for name in ARMS)
    print(f'medians: {one:,.0f} and {two:,.0f} tokens/s; two processes give {two / one:.2f} of one')


if __name__ == '__main__':
    main()
