"""Parametrization of tests."""

from collections.abc import Callable, Container, Iterable, Mapping
from itertools import product
from typing import Any

import pytest


def some(
    values: Iterable[Any], kept: Container[Any], name: Callable[[Any], str] = str
) -> list[Any]:
    """Returns the parameters of a slow test. Without ``--full``, only the kept values run."""
    return [
        pytest.param(value, id=name(value), marks=[] if value in kept else [pytest.mark.full])
        for value in values
    ]


def crossed(first: str, firsts: Mapping[str, Any], second: str, seconds: Mapping[str, Any]) -> Any:
    """Parametrizes a test by the product of two parameters that hardly depend on each other.

    Without ``--full``, only the pairs with the first value of one of the parameters run.
    """
    return pytest.mark.parametrize(
        (first, second),
        [
            pytest.param(
                firsts[x], seconds[y], id=f"{x}-{y}", marks=[pytest.mark.full] if i and j else []
            )
            for (i, x), (j, y) in product(enumerate(firsts), enumerate(seconds))
        ],
    )
