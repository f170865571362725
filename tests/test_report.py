"""The report: one self-contained, harmless page and one picture, whatever the run went through."""

import html.parser
import io
import json
import math
import re

import matplotlib.image
import numpy as np
import pytest

from gpt2jax.errors import UserError
from gpt2jax.report import write_report
from gpt2jax.report.figures import _thin, like_the_loss
from gpt2jax.report.reading import smooth
from gpt2jax.training.metrics import MetricWriter


def make_run(workdir, losses=(5.0, 4.0, 3.0), scores=((3, 1.5),), **files):
    with MetricWriter(workdir, 0) as writer:
        for step, loss in enumerate(losses, start=1):
            writer.write(
                'train', step, tokens=step * 100, predicted=100, seconds=step * 0.5, loss=loss,
                learning_rate=1e-3, gradient_norm=1.0, tokens_per_second=200.0, mfu=None,
            )  # fmt: skip
        for step, score in scores:
            writer.write(
                'evaluation', step, tokens=step * 100, seconds=step * 0.5, split='validation',
                nats_per_token=2 * score, bits_per_byte=score, perplexity=math.exp(2 * score),
            )  # fmt: skip
    for name, content in files.items():
        (workdir / f'{name}.json').write_text(json.dumps(content))
    return workdir


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    VOID = frozenset({'meta', 'input', 'br', 'path', 'use', 'rect'})

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], '', []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def report(workdir, defaults=None):
    html_path, png_path = write_report(workdir, defaults)
    image = matplotlib.image.imread(io.BytesIO(png_path.read_bytes()), format='png')
    assert min(image.shape[:2]) > 300
    assert image.std() > 0.01, 'the picture is blank'
    page = html_path.read_text('utf-8')
    return page, Reader(page)


def test_the_outcome_names_the_best_step_and_what_it_took(tmp_path):
    page, reader = report(make_run(tmp_path / 'my-run', scores=[(1, 2.0), (2, 1.5), (3, 1.75)]))
    assert 'Best validation: 1.500 bits per byte at step 2 of 3' in reader.text
    assert '300 tokens' in reader.text
    assert '200 tokens a second' in reader.text
    assert '<title>my-run' in page
    assert page.count('<svg') == 3 * 2 + 3
    assert not list((tmp_path / 'my-run').glob('.*.tmp'))


def test_nothing_from_a_file_becomes_markup(tmp_path):
    evil = '<script>alert(1)</script><img src=x onerror=alert(1)>"\'&amp;'
    run = make_run(
        tmp_path / 'a<b>c&d',
        samples=[{'prompt': evil, 'text': f'{evil} and \x00\x1b[31m\ud800 $style', 'step': 3}],
        config={'model': {evil: evil}},
        run={'command': ['python', evil], 'versions': {evil: evil}, 'device': evil},
    )
    page, reader = report(run, {'model': {evil: 'other'}})
    assert {'script', 'img', 'b'}.isdisjoint(reader.tags)
    assert not any(name.startswith('on') for name, _ in reader.attributes)
    assert reader.text.count(evil) >= 8
    assert '\x00' not in page
    assert '$style' in reader.text


def test_the_page_loads_nothing(tmp_path):
    run = make_run(tmp_path, samples=[{'prompt': '', 'text': 'see https://example.com', 'step': 1}])
    page, reader = report(run)
    assert {'link', 'script', 'img', 'iframe', 'object', 'embed', 'base'}.isdisjoint(reader.tags)
    references = [value for name, value in reader.attributes if name in ('src', 'href', 'xlink:href', 'action')]
    assert all(value.startswith('#') for value in references)
    assert '@import' not in page
    assert all(target.startswith('#') for target in re.findall(r'url\(([^)]*)\)', page))
    assert re.findall(r'\w+://[^\s<]*', page) == ['https://example.com']
    assert "default-src 'none'" in page


def test_every_clip_path_a_drawing_refers_to_is_defined_in_the_page(tmp_path):
    page, _ = report(make_run(tmp_path))
    wanted = set(re.findall(r'(?:url\(#|href="#)([^)"]*)', page))
    assert wanted
    assert wanted <= set(re.findall(r'id="([^"]*)"', page))


def test_drawings_take_their_colours_from_the_page(tmp_path):
    page, _ = report(make_run(tmp_path))
    drawings = ''.join(re.findall(r'<svg.*?</svg>', page, flags=re.DOTALL))
    assert 'var(--train)' in drawings
    assert 'var(--score)' in drawings
    assert '#0000' not in drawings


def test_missing_files_are_named_and_the_rest_is_shown(tmp_path):
    _, reader = report(make_run(tmp_path))
    for name in ('config.json', 'run.json', 'samples.json'):
        assert f'{name} is missing' in reader.text


def test_malformed_files_cost_only_their_section(tmp_path):
    run = make_run(tmp_path, config=[], samples=[{'text': 'kept', 'step': 'x'}, {'prompt': 'no text'}, 7])
    (run / 'run.json').write_text('{"command": ')
    _, reader = report(run)
    assert 'config.json does not hold an object' in reader.text
    assert 'run.json cannot be read' in reader.text
    assert 'samples.json has entries without a text' in reader.text
    assert 'kept' in reader.text


@pytest.mark.parametrize(
    ('losses', 'scores', 'says'),
    [
        ((10.8,), (), 'Training loss at step 1: 10.800'),
        ((), (), 'Nothing has been measured yet.'),
        ((), [(3, 1.5)], 'No training step has been measured.'),
        ((5.0, math.nan, math.inf), (), 'The training loss was not finite at 2 steps, the first 2.'),
        ((math.nan,), (), 'Training loss at step 1: not finite'),
        ((5.0, 1e30, 4.0), [(3, math.nan)], 'Validation, nats per token'),
    ],
)
def test_short_unevaluated_and_exploded_runs_have_a_report(tmp_path, losses, scores, says):
    _, reader = report(make_run(tmp_path, losses, scores))
    assert says in reader.text


def test_a_run_without_bytes_is_judged_in_nats(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write('evaluation', 1, tokens=1, seconds=1.0, split='validation', nats_per_token=2.25)
    _, reader = report(tmp_path)
    assert 'Best validation: 2.250 nats per token' in reader.text


def test_a_run_is_judged_by_the_score_it_names(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        for step, nats in ((1, 5.0), (2, 4.5), (3, 4.75)):
            writer.write(
                'evaluation', step, tokens=step, seconds=1.0, split='validation', objective='masked',
                score='masked_nats', masked_nats=nats, masked_accuracy=0.125, bits_per_byte=1.0 + step,
            )  # fmt: skip
    _, reader = report(tmp_path)
    assert 'Best validation: 4.500 nats per hidden token at step 2 of 3' in reader.text
    assert 'hidden tokens right' in reader.text
    assert '12.5%' in reader.text
    assert 'masked accuracy' in reader.text


def test_each_evaluation_is_drawn_beside_the_loss_of_its_objective(tmp_path):
    """A hybrid's loss is a mixture that no figure compares with."""
    objectives = ['causal', 'masked', 'prefix', 'span_corruption', 'hybrid', None]
    names = ['nats_per_token', 'masked_nats', 'prefix_nats', 'span_nats', None, 'nats_per_token']
    figures = {name: float(number) for number, name in enumerate(filter(None, dict.fromkeys(names)), 1)}
    run = [figures | ({'objective': objective} if objective else {}) for objective in objectives]
    np.testing.assert_array_equal(like_the_loss(run), [figures.get(name, np.nan) for name in names])


def test_samples_say_how_they_were_drawn(tmp_path):
    samples = [{'prompt': '', 'text': 'x', 'step': 1, 'method': method} for method in ('infilling', 'causal', 7)]
    _, reader = report(make_run(tmp_path, samples=samples))
    assert reader.text.count('not a sample of a likelihood') == 1


def test_the_configuration_shows_first_what_differs_from_the_defaults(tmp_path):
    config = {'model': {'width': 128, 'bias': True}, 'seed': 0, 'extra': {}}
    defaults = {'model': {'width': 768, 'bias': True}, 'seed': 0}
    page, reader = report(make_run(tmp_path, config=config), defaults)
    changed, whole = page.split('<h2>Configuration</h2>')[1].split('<summary>All 4 keys</summary>')
    assert re.findall(r'<th scope="row">([^<]*)', changed) == ['model.width', 'extra']
    assert '768' in changed
    assert re.findall(r'<th scope="row">([^<]*)', whole)[:2] == ['model.width', 'model.bias']
    assert 'What this run changed.' in reader.text


def test_the_command_is_quoted_for_a_shell(tmp_path):
    _, reader = report(make_run(tmp_path, run={'command': ['python', 'launch.py', '--prompt=a b']}))
    assert "python launch.py '--prompt=a b'" in reader.text


def test_a_long_run_makes_a_small_page(tmp_path):
    losses = list(5 + np.random.default_rng(0).normal(size=20_000))
    losses[12_345] = 14.0
    records = [
        {'kind': 'train', 'step': step, 'tokens': step, 'seconds': step * 0.1, 'loss': loss}
        for step, loss in enumerate(losses, start=1)
    ]
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    page, _ = report(tmp_path)
    assert len(page) < 500_000
    assert _thin(np.arange(20_000.0), np.array(losses))[1].max() == 14.0


def test_no_report_without_metrics(tmp_path):
    with pytest.raises(UserError, match=r'metrics\.jsonl'):
        write_report(tmp_path)


def test_smoothing_keeps_the_level_and_skips_gaps():
    values = np.array([4.0] * 50 + [np.nan] + [4.0] * 49)
    np.testing.assert_allclose(smooth(values), 4.0)
    line = np.linspace(10, 1, 1000)
    assert abs(smooth(line)[500] - line[500]) < 1e-9
    assert smooth(line)[0] == 10
