"Intervals and sample sizes against closed forms, scipy and simulations."

import math
import random

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from ftguide.engine.statistics import (
    Score,
    bonett_price,
    bootstrap,
    interval,
    mean_over_seeds,
    quantile,
    required_sample_size,
    values_for_quantile,
    wilson,
    win_rate,
)


def test_wilson_is_scipys():
    for k, n in ((0, 1), (1, 1), (0, 20), (20, 20), (3, 7), (800, 1000)):
        theirs = binomtest(k, n).proportion_ci(method="wilson")
        assert (wilson(k, n).low, wilson(k, n).high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = random.Random(0)
    level = [rng.random() for _ in range(200)]
    a, b = [(x, 1) for x in level], [(min(x + 0.05, 1), 1) for x in level]
    d = bootstrap(b, a, how="difference")
    assert 0 < d.low <= d.value <= d.high < 0.06
    assert d.high - d.low < 0.2 * (bootstrap(a).high - bootstrap(a).low)
    with pytest.raises(ValueError, match="how must be"):
        bootstrap(a, b, how="quotient")
    with pytest.raises(ValueError, match="no rows"):
        bootstrap([])
    with pytest.raises(ValueError, match="same rows"):
        bootstrap(a, b[:3])


def test_a_ratio_to_nothing_has_no_interval():
    some, none = [(1, 1)] * 5, [(0, 1)] * 5
    assert math.isnan(bootstrap(some, none).value) and math.isnan(bootstrap(some, none).high)
    assert bootstrap(some, none, how="difference").value == 1


def test_means_over_seeds():
    assert str(mean_over_seeds([1.0, 2.0, 3.0])) == "2.000 [-0.484, 4.484]"  # 2 ± 4.303 · 1 / √3
    assert mean_over_seeds(list(range(11))).high == pytest.approx(5 + 2.228 * 11**0.5 / 11**0.5, abs=0.001)
    assert math.isnan(mean_over_seeds([1.0]).low) and mean_over_seeds([1.0]).value == 1


def test_ties_count_half():
    assert win_rate([1, 0, -1, 1]).value == 0.625


def test_required_sample_size_by_hand():
    score = Score(0.2, 0.1, 0.3, 40)  # standard error 0.1 / 1.96; the distance is 0.05
    by_hand = 40 * ((1.959964 + 0.841621) * (0.1 / 1.959964) / 0.05) ** 2
    assert required_sample_size(score, 0.15) == required_sample_size(score, 0.25) == math.ceil(by_hand) == 327
    assert required_sample_size(score, 0.15, power=0.5) == 160  # where chance decides: 40 · (0.1 / 0.05)²
    assert required_sample_size(score, 0.0) == 40  # it tells already
    assert required_sample_size(score, 0.2) is None
    assert required_sample_size(Score(0.0, 0.0, 0.0, 9), 0.0) is None


def test_four_of_five_repetitions_tell():
    "Experiments of the size it asks for leave the bound out about four times in five."
    rng = random.Random(0)
    drawn = lambda n: [(0.1 + rng.gauss(0, 0.4), 1) for _ in range(n)]
    nothing = lambda rows: [(0.0, 1)] * len(rows)
    error = 0.4 / 30**0.5
    n = required_sample_size(Score(0.1, 0.1 - 1.96 * error, 0.1 + 1.96 * error, 30), 0.0)
    samples = [drawn(n) for _ in range(200)]
    shown = sum(bootstrap(x, nothing(x), n=300, how="difference").low > 0 for x in samples) / 200
    assert 0.7 < shown < 0.9


def coverage(intervals, truth):
    "Share of intervals that hold the truth."
    return sum(s.low - 1e-9 <= truth <= s.high + 1e-9 for s in intervals) / len(intervals)


@pytest.mark.parametrize("n", [10, 20, 50])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.8, 0.97])
def test_a_share_of_right_and_wrong_rows_keeps_its_level(rate, n):
    "Exactly, over all numbers of right rows; resampling holds 0.02 in 29 of 100 tests of 20 rows."
    held = lambda make: sum(
        binom.pmf(k, n, rate) for k in range(n + 1) if (s := make(k)).low <= rate <= s.high
    )
    rows = lambda k: [(1, 1)] * k + [(0, 1)] * (n - k)
    assert held(lambda k: interval(rows(k))) > 0.9
    if (rate, n) == (0.02, 20):
        assert held(lambda k: bootstrap(rows(k))) < 0.4


def test_no_kind_of_share_has_an_interval_without_width():
    for rows in ([(0, 1)] * 20, [(1, 1)] * 4, [(0.5, 1)] * 4, [(3, 3)] * 5, [(0.2, 1)]):
        for s in (interval(rows), interval(rows, rows, how="difference")):
            assert s.high - s.low > 0.1, rows
    assert interval([(0, 1)] * 20) == wilson(0, 20) and interval([(1, 1)] * 4) == wilson(4, 4)
    assert interval([(2.5, 1)] * 3).low == 2.5  # nats, of which nobody knows the limits
    assert math.isnan(interval([(2.5, 1)]).low)


def test_a_difference_of_right_and_wrong_rows_by_hand():
    "Bonett and Price (2012), equation 4, on 3 better and 1 worse of 18 rows: of 20 they are 4 and 2."
    half = 1.959964 * math.sqrt((0.2 + 0.1 - 0.1**2) / 20)
    s = interval([(1, 1)] * 3 + [(0, 1)] * 15, [(0, 1)] * 3 + [(1, 1)] + [(0, 1)] * 14, how="difference")
    assert (s.value, s.low, s.high) == pytest.approx((2 / 18, 0.1 - half, 0.1 + half), abs=1e-6)
    with pytest.raises(ValueError, match="no shares"):
        bonett_price(3, 3, 5)
    with pytest.raises(ValueError, match="same rows"):
        interval([(1, 1)] * 2, [(1, 1)] * 3, how="difference")


KINDS = {  # differences of two models, row by row, with their true mean
    "rarely better": (lambda rng, n: (rng.random(n) < 0.07).astype(float), 0.07),
    "better or worse": (lambda rng, n: rng.choice([1.0, 0.0, -1.0], n, p=[0.3, 0.5, 0.2]), 0.1),
    "the same model": (lambda rng, n: rng.choice([1.0, 0.0, -1.0], n, p=[0.1, 0.8, 0.1]), 0.0),
    "grades": (lambda rng, n: np.clip(rng.normal(0.05, 0.1, n), -1, 1), 0.05),
    "grades, some rows": (lambda rng, n: (rng.random(n) < 0.3) * rng.beta(2, 2, n), 0.15),
}


@pytest.mark.parametrize("n", [6, 10, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_paired_differences_of_few_rows_keep_their_level(kind, n):
    "At least 0.9 of 300 repetitions; with resampling alone, 0.53 of the first kind at ten rows."
    draw, truth = KINDS[kind]
    rng = np.random.default_rng(0)
    intervals, lower = [], 0
    for _ in range(300):
        differences = draw(rng, n)
        new = [(max(d, 0.0), 1) for d in differences]
        old = [(max(-d, 0.0), 1) for d in differences]
        intervals.append(interval(new, old, how="difference"))
        lower += intervals[-1].low > truth
    assert coverage(intervals, truth) > 0.88
    assert lower / 300 < 0.06  # what a gate would let pass by luck


def test_ratios_of_few_rows_stay_above_0():
    rng = np.random.default_rng(1)
    for _ in range(50):
        new, old = ([(v, 1) for v in rng.uniform(0.2, 1, 5)] for _ in range(2))
        s = interval(new, old)
        assert 0 <= s.low <= s.value <= s.high < math.inf
    assert interval([(1, 1)] * 5, [(1, 1)] * 5).low < 0.7  # the same on five rows is not the same


def test_many_rows_are_resampled_as_ever():
    rng = random.Random(2)
    rows = [(rng.random(), 1) for _ in range(50)]
    assert interval(rows) == bootstrap(rows)
    few = interval(rows[:10])
    assert few.high - few.low == pytest.approx(
        2.262157 / 1.959964 * math.sqrt(10 / 9) * (lambda s: s.high - s.low)(bootstrap(rows[:10]))
    )


def test_a_win_rate_needs_a_verdict():
    assert math.isnan(win_rate([]).value) and win_rate([]).n == 0
    ties, led = win_rate([0] * 20), win_rate([1] * 6 + [0] * 34)
    assert ties.low < 0.45 < 0.55 < ties.high  # a judge that follows positions is not sure of one half
    assert led.value == 0.575 and led.low > 0.5  # as the sign test of 6 of 6 says: p = 0.03
    assert win_rate([0.5] * 10).low < 0.7 < win_rate([0.5] * 10).value


def test_a_quantile_needs_values():
    assert (values_for_quantile(), values_for_quantile(0.99), values_for_quantile(0.5)) == (59, 299, 5)
    assert 0.95**59 < 0.05 < 0.95**58  # the chance that all values lie below it
    assert quantile([1.0] * 58) is None and quantile([]) is None
    rng = np.random.default_rng(3)
    for n in (59, 200):
        found = [quantile(rng.exponential(size=n)) for _ in range(400)]
        assert coverage(found, math.log(20)) > 0.92
        assert all(s.low <= s.value <= s.high for s in found)
