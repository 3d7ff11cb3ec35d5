"Numbers as people read them, and reports side by side."

import pytest

from ftguide.engine.tables import markdown, readable, table
from ftguide.evaluation import Report


@pytest.mark.parametrize(
    "value, written",
    [(1444.4, "1,440"), (12_149, "12,100"), (340, "340"), (0.01234, "0.0123"), (-100.2, "-100")],
)
def test_three_digits_without_a_power_of_ten(value, written):
    assert readable(value) == written


def test_a_difference_has_its_sign():
    assert (readable(5280.4, "+"), readable(-3, "+")) == ("+5,280", "-3")


def test_speed_that_was_not_measured_is_empty():
    slow = Report("slow", 1_000, rows={"right": [(1, 1)]}, speed={"latency_p95_ms": 1444.4})
    rows = table([slow, Report("unmeasured", 2_000, rows={"right": [(0, 1)]})])
    assert ["latency p95, ms", "1,440", ""] in rows
    assert ["parameters", "1,000", "2,000"] in rows
    assert "| latency p95, ms | 1,440 |" in markdown([slow])
