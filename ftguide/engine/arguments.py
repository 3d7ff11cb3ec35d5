"Checks of the numbers a caller gives, with messages that name the argument."

import math
from collections.abc import Callable
from numbers import Real
from typing import Any


def is_number(value: Any, most: float = math.inf) -> bool:
    "A finite number from 0 to `most`; True and False are not numbers here."
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value) and 0 <= value <= most


def is_whole_number(value: Any) -> bool:
    "A whole number, 0 or more; 3.0 is one."
    return is_number(value) and value == int(value)


def is_flag(value: Any) -> bool:
    "True, False, 1 or 0."
    return not isinstance(value, str) and value in (0, 1)


def require(
    expected: str,  # what the values must be, as the message says it
    holds: Callable[[Any], bool],  # is a value right?
    **values: Any,  # name -> value
) -> None:
    "Raise a ValueError that names the first value that is not what was expected."
    for name, value in values.items():
        if not holds(value):
            raise ValueError(f"{name} must be {expected}, not {value!r}")


def require_share(**values: Any) -> None:
    "ValueError unless each value is above 0 and at most 1."
    require("a share above 0, at most 1", lambda value: is_number(value, 1) and value > 0, **values)


def require_positive(**values: Any) -> None:
    "ValueError unless each value is a finite number above 0."
    require("a number above 0", lambda value: is_number(value) and value > 0, **values)


def require_count(**values: Any) -> None:
    "ValueError unless each value is a whole number, 1 or more."
    require("a whole number, 1 or more", lambda value: is_whole_number(value) and value > 0, **values)
