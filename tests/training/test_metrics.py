"""metrics.jsonl survives crashes, resumes where it should, and stays valid JSON."""

import json
import math

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from gpt2jax.errors import UserError
from gpt2jax.files import replace_file
from gpt2jax.training.metrics import MetricWriter, read_metrics, summarize


def write_run(workdir, steps, resume_step=0):
    with MetricWriter(workdir, resume_step) as writer:
        for step in steps:
            writer.write('train', step, tokens=step * 10, seconds=step * 0.5, loss=1 / step)
    return workdir / 'metrics.jsonl'


def test_lines_come_back_as_they_were_written(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write('train', 3, tokens=30, seconds=1.5, loss=np.float32(2.5), mfu=None)
    assert read_metrics(tmp_path / 'metrics.jsonl') == [
        {'kind': 'train', 'step': 3, 'tokens': 30, 'seconds': 1.5, 'loss': 2.5, 'mfu': None}
    ]


def test_a_resumed_file_equals_one_that_never_stopped(tmp_path):
    whole = write_run(tmp_path / 'whole', range(1, 11))
    write_run(tmp_path / 'stopped', range(1, 8))
    resumed = write_run(tmp_path / 'stopped', range(6, 11), resume_step=5)
    assert resumed.read_bytes() == whole.read_bytes()


def test_resuming_tells_tensorboard_to_forget_later_steps(tmp_path):
    write_run(tmp_path, range(1, 8))
    before = set((tmp_path / 'tensorboard').iterdir())
    write_run(tmp_path, [6], resume_step=5)
    (new,) = set((tmp_path / 'tensorboard').iterdir()) - before
    data, events = new.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], 'little')
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    assert [e.step for e in events if e.HasField('session_log')] == [6]
    tags = {value.tag for event in events for value in event.summary.value}
    assert tags == {'train/loss', 'train/tokens', 'train/seconds'}


def test_a_torn_last_line_is_dropped(tmp_path):
    path = write_run(tmp_path, [1, 2])
    with path.open('ab') as file:
        file.write(b'{"kind": "train", "st')
    assert [r['step'] for r in read_metrics(path)] == [1, 2]
    write_run(tmp_path, [3], resume_step=2)
    assert [json.loads(line)['step'] for line in path.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize('bad', [b'{"kind": "train", "st', b'\x00\x00', b'[1]', b'{"kind": "train"}', b''])
def test_corruption_elsewhere_names_file_and_line(tmp_path, bad):
    path = write_run(tmp_path, [1, 2])
    first, second, _ = path.read_bytes().split(b'\n')
    path.write_bytes(b'\n'.join([first, bad, second, b'']))
    with pytest.raises(UserError, match=r'metrics\.jsonl, line 2'):
        read_metrics(path)
    with pytest.raises(UserError, match='line 2'):
        MetricWriter(tmp_path, 1)
    assert second in path.read_bytes()


def test_non_finite_numbers_stay_valid_json_and_come_back(tmp_path, caplog):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write('train', 1, loss=math.nan, gradient_norm=np.float32('inf'), other=-math.inf)
    assert caplog.text == '', 'TensorBoard must not complain on the terminal'
    path = tmp_path / 'metrics.jsonl'

    def refuse(name):
        raise AssertionError(f'{name} is not JSON')

    json.loads(path.read_text(), parse_constant=refuse)
    (record,) = read_metrics(path)
    assert math.isnan(record['loss'])
    assert (record['gradient_norm'], record['other']) == (math.inf, -math.inf)


def test_the_evaluation_of_the_step_resumed_from_is_not_written_twice(tmp_path):
    for _ in range(2):
        with MetricWriter(tmp_path, 0) as writer:
            writer.write('evaluation', 0, split='validation', bits_per_byte=8.0)
            writer.write('evaluation', 0, split='test', bits_per_byte=8.0)
    assert [r['split'] for r in read_metrics(tmp_path / 'metrics.jsonl')] == ['validation', 'test']


def test_the_history_continues_the_counts_and_finds_the_best(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        for step, score in ((5, math.nan), (10, 2.0), (20, 1.5), (40, 1.7)):
            writer.write('evaluation', step, tokens=step, seconds=1.0, split='validation', bits_per_byte=score)
        writer.write('evaluation', 40, tokens=40, seconds=9.0, split='test', bits_per_byte=0.1)
    with MetricWriter(tmp_path, 40) as writer:
        history = writer.history
    assert (history.step, history.tokens, history.seconds) == (40, 40, 9.0)
    assert history.best_evaluation['step'] == 20
    assert history.last_evaluation['step'] == 40
    assert history.last_evaluation['split'] == 'validation'
    assert summarize([]).best_evaluation is None


def test_an_unreadable_or_unwritable_place_is_an_error_for_the_user(tmp_path):
    with pytest.raises(UserError, match='cannot be read'):
        read_metrics(tmp_path / 'metrics.jsonl')
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'):
        MetricWriter(tmp_path / 'file' / 'run', 0)


def test_a_failed_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    path.write_text('old')

    def no_space(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', no_space)
    with pytest.raises(UserError, match='No space left'):
        replace_file(path, b'new')
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]
