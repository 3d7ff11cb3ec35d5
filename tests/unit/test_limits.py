"How much, and how often: limits are whole numbers, and an address is what one customer is given."

import pytest

from ftguide.serving.errors import PageError
from ftguide.serving.limits import Limits, RateLimiter, one_visitor


def test_an_address_may_call_so_often_in_a_minute():
    now = [0.0]
    allowed = RateLimiter(2, seconds=60, clock=lambda: now[0])
    assert [allowed("ana") for _ in range(3)] == [True, True, False]
    assert allowed("ben")
    now[0] = 61.0
    assert allowed("ana")


def test_a_forgiven_call_is_not_counted():
    allowed = RateLimiter(2, clock=lambda: 0.0)
    for _ in range(5):
        assert allowed("ana")
        allowed.forgive("ana")
    allowed.forgive("nobody")
    assert [allowed("ana") for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9"])
def test_a_limit_is_a_whole_number_above_0(value):
    with pytest.raises(PageError, match="per_minute must be a whole number above 0"):
        Limits(per_minute=value)


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::1", "127.0.0.1", False),
        ("a name", "a name", True),
        ("", "a name", False),
    ],
)
def test_who_is_counted_as_one(one, other, same):
    assert (one_visitor(one) == one_visitor(other)) is same
