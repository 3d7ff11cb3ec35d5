"Intervals and sample sizes against closed forms, scipy and simulations."

import math
import random

import pytest
from scipy.stats import binomtest

from ftguide.engine.statistics import (
    Score,
    bootstrap,
    mean_over_seeds,
    required_sample_size,
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
