"""Runs of a group beside the same runs alone; also a program of its own, on as many devices as XLA_FLAGS forces.

    python grouped_training.py FOLDER

Prints what `compare` returns of four runs, as the last line.
"""

import json
import sys
from pathlib import Path

import numpy as np
from helpers import largest_difference, one_device_setup, tiny_config

from gpt2jax.config import to_dict
from gpt2jax.data import Rows, Tokens, make_tokenizer
from gpt2jax.optimizers import evaluation_params
from gpt2jax.training.checkpoints import Checkpoints
from gpt2jax.training.group import GroupSetup
from gpt2jax.training.group_loop import GroupLoop, Member
from gpt2jax.training.loop import Loop
from gpt2jax.training.metrics import MetricWriter, SilentWriter, read_metrics

STEPS = 6
COMMON = {
    'model__num_layers': 1,
    'model__width': 16,
    'model__dropout': 0.1,
    'training__steps': STEPS,
    'training__log_every': 1,
    'training__batch_size': 4,
    'optimizer__learning_rate': 1e-2,
    'optimizer__epsilon': 1e-5,  # Adam divides what is rounding alone (gradients of key biases) by its own size
    'evaluation__every': 3,
    'evaluation__num_rows': 6,
    'evaluation__batch_size': 4,
    'checkpoint__every_steps': 2,
    'checkpoint__every_minutes': 0.0,
}
OWN = [{'seed': 0}, {'seed': 1}, {'seed': 1, 'optimizer__learning_rate': 3e-3}]
FIGURES = ('loss', 'gradient_norm', 'learning_rate', 'predicted', 'nats_per_token', 'masked_nats', 'masked_accuracy')


def configs(own=OWN, **changes):
    """Of the runs of a group."""
    return [tiny_config(**COMMON | changes | one) for one in own]


def text(config):
    """Random rows with documents, in the order of a config."""
    tokenizer = make_tokenizer('bytes')
    stream = np.random.default_rng(0).integers(0, 256, 2000).astype(np.uint16)
    stream[::50] = tokenizer.end_of_text
    tokens, contiguous = Tokens(stream, np.arange(0, 2001, 50), 1960), config.data.order == 'contiguous'
    rows = Rows(tokens, 16, False, tokenizer, contiguous)
    return dict.fromkeys(('train', 'validation'), rows), tokenizer


def train_alone(config, folder):
    """Returns the loop after its last step."""
    rows, tokenizer = text(config)
    checkpoints = Checkpoints(folder / 'checkpoints', 2)
    loop = Loop(one_device_setup(config), rows, tokenizer, checkpoints, {'data': 'test'})
    with MetricWriter(folder, loop.restore()) as writer:
        loop.run(0, writer)
    checkpoints.close()
    return loop


def train_group(runs, folder, at_once=None, change=lambda loop: None):
    """Trains, or continues, a group in FOLDER/0, FOLDER/1, ...; returns its loop after the last step."""
    setup = GroupSetup.from_configs(runs)
    if at_once is not None:
        setup = GroupSetup(setup.config, setup.mesh, setup.runs, at_once)
    folders = [folder / str(place) for place in range(len(runs))]
    members = [
        Member(run, Checkpoints(own / 'checkpoints', 2), {'data': 'test', 'config': to_dict(run.config)})
        for run, own in zip(setup.runs, folders, strict=True)
    ]
    rows, tokenizer = text(runs[0])
    loop = GroupLoop(setup, rows, tokenizer, members, lambda: None)
    start = loop.restore()
    for place, member in loop.alive.items():
        member.writer = MetricWriter(folders[place], start)
    change(loop)
    try:
        loop.run(start, SilentWriter())
    finally:
        for member in members:
            member.checkpoints.close()
            member.writer.close()
    return loop


def curve(folder):
    """What must be the same, of every line."""
    return [
        [record['kind'] == 'train', record['step'], *(record.get(name, 0.0) for name in FIGURES)]
        for record in read_metrics(folder / 'metrics.jsonl')
    ]


def compare(folder: Path, at_once=None, own=OWN, **changes) -> dict:
    """Trains a group and each of its runs alone.

    Returns:
      'devices' of the group; the largest relative difference of the 'curves', and of the 'parameters' that are trained
      and evaluated; 'apart': the least difference between the losses of two runs.
    """
    runs = configs(own, **changes)
    group = train_group(runs, folder / 'group', at_once)
    curves, parameters, losses = [], [], []
    for place, (config, state) in enumerate(zip(runs, group.states(), strict=True)):
        alone = train_alone(config, folder / 'alone' / str(place))
        ours, theirs = (np.array(curve(folder / name / str(place))) for name in ('group', 'alone'))
        curves.append(np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))))
        both = [(s.params, evaluation_params(s.opt_state, s.params)) for s in (state, alone.state)]
        parameters.append(largest_difference(*both))
        losses.append(theirs[:STEPS, 2])
    apart = min(np.max(np.abs(a - b)) for i, a in enumerate(losses) for b in losses[:i])
    result = {'curves': max(curves), 'parameters': max(parameters), 'apart': apart}
    return {name: float(value) for name, value in result.items()} | {'devices': group.setup.mesh.size}


CASES = {
    'causal': {},
    'masked': {'objective__kind': 'masked', 'objective__rate': 0.3},
    'masked, muon': {'objective__kind': 'masked', 'objective__rate': 0.3, 'optimizer__kind': 'muon'},
    'hybrid, schedule-free, accumulation': {
        'objective__kind': 'hybrid',
        'optimizer__kind': 'schedule_free',
        'optimizer__schedule': 'constant',
        'training__accumulation': 2,
    },
    'a memory of the rows before': {
        'model__architecture': 'lstm',
        'model__init__std': 0.3,  # or all runs learn the same in so few steps
        'data__order': 'contiguous',
    },
    'a switch, an average': {
        'objective__switch': 'masked@4',
        'optimizer__average': 0.5,
        'optimizer__schedule': 'linear',
    },
}


if __name__ == '__main__':
    print(json.dumps(compare(Path(sys.argv[1]), own=[*OWN, {'seed': 2}])))
