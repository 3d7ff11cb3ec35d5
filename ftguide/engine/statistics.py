"Shares, means and differences with their 95 % intervals, and how many rows a decision needs: each once."

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from scipy.special import bdtr, ndtri, stdtrit  # quantiles; scipy.stats takes half a second longer to import

__all__ = [
    "Score",
    "bonett_price",
    "bootstrap",
    "interval",
    "mean_over_seeds",
    "quantile",
    "required_sample_size",
    "values_for_quantile",
    "wilson",
    "win_rate",
]

CONFIDENCE = 0.95  # of every interval in this package
POWER = 0.8  # share of repetitions in which a true difference is to be shown
Z_INTERVAL = float(ndtri(0.5 + CONFIDENCE / 2))  # 1.96 standard errors reach from the middle to an end
QUANTILES = [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2]
FEW_ROWS = 30  # of fewer, resampling gives intervals that are too narrow, and Student's t widens them


@dataclass
class Score:
    "A measured share with its 95 % interval."

    value: float
    low: float
    high: float
    n: int  # rows it rests on

    def __str__(self):
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(
    rows: Sequence[tuple],  # (numerator, denominator) of each row
    against: Sequence[tuple] | None = None,  # the same rows under another model: the two are compared
    how: str = "ratio",  # of the comparison; or "difference"
    seed: int = 0,
) -> Score:  # of sum(numerators) / sum(denominators), or of the ratio or difference of two such shares
    """The 95 % interval that reports and gates use: for each kind of rows the one that keeps its level.

    Rows that are right or wrong: Wilson's (1927), and of the difference of two models Bonett and Price's
    (2012). Other rows: `bootstrap`, widened by Student's t below 30 rows; and where resampling shows no
    spread at all, what Wilson says of shares between 0 and 1.
    """
    yes_no = _are_yes_no(rows) and (against is None or _are_yes_no(against))
    if yes_no and against is None:
        return wilson(float(sum(numerator for numerator, _ in rows)), len(rows))
    if yes_no and how == "difference" and len(rows) == len(against):
        differences = [one - other for (one, _), (other, _) in zip(rows, against)]
        return bonett_price(differences.count(1), differences.count(-1), len(rows))
    found = bootstrap(rows, against, seed=seed, how=how)
    if math.isnan(found.value):
        return found
    if found.high - found.low <= 1e-9 * max(1.0, abs(found.value)):
        return _without_spread(found, rows, against, how)
    return _widened(found, *_limits(rows, against, how))


def _are_yes_no(rows: Sequence[tuple]) -> bool:
    return len(rows) > 0 and all(denominator == 1 and numerator in (0, 1) for numerator, denominator in rows)


def _are_shares(rows: Sequence[tuple]) -> bool:
    return all(0 <= numerator <= denominator for numerator, denominator in rows)


def _limits(rows, against, how: str) -> tuple[float, float]:  # between which the truth lies for certain
    if not (_are_shares(rows) and _are_shares(against or ())):
        return -math.inf, math.inf
    if against is None:
        return 0.0, 1.0
    return (0.0, math.inf) if how == "ratio" else (-1.0, 1.0)


def _without_spread(found: Score, rows, against, how: str) -> Score:
    "Rows that are all alike: what those may be that the sample does not hold."
    n = found.n
    if not (_are_shares(rows) and _are_shares(against or ())):
        return found if n > 1 else Score(found.value, math.nan, math.nan, n)
    if against is None:
        return wilson(found.value * n, n)
    ours, theirs = (float(_share(np.asarray(pairs, float))) for pairs in (rows, against))
    unseen = wilson(0, n).high  # so large may be the share of rows that differ otherwise
    low, high = (ours - theirs) - unseen * (1 + ours - theirs), (ours - theirs) + unseen * (1 - ours + theirs)
    if how == "difference":
        return Score(ours - theirs, low, high, n)
    return Score(found.value, max(1 + low / theirs, 0.0), 1 + high / theirs, n)


def _widened(found: Score, lowest: float, highest: float) -> Score:
    "Ends moved out as Student's t does: few rows do not show how far they are apart (Hesterberg 2015)."
    if found.n >= FEW_ROWS:
        return found
    factor = float(stdtrit(found.n - 1, QUANTILES[1])) / Z_INTERVAL * math.sqrt(found.n / (found.n - 1))
    low = found.value - factor * (found.value - found.low)
    high = found.value + factor * (found.high - found.value)
    return Score(found.value, max(low, lowest), min(high, highest), found.n)


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
    low = 0.0 if right == 0 else max(middle - half, 0.0)  # exact, where rounding would leave a trace
    high = 1.0 if right == n else min(middle + half, 1.0)
    return Score(share, low, high, n)


def bonett_price(
    better: int,  # rows that only the one model has right
    worse: int,  # rows that only the other has right
    n: int,  # rows
) -> Score:
    """The difference of two shares of the same rows, with its 95 % interval in closed form.

    Bonett and Price (2012): two rows are added, one that got better and one that got worse, so that rows
    which never differ do not mean that none ever would."""
    if not 0 <= better + worse <= n or n < 1:
        raise ValueError(f"{better} better and {worse} worse of {n} rows are no shares")
    up, down = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    half = Z_INTERVAL * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Score((better - worse) / n, max(up - down - half, -1.0), min(up - down + half, 1.0), n)


def win_rate(
    verdicts: Sequence[float],  # of each comparison: 1 won, -1 lost, 0 tie; between, for several raters
) -> Score:  # 0..1; nan without a comparison
    "Share of comparisons won, ties counting half."
    if not len(verdicts):
        return Score(math.nan, math.nan, math.nan, 0)
    if not all(verdict in (-1, 0, 1) for verdict in verdicts):
        return interval([((verdict + 1) / 2, 1) for verdict in verdicts])
    lead = bonett_price(sum(v > 0 for v in verdicts), sum(v < 0 for v in verdicts), len(verdicts))
    return Score(*((end + 1) / 2 for end in (lead.value, lead.low, lead.high)), lead.n)


def values_for_quantile(
    share: float = 0.95,  # such as 0.95 for what one value in twenty exceeds
) -> int:
    "How many values tell a quantile at 95 %: of fewer, it may well lie above the largest."
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(share))


def quantile(
    values: Sequence[float],
    share: float = 0.95,
) -> Score | None:  # None of fewer than `values_for_quantile`: they do not tell
    "A quantile with its 95 % interval between two of the values in order (Thompson 1936)."
    n = len(values)
    if n < values_for_quantile(share):
        return None
    ordered = sorted(values)
    at_most = bdtr(np.arange(n), n, share)  # chance that so many of the values lie below the quantile
    above = min(int(np.searchsorted(at_most, QUANTILES[1])) + 1, n)  # rank of the high end
    left = at_most[above - 1] - CONFIDENCE  # of the 5 %, for the low end
    below = max(int(np.searchsorted(at_most, left)), 1)
    return Score(float(np.quantile(ordered, share)), float(ordered[below - 1]), float(ordered[above - 1]), n)


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
