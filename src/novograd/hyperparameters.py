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
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    number = float(value)
    if not 0 <= number < below:  # NaN fails every comparison
        raise ValueError(f"{name} must be in [0, {below:g}), got {value!r}")
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
