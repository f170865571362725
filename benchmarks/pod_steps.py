"""Estimated times of GPT-2's training step on pods that are not here: the table of docs/planning.md.

    python -m benchmarks.pod_steps [--only=NAME,NAME] [--out=table.json]

Needs requirements-plan.txt. Every row is one run of gpt2jax.planning: minutes of compiling, nothing is executed.
"""

import argparse
import json
import time
from pathlib import Path

from configs.gpt2_small import GPT2
from configs.gpt2_xl import SIZE
from gpt2jax.config import recipe
from gpt2jax.planning.compiling import plan_step
from gpt2jax.planning.outlook import outlook
from gpt2jax.planning.topologies import read_topology
from gpt2jax.validation import resolve

# 65,536 tokens a chip of the small model; of the large one 8,192 and 16,384.
PLAIN = {'model.remat': 'none', 'model.scan_layers': False, 'training.accumulation': 8}
LARGE = {'model.remat': 'full', 'model.scan_layers': True, 'training.accumulation': 1}
ROWS = {  # name: (topology, changes over the recipe)
    '124M-v5e-8-dp': ('v5e:2x4', GPT2 | PLAIN | {'training.batch_size': 512}),
    '124M-v5e-8-fsdp': ('v5e:2x4', GPT2 | PLAIN | {'training.batch_size': 512, 'sharding.fsdp': 8}),
    '124M-v5e-256-dp': ('v5e:16x16', GPT2 | PLAIN | {'training.batch_size': 16384}),
    '124M-v5e-256-fsdp': ('v5e:16x16', GPT2 | PLAIN | {'training.batch_size': 16384, 'sharding.fsdp': 256}),
    '124M-v5e-256-dp-2k': (
        'v5e:16x16',
        GPT2 | PLAIN | {'training.batch_size': 512, 'training.accumulation': 1},
    ),
    '124M-v5e-256-fsdp-2k': (
        'v5e:16x16',
        GPT2 | PLAIN | {'training.batch_size': 512, 'training.accumulation': 1, 'sharding.fsdp': 256},
    ),
    '1558M-v5e-256': ('v5e:16x16', GPT2 | SIZE | LARGE | {'training.batch_size': 2048, 'sharding.fsdp': 16}),
    '1558M-v5p-64': ('v5p:4x4x4', GPT2 | SIZE | LARGE | {'training.batch_size': 1024, 'sharding.fsdp': 64}),
    '124M-h100': ('h100:1', GPT2 | {'training.batch_size': 64, 'training.accumulation': 1, 'model.remat': 'none'}),
}


def measure(name: str) -> dict:
    """One row: what the compiler says of one step."""
    topology, changes = ROWS[name]
    config = recipe(changes)
    began = time.monotonic()
    answer = plan_step(config, topology)
    step = answer['steps'][0]
    row = {'name': name, 'topology': topology, 'seconds': time.monotonic() - began, 'versions': answer['versions']}
    row |= {'fits': step['fits'], 'peak_bytes': step['memory']['peak'], 'compiling': step['compiling_seconds']}
    if found := outlook(resolve(config), read_topology(topology), step, None):
        row |= {'step_seconds': found['step_seconds'], 'mfu': found['mfu'], 'exposed': step['time']['exposed']}
        row['cpu_seconds'] = step['compiling_cpu_seconds']
    return row


def describe(row: dict) -> str:
    """A row of the table in docs/planning.md."""
    memory = f'{row["peak_bytes"] / 2**30:.1f}'
    if 'step_seconds' not in row:
        return f'| {row["name"]} | {row["topology"]} | does not fit | | {memory} | | {row["seconds"]:.0f} |'
    low, high = row['step_seconds']
    mfu = ' to '.join(f'{share:.0%}' for share in row['mfu']['full map'][::-1])
    return (
        f'| {row["name"]} | {row["topology"]} | {low:.3f} to {high:.3f} | {mfu} | {memory} | '
        f'{row["exposed"] * 1e3:.1f} | {row["seconds"]:.0f} ({row["cpu_seconds"]:.0f}) |'
    )


def main() -> None:
    """Prints the rows as they come; --out also keeps them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', default=','.join(ROWS), help=f'names: {", ".join(ROWS)}')
    parser.add_argument('--out', help='a JSON file')
    arguments = parser.parse_args()
    print('| step | topology | s a step (estimate) | MFU, full map | GiB a device | exposed ms | s to plan (CPU s) |')
    print('|---|---|---|---|---|---|---|')
    rows = []
    for name in arguments.only.split(','):
        rows.append(measure(name))
        print(describe(rows[-1]), flush=True)
        if arguments.out:
            Path(arguments.out).write_text(json.dumps(rows, indent=2))


if __name__ == '__main__':
    main()
