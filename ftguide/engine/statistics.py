"Shares, means and differences with their 95 % intervals, and how many rows a decision needs: each once."

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from scipy.special import ndtri, stdtrit  # quantiles; scipy.stats takes half a second longer to import

__all__ = ["Score", "bootstrap", "mean_over_seeds", "required_sample_size", "wilson", "win_rate"]

CONFIDENCE = 0.95  # of every interval in this package
POWER = 0.8  # share of repetitions in which a true difference is to be shown
Z_INTERVAL = float(ndtri(0.5 + CONFIDENCE / 2))  # 1.96 standard errors reach from the middle to an end
QUANTILES = [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2]


@dataclass
class Score:
    "A measured share with its 95 % interval."

    value: float
    low: float
    high: float
    n: int  # rows it rests on

    def __str__(self):
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    pairs: Sequence[tuple],  # (numerator, denominator) of each row
    against: Sequence[tuple] | None = None,  # the same rows under another model: the two are compared
    n: int = 1000,  # resamples
    seed: int = 0,
    how: str = "ratio",  # of the comparison; or "difference"
) -> Score:  # of sum(numerators) / sum(denominators), or of the ratio or difference of two such shares
    """95 % bootstrap interval over rows (Efron 1979); paired, when another model answered the same rows.

    A ratio to a share that is 0 in 2.5 % of the resamples or more has no upper end (Fieller 1954): it is nan.
    """
    if not len(pairs):
        raise ValueError("no rows to resample: the test set is empty, or no row has this metric")
    if how not in _COMPARISONS:
        raise ValueError(f"how must be {' or '.join(_COMPARISONS)}, not {how!r}")
    if against is not None and len(pairs) != len(against):
        raise ValueError(f"a paired interval needs the same rows: {len(pairs)} against {len(against)}")
    rows = np.asarray(pairs, float)
    resamples = np.random.default_rng(seed).integers(0, len(rows), (n, len(rows)))
    measured, draws = _share(rows), _share(rows[resamples])
    if against is not None:
        others = np.asarray(against, float)
        other_draws = _share(others[resamples])
        if how == "ratio" and np.mean(other_draws <= 0) >= QUANTILES[0]:
            return Score(math.nan, math.nan, math.nan, len(rows))
        compare = _COMPARISONS[how]
        measured, draws = compare(measured, _share(others)), compare(draws, other_draws)
    low, high = np.quantile(draws, QUANTILES)
    return Score(float(measured), float(low), float(high), len(rows))


def _share(rows: np.ndarray) -> np.ndarray:  # (..., rows, 2) -> (...)
    return rows[..., 0].sum(-1) / np.maximum(rows[..., 1].sum(-1), 1e-12)


def _ratio(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one / np.maximum(other, 1e-12)


_COMPARISONS = {"ratio": _ratio, "difference": np.subtract}


def wilson(
    right: float,  # of n; half a point for a tie is fine
    n: int,
) -> Score:
    "A share with its 95 % interval in closed form (Wilson 1927); also honest when all rows are right."
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"{right} right of {n} rows is no share")
    share, z_squared = right / n, Z_INTERVAL**2
    shrink = 1 + z_squared / n
    middle = (share + z_squared / (2 * n)) / shrink
    half = Z_INTERVAL / shrink * math.sqrt(share * (1 - share) / n + z_squared / (4 * n * n))
    return Score(share, max(middle - half, 0.0), min(middle + half, 1.0), n)


def win_rate(
    verdicts: Sequence[float],  # of each comparison: 1 won, -1 lost, 0 tie; between, for several raters
) -> Score:  # 0..1
    "Share of comparisons won, ties counting half."
    return bootstrap([((verdict + 1) / 2, 1) for verdict in verdicts])


def mean_over_seeds(
    values: Sequence[float],  # one a run
) -> Score:  # nan for the ends of a single run
    "Mean of independent runs with its 95 % interval (Student 1908)."
    n, middle = len(values), mean(values)
    half = stdtrit(n - 1, QUANTILES[1]) * stdev(values) / n**0.5 if n > 1 else math.nan
    return Score(middle, middle - half, middle + half, n)


def required_sample_size(
    score: Score,  # a share, or a paired difference or ratio
    bound: float = 0.0,  # what the interval is to leave out
    power: float = POWER,  # share of repetitions in which it then does, if the value is what was measured
) -> int | None:  # rows in all; None where the value is the bound, and no number of rows would tell
    """How many rows would tell a value from a bound.

    The standard error s of n rows is read from the interval: its ends are 1.96 s from the middle. With N
    rows it is s √(n/N). The end that faces the bound passes it with probability `power` when the distance d
    of value and bound is 1.96 + z(power) such errors: N = n ((1.96 + z(power)) s / d)² (Cohen 1988, ch. 2).
    For a power of 0.8, z is 0.84.
    """
    if not score.low <= bound <= score.high:
        return score.n
    distance, error = abs(score.value - bound), (score.high - score.low) / (2 * Z_INTERVAL)
    if distance < 1e-9 or error == 0:
        return None
    errors = Z_INTERVAL + float(ndtri(power))
    return max(math.ceil(score.n * (errors * error / distance) ** 2), score.n + 1)
