"""The scaling law L(N, D) = E + A / N^alpha + B / D^beta, fitted to finished runs, with intervals.

Hoffmann et al. 2022, section 3.3 and appendix D.2: a Huber loss on the logarithm of the loss, minimized from a grid of
starts. Their own intervals were too narrow and their optimizer stopped too early, as Besiroglu et al. 2024 found; so
here the intervals are a bootstrap over runs, each fitted anew until nothing improves.
"""

import dataclasses
import itertools

import numpy as np
from scipy.optimize import minimize

DELTA = 1e-3  # of the Huber loss, in logarithms: residuals beyond it count by their size, not their square
RESAMPLES = 1000
LEAST_PAIRS = 10  # of N and D: with fewer, hardly any resample has the six that five parameters take
LEVEL = 0.95
PARAMETERS = ('E', 'A', 'B', 'alpha', 'beta')
EXPONENTS = (-1.0, 4.0)  # alpha and beta are looked for in here
LOGS = (-25.0, 10.0)  # and the logarithms of the three terms where the runs are: a term may be nothing
WIDEST = 1.0  # an exponent with a wider interval is not known
STARTS = 8  # of the grid: those that are best before anything is minimized


@dataclasses.dataclass(frozen=True)
class Laws:
    """One law or many.

    Attributes:
      log_terms: [..., 3] the logarithms of A / N^alpha, B / D^beta and E at the centre.
      exponents: [..., 2] alpha and beta.
      centre: log N and log D where `log_terms` are.
    """

    log_terms: np.ndarray
    exponents: np.ndarray
    centre: tuple[float, float]

    def loss(self, n: np.ndarray, d: np.ndarray) -> np.ndarray:
        """L(N, D), of [...] laws; `n` and `d` broadcast against them."""
        reduced = np.exp(self.log_terms[..., 2])
        return self.reducible(n, d) + reduced

    def reducible(self, n: np.ndarray, d: np.ndarray) -> np.ndarray:
        """A / N^alpha + B / D^beta."""
        return self.term(0, n) + self.term(1, d)

    def term(self, which: int, amount: np.ndarray) -> np.ndarray:
        """The term of N (0) or of D (1)."""
        return np.exp(self.log_terms[..., which] - self.exponents[..., which] * (np.log(amount) - self.centre[which]))

    def expanded(self, axes: int) -> 'Laws':
        """The same with axes of length 1 at the end, to be broadcast against as many axes of N and D."""
        shape = self.log_terms.shape[:-1] + (1,) * axes
        return Laws(self.log_terms.reshape(*shape, 3), self.exponents.reshape(*shape, 2), self.centre)

    def parameters(self) -> dict[str, np.ndarray]:
        """E, A, B, alpha and beta."""
        log_a, log_b = (self.log_terms[..., i] + self.exponents[..., i] * self.centre[i] for i in (0, 1))
        values = (self.log_terms[..., 2], log_a, log_b)
        found = dict(zip(('E', 'A', 'B'), map(np.exp, values), strict=True))
        return found | {'alpha': self.exponents[..., 0], 'beta': self.exponents[..., 1]}


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law and how well it is known.

    Attributes:
      law: of all runs.
      laws: of the resamples.
      n, d, loss: [P] parameters, tokens and loss of each run.
      spans: what the terms of N and of D fall by from the least measured N (or D) to the largest, with intervals.
    """

    law: Laws
    laws: Laws
    n: np.ndarray
    d: np.ndarray
    loss: np.ndarray
    spans: tuple[tuple[float, float, float], tuple[float, float, float]]

    @property
    def residuals(self) -> np.ndarray:
        """[P] measured over fitted, minus one."""
        return self.loss / self.law.loss(self.n, self.d) - 1

    def interval(self, name: str) -> tuple[float, float]:
        """Of one of PARAMETERS."""
        return interval(self.laws.parameters()[name])

    @property
    def unknown(self) -> tuple[str, ...]:
        """What of 'alpha' and 'beta' the runs do not tell.

        An exponent is known where its interval is above 0 and not wider than WIDEST, and where its term surely falls by
        more over the measured range than runs scatter around the law.
        """
        found, scatter = [], float(np.median(np.abs(self.residuals)) * self.loss.mean())
        for name, (_, least, _) in zip(('alpha', 'beta'), self.spans, strict=True):
            low, high = self.interval(name)
            if low <= 0 or high - low > WIDEST or least <= scatter:
                found.append(name)
        return tuple(found)

    @property
    def is_floor_known(self) -> bool:
        """Whether E is told from nothing: its interval does not reach down to a tenth of the least loss."""
        return self.interval('E')[0] > 0.1 * self.loss.min()


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle LEVEL of resampled values, over the first axis."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return float(low), float(high)


def fit_law(n: np.ndarray, d: np.ndarray, loss: np.ndarray, groups: np.ndarray | None = None) -> Fit:
    """Fits the law, and again to resamples of the runs.

    Args:
      n, d, loss: [P] parameters, tokens and final loss of each run; every run at the end of its own schedule.
      groups: [P] arm of each run, where arms have several seeds: arms are drawn, and then seeds of each; None: every
        run is an arm.

    Raises:
      ValueError: fewer than LEAST_PAIRS pairs of N and D, or fewer than three different N or D.
    """
    n, d, loss = (np.asarray(values, np.float64) for values in (n, d, loss))
    if not _are_enough(n, d, LEAST_PAIRS):
        raise ValueError(f'a law takes at least {LEAST_PAIRS} pairs of N and D, with three different N and D')
    centre = float(np.log(n).mean()), float(np.log(d).mean())
    x_P, y_P, log_loss_P = np.log(n) - centre[0], np.log(d) - centre[1], np.log(loss)
    best = _minimize(x_P, y_P, log_loss_P, _starts(x_P, y_P, log_loss_P))
    random = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        chosen = _resample(random, n, d, groups)
        data = x_P[chosen], y_P[chosen], log_loss_P[chosen]
        found.append(_minimize(*data, best[None]))  # from elsewhere it finds nothing better, and takes longer
    law, laws = (Laws(t[..., :3], t[..., 3:], centre) for t in (best, np.stack(found)))
    return Fit(law, laws, n, d, loss, (_span(law, laws, 0, n), _span(law, laws, 1, d)))


def _span(law: Laws, laws: Laws, which: int, amounts: np.ndarray) -> tuple[float, float, float]:
    """What a term falls by between the least and the largest amount, with its interval."""
    least, most = amounts.min(), amounts.max()
    value, values = (one.term(which, least) - one.term(which, most) for one in (law, laws))
    return float(value), *interval(values)


def _resample(random: np.random.Generator, n: np.ndarray, d: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Numbers of runs, drawn with replacement; drawn again where too few N or D are left to fit anything."""
    names = np.arange(len(n)) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(names == name) for name in range(names.max() + 1)]
    while True:
        drawn = random.integers(len(members), size=len(members))
        chosen = np.concatenate([random.choice(members[one], len(members[one])) for one in drawn])
        if _are_enough(n[chosen], d[chosen], len(PARAMETERS) + 1):
            return chosen


def _are_enough(n: np.ndarray, d: np.ndarray, pairs: int) -> bool:
    return len(set(zip(n, d, strict=True))) >= pairs and len(set(n)) >= 3 and len(set(d)) >= 3


def _starts(x_P: np.ndarray, y_P: np.ndarray, log_loss_P: np.ndarray) -> np.ndarray:
    """[STARTS, 5] the best points of a grid: exponents, and how the loss is shared among the three terms."""
    middle = float(np.median(log_loss_P))
    rows = []
    for alpha, beta, floor, share in itertools.product(
        (0.15, 0.4, 0.9), (0.15, 0.4, 0.9), (0.1, 0.5, 0.85), (0.15, 0.5, 0.85)
    ):
        rest = np.array([(1 - floor) * share, (1 - floor) * (1 - share), floor])
        rows.append([*(middle + np.log(rest)), alpha, beta])
    grid = np.array(rows)
    values = [_objective(theta, x_P, y_P, log_loss_P)[0] for theta in grid]
    return grid[np.argsort(values)[:STARTS]]


def _minimize(x_P: np.ndarray, y_P: np.ndarray, log_loss_P: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[5] the best end of L-BFGS from all starts."""
    found = [
        minimize(
            _objective,
            start,
            (x_P, y_P, log_loss_P),
            'L-BFGS-B',
            jac=True,
            bounds=[LOGS] * 3 + [EXPONENTS] * 2,
            options={'maxiter': 500, 'maxfun': 600, 'ftol': 1e-10, 'gtol': 1e-6, 'maxcor': 20},
        )
        for start in starts
    ]
    return min(found, key=lambda one: one.fun).x


def _objective(theta: np.ndarray, x_P: np.ndarray, y_P: np.ndarray, log_loss_P: np.ndarray):
    """Sum of the Huber losses in units of DELTA^2, so that an optimizer's tolerances mean something; its gradient."""
    logs_3P = np.stack([theta[0] - theta[3] * x_P, theta[1] - theta[4] * y_P, np.full_like(x_P, theta[2])])
    highest_P = logs_3P.max(0)
    terms_3P = np.exp(logs_3P - highest_P)
    sum_P = terms_3P.sum(0)
    residual_P = (highest_P + np.log(sum_P) - log_loss_P) / DELTA
    slope_P = np.clip(residual_P, -1, 1)
    value = slope_P @ (residual_P - 0.5 * slope_P)
    share_3P = terms_3P * (slope_P / (DELTA * sum_P))
    return value, np.array([*share_3P.sum(1), -share_3P[0] @ x_P, -share_3P[1] @ y_P])
