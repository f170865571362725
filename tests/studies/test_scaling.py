"""Scaling laws: a planted one is found, none is found where there is none, and the report says no more than that."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from making import make_evidence, make_result

from gpt2jax.errors import UserError
from gpt2jax.report.study_files import write_study_report
from gpt2jax.studies import arm, budgets, chain, param, product, scaling
from gpt2jax.studies.costs import ModelSize, flops_until, model_size
from gpt2jax.studies.frontier import TokenCost, best_sizes, growth, optima, parabolas, token_cost
from gpt2jax.studies.matching import MEASURES
from gpt2jax.studies.planning import make_plan, run_cells
from gpt2jax.studies.scaling import Laws, fit_law
from gpt2jax.studies.scaling_findings import find_scaling
from gpt2jax.studies.scaling_words import scaling_answer, scaling_caveats
from gpt2jax.studies.study import load_experiment
from gpt2jax.validation import resolve

TRUE = {'E': 1.7, 'A': 60.0, 'B': 300.0, 'alpha': 0.35, 'beta': 0.4}
SIZES = (25e3, 1e5, 2.2e5, 4e5, 9e5)
BUDGETS = (2.5e11, 5e11, 1e12, 2e12, 4e12)


@pytest.fixture(autouse=True)
def make_quick(monkeypatch):
    """Fewer resamples: the tests are of what is done with them."""
    monkeypatch.setattr(scaling, 'RESAMPLES', 40)


def planted(true):
    """The law of these parameters."""
    logs = np.log([max(true['A'], 1e-12), true['B'], true['E']])
    return Laws(logs, np.array([true['alpha'], true['beta']]), (0.0, 0.0))


def draw(seed, noise=0.005, true=None, repeats=1):
    """N, D, FLOPs = 6 N D and noisy losses of every size with every budget."""
    random, law = np.random.default_rng(seed), planted(true or TRUE)
    n, flops = np.array([pair for pair in itertools.product(SIZES, BUDGETS) for _ in range(repeats)]).T
    d = flops / (6 * n)
    return n, d, flops, law.loss(n, d) * np.exp(noise * random.standard_normal(len(n)))


def make_runs(seed=0, true=None, **more):
    """Evidence of a study of scaling."""
    n, d, flops, loss = draw(seed, true=true)
    results, sizes = [], {}
    for index, values in enumerate(zip(n, d, flops, loss, strict=True)):
        name = f'N {values[0]:g}, {values[2]:g} FLOPs'
        cost = dict.fromkeys(MEASURES, values[2] / 1000) | {'tokens': values[1] / 1000}
        results.append(make_result(name, 0, float(values[3]), cost=cost, matches=(), status='finished'))
        sizes[name] = ModelSize(int(values[0]), 50_000 + index % 5)
    fields = {'matches': (), 'sizes': sizes, 'budgets': 'flops', 'seeds': (0,)}
    return make_evidence(results, **fields | more)


def test_a_law_without_noise_is_recovered():
    n, d, _, loss = draw(0, noise=0.0)
    found = fit_law(n, d, loss).law.parameters()
    for name, value in TRUE.items():
        assert found[name] == pytest.approx(value, rel=0.01), name


def test_intervals_hold_a_planted_law():
    """Of six sets with noise, each interval holds the truth in at least four; none of the laws is called unknown."""
    held = dict.fromkeys(TRUE, 0)
    for seed in range(6):
        n, d, _, loss = draw(seed)
        fit = fit_law(n, d, loss)
        assert fit.unknown == ()
        for name, value in TRUE.items():
            low, high = fit.interval(name)
            held[name] += low <= value <= high
            assert high > low
    assert min(held.values()) >= 4
    assert sum(held.values()) < 6 * len(held) or min(held.values()) == 6


def test_more_noise_makes_wider_intervals():
    widths = []
    for noise in (0.001, 0.01):
        n, d, _, loss = draw(0, noise=noise)
        low, high = fit_law(n, d, loss).interval('alpha')
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize('seed', range(3))
def test_a_law_without_parameters_is_not_identified(seed):
    n, d, _, loss = draw(seed, true=TRUE | {'A': 0.0})
    assert 'alpha' in fit_law(n, d, loss).unknown


def test_one_wild_run_does_not_move_the_law():
    n, d, _, loss = draw(1, noise=0.002)
    before = fit_law(n, d, loss).law.parameters()
    loss[12] *= 1.5
    after = fit_law(n, d, loss).law.parameters()
    assert after['alpha'] == pytest.approx(before['alpha'], abs=0.03)
    assert after['beta'] == pytest.approx(before['beta'], abs=0.03)


def test_seeds_of_an_arm_are_drawn_together():
    """Runs that are four times there, of the same loss, make no interval narrower, as they would if each counted."""
    n, d, _, loss = draw(3)
    once = fit_law(n, d, loss).interval('alpha')
    groups = np.repeat(np.arange(len(n)), 4)
    four = fit_law(*(np.repeat(values, 4) for values in (n, d, loss)), groups).interval('alpha')
    assert four[1] - four[0] > 0.8 * (once[1] - once[0])


def test_too_few_points_are_refused():
    n, d, _, loss = draw(0)
    with pytest.raises(ValueError, match='at least 10 pairs'):
        fit_law(n[:9], d[:9], loss[:9])
    with pytest.raises(ValueError, match='three different'):
        fit_law(n[:10], d[:10], loss[:10])


def test_the_best_size_of_a_known_law():
    """Hoffmann et al. 2022, equation 4: N = G (C / 6)^(beta / (alpha + beta)) where C = 6 N D."""
    law, cost = planted(TRUE), TokenCost(np.log([1e4, 1e6]), np.log([6e4, 6e6]))
    alpha, beta = TRUE['alpha'], TRUE['beta']
    scale = (alpha * TRUE['A'] / (beta * TRUE['B'])) ** (1 / (alpha + beta))
    for flops in (1e11, 1e13, 1e15):
        n, d, loss = best_sizes(law, cost, flops)
        assert n == pytest.approx(scale * (flops / 6) ** (beta / (alpha + beta)), rel=1e-3)
        assert d == pytest.approx(flops / (6 * n), rel=1e-6)
        assert loss == pytest.approx(float(law.loss(n, d)))


def test_the_intervals_of_best_sizes_widen_beyond_the_runs():
    n, d, flops, loss = draw(4)
    found = optima(fit_law(n, d, loss), token_cost(n, d, flops), [4e12, 4e14], 4e12)
    assert [one.is_beyond for one in found] == [False, True]
    here, there = (np.log(one.n[2] / one.n[1]) for one in found)
    assert there > 1.5 * here
    assert found[0].n[1] <= found[0].n[0] <= found[0].n[2]


def test_the_count_of_flops_goes_on_in_straight_lines():
    cost = token_cost(np.array([1e4, 1e5, 1e6]), np.ones(3), np.array([1e5, 4e5, 3.2e6]))
    assert cost.of(np.array([1e4, 1e6])) == pytest.approx([1e5, 3.2e6])
    assert cost.of(np.array([1e7, 1e3])) == pytest.approx([2.56e7, 2.5e4])


def test_the_lowest_point_of_an_isoflop_curve():
    n = np.array([1e4, 1e5, 1e6, 1e4, 1e5, 1e6])
    flops = np.repeat([1e12, 4e12], 3) * np.array([1, 1.005, 1, 1, 1, 1])
    d = flops / (6 * n)
    loss = np.concatenate([2 + (np.log10(n[:3]) - 5.2) ** 2, 3 + (np.log10(n[3:]) - 7) ** 2 / 10])
    first, second = parabolas(n, d, flops, loss)
    assert first.best[0] == pytest.approx(10**5.2)
    assert first.best[2] == pytest.approx(2.0)
    assert first.best[1] == pytest.approx(first.flops / (6 * 10**5.2), rel=0.01)
    assert second.best is None  # it falls to the last size
    assert second.flops == pytest.approx(4e12)


def test_the_growth_of_lowest_points():
    flops = np.repeat([1e11, 1e12, 1e13, 1e14], 3)
    best = 5 + 0.5 * (np.log10(flops) - 12)
    log_n = best + np.tile([-0.6, 0.1, 0.7], 4)
    n = 10**log_n
    power, (low, high) = growth(parabolas(n, flops / (6 * n), flops, 2 + (log_n - best) ** 2))
    assert power == pytest.approx(0.5)
    assert (low, high) == pytest.approx((0.5, 0.5))
    assert growth([]) is None


def test_a_finding_has_the_law_its_best_sizes_and_a_check():
    finding = find_scaling(make_runs(), 'bits_per_byte')
    assert finding.verdict == 'fitted'
    assert [one.is_beyond for one in finding.optima] == [False] * 5 + [True] * 2
    assert finding.optima[-1].flops == pytest.approx(4e14)
    assert len(finding.parabolas) == 5
    assert finding.check.runs == 5
    assert finding.check.factor == pytest.approx(2)
    assert max(map(abs, finding.check.errors)) < 0.05
    said = scaling_answer(make_runs(), finding)
    assert 'alpha 0.3' in said
    assert 'Measured: 25 runs of 25k to 900k parameters' in said
    assert 'elsewhere' not in said
    moved = dataclasses.replace(finding.parabolas[-1], best=(9e5, 1e6, 3.0))
    said = scaling_answer(make_runs(), dataclasses.replace(finding, parabolas=[*finding.parabolas[:-1], moved]))
    assert 'elsewhere at 1 of 5 budgets (900k at 4e+12 FLOPs)' in said
    assert any('One seed an arm' in notice for notice in scaling_caveats(make_runs(), finding))


def test_what_is_not_known_is_not_extrapolated(tmp_path):
    evidence = make_runs(true=TRUE | {'A': 0.0})
    finding = find_scaling(evidence, 'bits_per_byte')
    assert (finding.verdict, finding.optima) == ('unknown', [])
    page, (answer,) = write_study_report(evidence, tmp_path)
    assert answer.startswith('No law: these runs do not tell what becomes of the loss with more parameters.')
    assert 'Compute-optimal' not in page.read_text()
    assert not list((tmp_path / 'figures').glob('*extrapolation*'))


def test_an_unfinished_study_has_no_law(tmp_path):
    evidence = make_runs()
    waiting = dataclasses.replace(evidence.results[0], status='waiting', figures={})
    evidence = dataclasses.replace(evidence, results=[waiting, *evidence.results[1:]])
    page, (answer,) = write_study_report(evidence, tmp_path)
    assert answer == 'Not finished: 24 of 25 runs are done, so there is no law yet.'
    assert 'Scaling</h2>' not in page.read_text()


def test_failed_runs_are_said():
    evidence = make_runs()
    lost = dataclasses.replace(evidence.results[3], status='failed', figures={}, error='nan')
    evidence = dataclasses.replace(evidence, results=[*evidence.results[:3], lost, *evidence.results[4:]])
    finding = find_scaling(evidence, 'bits_per_byte')
    assert (finding.failed, len(finding.points)) == (1, 24)
    assert any('1 runs failed and are not in the fit' in notice for notice in scaling_caveats(evidence, finding))


def test_the_report_has_everything(tmp_path):
    page, _ = write_study_report(make_runs(), tmp_path)
    html, markdown = page.read_text(), (tmp_path / 'report.md').read_text()
    for text in (html, markdown):
        for said in ('The law', 'Compute-optimal models', 'Lowest points at equal FLOPs', 'Runs and the law'):
            assert said in text
        assert 'extrapolated' in text
        assert 'is best' not in text
        assert 'Nothing was matched' not in text
    assert html.count('<svg') == 5
    assert 'http' not in html.replace('http-equiv', '')
    names = {path.name for path in (tmp_path / 'figures').iterdir()}
    kinds = ('isoflop', 'fit', 'residuals', 'extrapolation', 'optimal-size')
    assert names == {f'bits_per_byte-scaling-{kind}.{end}' for kind in kinds for end in ('png', 'svg')}
    (saved,) = json.loads((tmp_path / 'report.json').read_text())['scaling']
    value, low, high = saved['parameters']['alpha']
    assert low <= value <= high
    assert len((tmp_path / 'runs.csv').read_text().splitlines()) == 26


FILE = '''"""How does it scale?"""

from gpt2jax.studies import Study, budgets, param, product


def get_study():
    steps = {{'training.steps': 100, 'optimizer.warmup_steps': 10}}
    return Study(base='configs/laptop.py:length=64', changes=steps, {})
'''
ARMS = "arms=product(param('model.width', 64, 128), budgets('flops', 2e11, 8e11))"


@pytest.fixture(name='load')
def make_load(tmp_path):
    """An experiment of these arguments."""

    def load(arguments, **options):
        path = tmp_path / 'scale.py'
        path.write_text(FILE.format(arguments))
        return load_experiment(str(path), **options)

    return load


def test_budgets_are_arms():
    found = product(param('model.width', 64, 128), budgets('tokens', 1e6, 2.5e6))
    assert [one.name for one in found] == [
        f'width={width}, {tokens} tokens' for width in (64, 128) for tokens in ('1e+06', '2.5e+06')
    ]
    assert found[1].budget == ('tokens', 2.5e6)
    assert all(one.budget is None for one in chain(arm('a'), param('model.width', 64)))
    with pytest.raises(UserError, match='another part of its product'):
        product(found, budgets('tokens', 3e6))
    with pytest.raises(UserError, match="budgets\\('seconds'\\): one of tokens, flops"):
        budgets('seconds', 3)
    with pytest.raises(UserError, match='must be above 0'):
        budgets('tokens', -1)


def test_every_arm_runs_for_what_its_budget_pays(load, tmp_path):
    experiment = load(f'{ARMS}, match=()')
    prepared = dataclasses.make_dataclass('P', ['splits', 'tokenizer'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('gpt2jax.studies.costs.count_predicted', lambda config, prepared: 1.0)
        plan = make_plan(experiment, lambda config: prepared({}, None), {})
    cells = run_cells(experiment, tmp_path, plan, {})
    assert len(cells) == 4 * 3
    for cell in cells:
        spent = flops_until(cell.config, cell.steps, 'flops')
        assert spent == pytest.approx(float(cell.arm.split(', ')[1].split()[0]), rel=0.02)
        assert cell.matches == ()
        assert cell.config.optimizer.warmup_steps == pytest.approx(cell.steps / 10, abs=0.51)


def test_a_quick_try_shortens_all_arms_alike(load):
    experiment = load(f'{ARMS}, match=()', sets=['training.steps=20'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('gpt2jax.studies.costs.count_predicted', lambda config, prepared: 1.0)
        plan = make_plan(experiment, lambda config: None, {})
    first, second = [plan.steps[f'width=64, {amount} FLOPs', 'own'] for amount in ('2e+11', '8e+11')]
    assert (first, second) == (20, 80)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (ARMS, "match = 'tokens': arms with budgets spend what they say; set match=\\(\\)"),
        ("arms=param('model.width', 64, 128), match=()", 'match must not be empty'),
        (
            "arms=param('model.width', 64) + product(param('model.width', 128), budgets('tokens', 1e6)), match=()",
            'budgets are of none, tokens: every arm must have one',
        ),
    ],
)
def test_half_a_study_of_scaling_is_refused(load, arguments, message):
    with pytest.raises(UserError, match=message):
        load(arguments)


def test_parameters_are_counted_without_embeddings(load):
    experiment = load(f'{ARMS}, match=()')
    for head, more in (({}, 0), ({'model.head.tied': False}, 1)):
        size = model_size(resolve(experiment.config({'model.width': 64}, head)))
        width, vocabulary = 64, 2176
        matrices, small = 2 * 12 * width**2, 2 * (9 + 4) * width + 2 * width
        assert size.parameters == matrices + small
        assert size.embeddings == (1 + more) * vocabulary * width + 64 * width
        assert size.total == size.parameters + size.embeddings
