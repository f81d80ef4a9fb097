"""Checks of hyperparameters, with one wording for every framework."""

import math
from numbers import Real
from typing import Any


def check_number(name: str, value: Any, *, below: float = math.inf) -> float:
    """Returns ``value`` as a float after checking that it lies in ``[0, below)``.

    Args:
        name: The argument's name in the caller's signature, for the message.
        value: The user's value.
        below: The end of the allowed range, which is excluded.

    Raises:
        TypeError: If ``value`` is not a real number, or is a bool.
        ValueError: If ``value`` is NaN or outside the range.

    Example:
        >>> check_number("beta1", 1.5, below=1)
        Traceback (most recent call last):
            ...
        ValueError: beta1 must be in [0, 1), got 1.5
    """
    number = _as_float(name, value, "a number")
    if not 0 <= number < below:  # NaN fails every comparison
        raise ValueError(f"{name} must be in [0, {below:g}), got {value!r}")
    return number


def check_limit(name: str, value: Any) -> float:
    """Returns ``value`` as a float after checking that it lies in ``(0, inf)``.

    Raises:
        TypeError: If ``value`` is not a real number, or is a bool.
        ValueError: If ``value`` is NaN, infinite, 0 or negative.

    Example:
        >>> check_limit("clip", 0.0)
        Traceback (most recent call last):
            ...
        ValueError: clip must be None or in (0, inf), got 0.0
    """
    number = _as_float(name, value, "None or a number")
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be None or in (0, inf), got {value!r}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """Returns ``value`` after checking that it is a bool.

    Raises:
        TypeError: If ``value`` is anything else, including 0 and 1.

    Example:
        >>> check_flag("grad_averaging", "yes")
        Traceback (most recent call last):
            ...
        TypeError: grad_averaging must be True or False, got 'yes' of type str
    """
    if not isinstance(value, bool):
        raise TypeError(
            f"{name} must be True or False, got {value!r} of type {type(value).__name__}"
        )
    return value


def _as_float(name: str, value: Any, allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {allowed}, got {value!r} of type {type(value).__name__}")
    return float(value)
