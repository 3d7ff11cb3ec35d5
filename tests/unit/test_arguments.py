"Checks of numbers: what counts as one, and that the message names the argument."

import math

import pytest

from ftguide.engine.arguments import (
    is_flag,
    is_number,
    is_whole_number,
    require,
    require_count,
    require_positive,
    require_share,
)


@pytest.mark.parametrize(
    ("value", "number", "whole"),
    [
        (0, True, True),
        (2.5, True, False),
        (3.0, True, True),
        (-1, False, False),
        (True, False, False),
        (math.inf, False, False),
        (math.nan, False, False),
        ("1", False, False),
        (None, False, False),
    ],
)
def test_numbers_are_finite_and_not_negative(value, number, whole):
    assert (is_number(value), is_whole_number(value)) == (number, whole)


def test_flags_are_true_or_false():
    assert [is_flag(value) for value in (True, 0, 1, 2, "1", None)] == [True, True, True, False, False, False]


def test_the_message_names_the_first_wrong_value():
    with pytest.raises(ValueError, match=r"^beta must be even, not 3$"):
        require("even", lambda value: value % 2 == 0, alpha=2, beta=3, gamma=5)
    for check, wrong in ((require_count, 0), (require_positive, -1.0), (require_share, 1.5)):
        check(size=1)
        with pytest.raises(ValueError, match=r"^size must be "):
            check(size=wrong)
