"""From an experiment to its cells, stage by stage, with runs that are written rather than trained."""

import dataclasses
import json
import types

import numpy as np
import pytest

from gpt2jax.data.tokenizers import make_tokenizer
from gpt2jax.errors import UserError
from gpt2jax.evaluation.suites import slug_of
from gpt2jax.report.study_files import write_study_report
from gpt2jax.studies import Study, arm, chain, param
from gpt2jax.studies.cells import add_attempt, progress_of, suites_cell
from gpt2jax.studies.evidence import study_evidence
from gpt2jax.studies.findings import find
from gpt2jax.studies.layout import lay_out
from gpt2jax.studies.planning import SPEED_STEPS
from gpt2jax.studies.results import read_result
from gpt2jax.studies.study import Experiment, check

SMALL = {
    'data.tokenizer': 'bytes',
    'data.length': 32,
    'model.num_layers': 1,
    'model.width': 32,
    'model.attention.num_heads': 2,
    'training.steps': 100,
    'training.batch_size': 4,
    'optimizer.warmup_steps': 10,
    'evaluation.every': 25,
}
ARMS = chain(arm('one', {'training.batch_size': 4}), arm('two', {'training.batch_size': 8}))


def make_experiment(**changes):
    fields = {'base': 'configs/laptop.py', 'changes': SMALL, 'arms': ARMS, 'seeds': (0, 1, 2)}
    study = Study(**fields | changes)
    experiment = Experiment('wide', 'experiments/wide.py', study, 'Is it?', 'Read it.', (), 'f' * 64)
    check(experiment)
    return experiment


@pytest.fixture(name='prepare', scope='module')
def make_prepare():
    """A corpus of random bytes."""
    tokenizer = make_tokenizer('bytes')
    stream = np.random.default_rng(0).integers(0, 256, 40_000, dtype=np.int32)
    tokens = types.SimpleNamespace(tokens=stream, num_tokens=len(stream))
    prepared = types.SimpleNamespace(splits={'train': tokens}, tokenizer=tokenizer)
    return lambda config: prepared


class Writer:
    """Brings a cell to its end by writing what a run would leave.

    Args:
      value: cell -> bits per byte; None: the run fails, twice.
      seconds: cell -> of a step.
    """

    def __init__(self, value=lambda cell: 2.0, seconds=lambda cell: 0.01):
        self.value, self.seconds, self.stages = value, seconds, []

    def __call__(self, cells):
        self.stages.append([cell.name for cell in cells])
        for cell in cells:
            if progress_of(cell).status == 'finished':
                continue
            cell.folder.mkdir(parents=True, exist_ok=True)
            value = self.value(cell)
            if value is None:
                add_attempt(cell, 2, 'the loss is nan', 'now')
                add_attempt(cell, 2, 'the loss is nan', 'now')
                continue
            lines = []
            for step in range(10, cell.steps + 1, 10):
                about = {'step': step, 'seconds': step * self.seconds(cell), 'tokens': 0}
                lines.append(about | {'kind': 'train', 'loss': 3.0, 'predicted': step * 100})
            for step in sorted({cell.steps // 4, cell.steps // 2, cell.steps}):
                score = value + 1 - step / cell.steps
                lines.append({'kind': 'evaluation', 'step': step, 'split': 'validation', 'bits_per_byte': score})
                lines[-1] |= {'predicted': 5, 'bytes': 7}  # of the split, not of the run
            (cell.folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
            (cell.folder / 'run.json').write_text(json.dumps({'finished': 'now', 'device': 'cpu', 'versions': {}}))


def test_arms_get_the_steps_that_cost_the_same(tmp_path, prepare):
    writer = Writer()
    layout = lay_out(make_experiment(), tmp_path, prepare, writer)
    assert layout.complete
    steps = {(cell.arm, cell.seed): cell.steps for cell in layout.cells}
    assert steps == {('one', seed): 100 for seed in range(3)} | {('two', seed): 50 for seed in range(3)}
    two = next(cell for cell in layout.cells if cell.arm == 'two')
    assert (two.config.optimizer.warmup_steps, two.config.evaluation.every) == (5, 12)
    assert [cell.seed for cell in layout.cells] == [0, 0, 1, 1, 2, 2]  # a study that is stopped has all arms
    assert layout.cells[0].changes['training.batch_size'] == 4
    assert 'training.batch_size' not in two.changes  # the base has it


def test_several_matchings_share_the_runs_that_are_the_same(tmp_path, prepare):
    layout = lay_out(make_experiment(match=('tokens', 'predicted', 'flops')), tmp_path, prepare, Writer())
    assert len(layout.cells) == 6
    assert {cell.matches for cell in layout.cells} == {('tokens', 'predicted', 'flops')}
    wide = chain(arm('one'), arm('wide', {'model.width': 64}))
    layout = lay_out(make_experiment(arms=wide, match=('tokens', 'flops')), tmp_path, prepare, Writer())
    matches = sorted({(cell.arm, cell.matches, cell.steps) for cell in layout.cells})
    assert matches[0] == ('one', ('tokens', 'flops'), 100)
    assert [row[:2] for row in matches[1:]] == [('wide', ('flops',)), ('wide', ('tokens',))]
    assert matches[1][2] < matches[2][2] == 100


def test_seconds_are_measured_first_and_once(tmp_path, prepare):
    writer = Writer(seconds=lambda cell: 0.01 if cell.arm == 'one' else 0.04)
    experiment = make_experiment(match='seconds')
    nothing_yet = lay_out(experiment, tmp_path, prepare, lambda cells: None)
    assert not nothing_yet.complete
    assert {cell.role for cell in nothing_yet.cells} == {'speed'}
    layout = lay_out(experiment, tmp_path, prepare, writer)
    assert {cell.steps for cell in layout.cells if cell.role == 'speed'} == {SPEED_STEPS}
    assert {(cell.arm, cell.steps) for cell in layout.cells if cell.role == 'run'} == {('one', 100), ('two', 25)}
    slower = Writer(seconds=lambda cell: 5.0)
    again = lay_out(experiment, tmp_path, prepare, slower)
    assert [cell.folder for cell in again.cells] == [cell.folder for cell in layout.cells]


def test_each_arm_keeps_the_setting_that_was_best_for_it(tmp_path, prepare):
    def value(cell):
        rate = cell.config.optimizer.learning_rate
        if rate == 0.1:
            return None  # diverges
        return abs(rate - (0.001 if cell.arm == 'one' else 0.01)) + 0.001 * cell.seed

    tune = param('optimizer.learning_rate', 0.001, 0.01, 0.1)
    experiment, writer = make_experiment(tune=tune, tune_seeds=(7,)), Writer(value)
    layout = lay_out(experiment, tmp_path, prepare, writer)
    assert {name: setting.name for name, setting in layout.chosen.items()} == {
        'one': 'learning_rate=0.001',
        'two': 'learning_rate=0.01',
    }
    runs = [cell for cell in layout.cells if cell.role == 'run']
    assert {(cell.arm, cell.config.optimizer.learning_rate) for cell in runs} == {('one', 0.001), ('two', 0.01)}
    assert {cell.seed for cell in layout.cells if cell.role == 'tune'} == {7}
    evidence = study_evidence(experiment, layout.cells, layout.chosen, 'python launch.py study')
    assert 'a better one may lie beyond it: one (learning_rate=0.001).' in evidence.notices[0]
    write_study_report(evidence, tmp_path)
    text = (tmp_path / 'report.html').read_text()
    assert 'Tuning: bits per byte of each setting' in text
    assert '2 runs of the tuning failed' in text


def test_an_arm_whose_settings_all_fail_ends_the_study_with_words(tmp_path, prepare):
    experiment = make_experiment(tune=param('optimizer.learning_rate', 0.1, 0.2))
    with pytest.raises(UserError, match=r"arm 'one': no setting can be chosen, .*the loss is nan"):
        lay_out(experiment, tmp_path, prepare, Writer(lambda cell: None))


def test_more_seeds_and_arms_leave_what_is_finished(tmp_path, prepare):
    before = lay_out(make_experiment(), tmp_path, prepare, Writer())
    arms = chain(ARMS, arm('three', {'model.width': 64}))
    after = lay_out(make_experiment(arms=arms, seeds=(0, 1, 2, 3)), tmp_path, prepare, lambda cells: None)
    assert {cell.folder for cell in before.cells} < {cell.folder for cell in after.cells}
    status = [progress_of(cell).status for cell in after.cells]
    assert (status.count('finished'), status.count('waiting')) == (6, 6)


def test_the_cost_in_the_report_is_what_was_spent(tmp_path, prepare):
    experiment = make_experiment()
    layout = lay_out(experiment, tmp_path, prepare, Writer())
    evidence = study_evidence(experiment, layout.cells, {}, 'c')
    one, two = evidence.results[:2]
    assert one.totals['tokens'] == two.totals['tokens'] == 100 * 4 * 32
    assert one.totals['predicted'] == 100 * 100
    assert one.totals['seconds'] == pytest.approx(1.0)
    assert one.totals['flops'] == pytest.approx(two.totals['flops'])
    assert one.totals['causal_flops'] < one.totals['flops']
    assert one.curve[0]['step'] == 25
    assert one.curve[0]['predicted'] == pytest.approx(2500)  # between two lines
    assert one.value('bits_per_byte') == 2.0


def write_suites(cell, figures, step=None):
    """What `evaluate --suite` leaves."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    for suite in cell.suites:
        record = {'suite': suite, 'step': step or cell.steps, 'figures': figures}
        (cell.folder / f'{slug_of(suite)}.json').write_text(json.dumps(record))


def test_a_run_counts_when_its_suites_are_measured_too(tmp_path, prepare):
    experiment, stages = make_experiment(suites=('cloze', 'length:64'), seeds=(0, 1)), []
    writer = Writer()

    def stage(cells):
        if not cells:
            return
        stages.append([cell.name for cell in cells])
        if cells[0].role == 'suites':
            for cell in cells[:-1]:
                write_suites(cell, {'cloze_accuracy': 0.5 + cell.seed / 10, 'text': 'no number'})
            write_suites(cells[-1], {'cloze_accuracy': 0.9}, step=3)  # of another step: not this run's end
        else:
            writer(cells)

    layout = lay_out(experiment, tmp_path, prepare, stage)
    assert stages[1] == ['one, seed 0, suites', 'two, seed 0, suites', 'one, seed 1, suites', 'two, seed 1, suites']
    assert {cell.role for cell in layout.cells} == {'run'}  # a suite spends nothing that is matched
    one, _, _, last = results = [read_result(cell) for cell in layout.cells]
    assert [result.status for result in results] == ['finished'] * 3 + ['begun']
    assert one.figures == {'bits_per_byte': 2.0, 'cloze_accuracy': 0.5}
    assert last.value('bits_per_byte') is None
    evidence = study_evidence(experiment, layout.cells, {}, 'c')
    assert find(evidence, 'bits_per_byte').verdict == 'unfinished'

    measured = suites_cell(layout.cells[-1])
    words = measured.arguments()
    assert words[:3] == ['evaluate', f'--workdir={layout.cells[-1].folder}', '--step=latest']
    assert words[3:] == ['--suite=cloze', '--suite=length:64']
    write_suites(dataclasses.replace(measured, suites=('cloze',)), {'cloze_accuracy': 0.7})
    assert measured.arguments()[3:] == ['--suite=length:64']
    for _ in range(2):
        add_attempt(measured, 2, 'no such split', 'now')
    failed = read_result(layout.cells[-1])
    assert (failed.status, failed.error, failed.value('bits_per_byte')) == ('failed', 'no such split', None)


def test_a_wrong_suite_and_a_wrong_goal_are_refused_at_once():
    with pytest.raises(UserError, match=r'suites: clozed: there is no such suite; one of: (.|\n)*goal = '):
        make_experiment(suites=('clozed',), goal=('bits', 2.0))
