"""What the report of a study shows, and what it must not say."""

import csv
import dataclasses
import json
import re

import pytest
from making import FIGURE, draw_study, make_evidence, make_result

from gpt2jax.report.study_files import write_study_report
from gpt2jax.studies.matching import MEASURES


@pytest.fixture(name='write')
def make_write(tmp_path):
    """Writes a report; returns its page and its Markdown."""

    def write(results, **changes):
        page, _ = write_study_report(make_evidence(results, **changes), tmp_path)
        return page.read_text(), (tmp_path / 'report.md').read_text()

    return write


def test_a_report_has_question_answer_tables_and_pictures(write, tmp_path):
    html, markdown = write(draw_study([0.0, -0.1, 0.02], seeds=4))
    for text in (html, markdown):
        assert 'Is one better?' in text
        assert 'B is best: ' in text
        assert 'Read the differences.' in text
        for measure in MEASURES.values():
            assert measure in text
        assert 'jax' in text
        assert 'python launch.py study' in text
    assert html.count('<svg') == 5  # four curves and a forest plot
    assert 'python launch.py train --config.seed=3' in html
    names = {path.name for path in (tmp_path / 'figures').iterdir()}
    assert names == {
        f'{FIGURE}-{what}.{kind}' for what in ('tokens', 'flops', 'seconds', 'differences') for kind in ('png', 'svg')
    }
    assert (tmp_path / 'figures' / f'{FIGURE}-tokens.png').read_bytes().startswith(b'\x89PNG')


def test_what_training_does_not_evaluate_has_no_curve_and_a_goal_has_one(write, tmp_path):
    """Figures of suites and costs of a goal are one number a run: a drawing of them over time would be empty."""
    results = [
        dataclasses.replace(run, figures=run.figures | {'cloze_accuracy': 0.5 + 0.1 * run.seed, 'seconds_to_goal': 9.0})
        for run in draw_study([0.0, -0.1], seeds=3)
    ]
    html, markdown = write(results, decide=('cloze_accuracy', 'seconds_to_goal'), goal=(FIGURE, 2.1))
    assert 'nothing measured yet' not in html
    assert html.count('<svg') == 6  # four curves, of the goal's figure, and two forest plots
    names = {path.name for path in (tmp_path / 'figures').iterdir() if path.suffix == '.png'}
    assert names == {
        *(f'{FIGURE}-{measure}.png' for measure in ('tokens', 'flops', 'seconds')),
        *(f'{figure}-differences.png' for figure in ('cloze_accuracy', 'seconds_to_goal')),
    }
    assert set(re.findall(r'figures/(.*?)\)', markdown)) == names - {f'{FIGURE}-flops.png', f'{FIGURE}-seconds.png'}


def test_markdown_has_the_figures_that_do_not_decide_and_what_was_tuned(write):
    tried = [dataclasses.replace(run, role='tune', setting='rate 0.1') for run in draw_study([0.0, -0.1], seeds=1)]
    _, markdown = write(draw_study([0.0, -0.1], seeds=3) + tried, show=('perplexity',))
    assert '## More figures' in markdown
    assert '## Tuning: ' in markdown
    assert 'rate 0.1' in markdown


def test_the_page_loads_nothing_and_fits_a_phone(write):
    html, _ = write(draw_study([0.0, -0.1], seeds=3))
    assert 'name="viewport" content="width=device-width' in html
    assert "default-src 'none'" in html
    assert not re.search(r'(src|href)="http|@import|url\([^#]|<script', html)
    assert html.count('class="scroll"') == html.count('<table')


def test_texts_from_files_are_escaped(write):
    html, _ = write(draw_study([0.0, -0.1], seeds=3), question='<script>alert(1)</script> | a?', reading='<b>x</b>')
    assert '<script' not in html
    assert '&lt;script&gt;' in html
    assert '<b>x</b>' not in html


def test_the_docstring_is_set_in_paragraphs_and_commands(write):
    html, _ = write(draw_study([0.0, -0.1], seeds=3), reading='Read\nit.\n\n    python launch.py study\n\nThen stop.')
    assert '<p>Read it.</p><pre>python launch.py study</pre><p>Then stop.</p>' in html


def test_one_seed_gives_no_error_bar_and_no_claim(write):
    html, markdown = write(draw_study([0.0, -3.0], seeds=1))
    for text in (html, markdown):
        assert 'One seed an arm: there is no error bar, and so no answer.' in text
        assert 'is best' not in text
        assert 'p = ' not in text
    assert 'one seed, no error bars' in html
    assert 'class="strong"' not in html


def test_intervals_that_overlap_make_no_claim(write):
    html, markdown = write(draw_study([0.0, 0.003], seeds=3))
    for text in (html, markdown):
        assert 'No winner.' in text
        assert 'is best' not in text


def test_matchings_that_disagree_are_shown_side_by_side(write):
    costs = dict.fromkeys(MEASURES, 1.0) | {'seconds': 4.0}
    results = draw_study([0.1], seeds=4, slope=0.5)
    values = [run.figures[FIGURE] - 0.1 + 0.001 * run.seed for run in results]
    results += [make_result('B', seed, value, slope=0.5, cost=costs) for seed, value in enumerate(values)]
    html, markdown = write(results)
    assert 'No winner: it depends on what is matched.' in html
    row = next(line for line in markdown.splitlines() if line.startswith('| A | ') and '★' in line)
    assert [('★' in cell) for cell in row.split('|')[2:-1]] == [False, False, False, False, True]
    assert 'in mid-schedule for the others: a hint only' in markdown


def test_a_failed_run_is_shown_with_its_error_and_its_arm_has_no_mean(write):
    results = draw_study([0.0, -0.1], seeds=3)
    results[4] = dataclasses.replace(results[4], status='failed', error='the <loss> is nan', figures={})
    html, markdown = write(results)
    assert 'failed: the &lt;loss&gt; is nan' in html
    assert 'failed: the <loss> is nan' in markdown
    row = next(line for line in markdown.splitlines() if line.startswith('| B | 2 of 3, 1 failed'))
    assert set(cell.strip() for cell in row.split('|')[3:-1]) == {'–'}
    assert 'B failed in 1 of 3 runs' in html


def test_other_machines_and_quick_tries_are_said(write):
    results = draw_study([0.0, -0.1], seeds=3)
    results[0] = dataclasses.replace(results[0], info={'device': '1 x gpu', 'versions': {'jax': '2.0'}})
    html, _ = write(results, notices=('Not the study as its file has it; changed: training.steps = 20.',))
    assert 'Not the study as its file has it' in html
    assert 'made on different devices, so their seconds do not compare: 1 x cpu; 1 x gpu' in html
    assert 'different versions of the packages' in html


def test_everything_is_there_for_other_programs(write, tmp_path):
    results = draw_study([0.0, -0.1], seeds=3)
    write(results)
    rows = list(csv.DictReader((tmp_path / 'runs.csv').open()))
    assert len(rows) == 6
    assert float(rows[3][FIGURE]) == results[3].figures[FIGURE]
    assert rows[0].keys() >= {'arm', 'seed', 'status', 'matched', *MEASURES}
    saved = json.loads((tmp_path / 'report.json').read_text())
    (finding,) = saved['findings']
    assert (finding['verdict'], finding['winner']) == ('winner', 'B')
    assert finding['pairs'][0]['better'] == 'B'
    assert len(saved['study']['results'][0]['curve']) == 3


def test_the_curves_of_a_study_that_has_not_begun_are_empty_not_broken(write):
    results = [
        make_result(name, seed, 0.0, status='waiting', curve=[], step=0, totals=dict.fromkeys(MEASURES, 0.0))
        for name in 'AB'
        for seed in range(2)
    ]
    html, _ = write(results)
    assert 'Not finished: 0 of 4 runs are done' in html
    assert 'nothing measured yet' in html
