"""Runs a case through an adapter and compares every step with the oracle."""

from collections.abc import Callable
from dataclasses import asdict

import ml_dtypes
import numpy as np

from novograd import reference
from novograd.conformance.adapters import Adapter, Layer, compute_dtype
from novograd.conformance.cases import DTYPES, Case

# Roundings of the compute dtype allowed in a step, in units of its epsilon and relative to the
# largest number that takes part. About ten operations follow one another from the gradient to the
# weights, and the sum of squares adds a few; the largest seen over all cases and adapters is 3.3.
ROUNDINGS = 8


class MismatchError(AssertionError):
    """What an adapter stores is not what the oracle says."""


def check(make: Callable[[Case], Adapter], case: Case) -> None:
    """Runs a case and compares weights and state with the oracle after every step.

    Each step starts the oracle from what the adapter itself stored before it. Rounding therefore
    does not add up over the steps, and the tolerances are those of one step: one rounding to the
    dtype of storage, plus ``ROUNDINGS`` of the dtype of computation. By induction the whole run is
    right. A layer without a gradient, and everything across a reload, must stay bit for bit.

    Args:
        make: The adapter's class, or anything else that makes an adapter from a case.
        case: What to run.

    Raises:
        MismatchError: At the first difference, naming the case, the step, the layer and what
            differs.

    Example:
        >>> from novograd.conformance import CASES
        >>> from novograd.conformance.adapters import RuleAdapter
        >>> check(RuleAdapter, CASES[0])
    """
    adapter = make(case)
    before = adapter.layers()
    start = [
        Layer(w, np.zeros_like(w), np.zeros((), compute_dtype(case.dtype))) for w in case.weights()
    ]
    _assert_identical(before, start, f"{case.name}, before the first step")
    for step in range(case.steps):
        where = f"{case.name}, step {step}"
        if step == case.reload_at:
            adapter.reload()
            _assert_identical(adapter.layers(), before, f"{where}, reloaded")
        gradients = case.gradients(step)
        adapter.step(gradients, case.hyperparameters(step))
        after = adapter.layers()
        for number, gradient in enumerate(gradients):
            place = f"{where}, layer {number} of shape {case.shapes[number]}"
            if gradient is None:
                _assert_identical([after[number]], [before[number]], f"{place}, without gradient")
            else:
                _assert_step(before[number], gradient, after[number], case, step, place)
        before = after


def _assert_step(
    before: Layer, gradient: np.ndarray, after: Layer, case: Case, step: int, place: str
) -> None:
    expected = reference.step(*before, gradient, **asdict(case.hyperparameters(step)))
    compute = compute_dtype(case.dtype)
    stored_as = DTYPES[case.dtype]
    size = max(float(np.max(np.abs(x), initial=0)) for x in (before.weights, *expected[:2]))
    rounding = ROUNDINGS * float(ml_dtypes.finfo(compute).eps)
    for name, dtype, actual, value in (
        ("weights", stored_as, after.weights, expected[0]),
        ("moment", stored_as, after.moment, expected[1]),
    ):
        info = ml_dtypes.finfo(stored_as)
        _assert_close(
            actual,
            value,
            dtype,
            # Half a unit in the last place, that of the smallest numbers being a fixed one.
            float(info.eps) / 2 * np.abs(value)
            + float(info.smallest_subnormal) / 2
            + rounding * size,
            f"{place}: {name}",
        )
    # Squares below the smallest normal number may count as zero; zero itself, which says that
    # there is no history, is exact.
    smallest = float(ml_dtypes.finfo(compute).smallest_normal)
    underflow = (1 + gradient.size) * smallest if expected[2] > 0 else 0.0
    _assert_close(
        after.second_moment,
        expected[2],
        compute,
        rounding * expected[2] + underflow,
        f"{place}: second moment",
    )


def _assert_close(
    actual: np.ndarray, expected: np.ndarray, dtype: np.dtype, tolerance: np.ndarray, place: str
) -> None:
    if actual.dtype != dtype or actual.shape != expected.shape:
        raise MismatchError(
            f"{place}: {actual.dtype}{actual.shape}, expected {dtype}{expected.shape}"
        )
    wrong = ~(np.abs(actual.astype(np.float64) - expected) <= tolerance)  # NaN is wrong
    if np.any(wrong):
        raise MismatchError(
            f"{place}: {np.count_nonzero(wrong)} of {actual.size} differ, the first is "
            f"{actual[wrong][0]!r}, expected {expected[wrong][0]!r} "
            f"+- {np.broadcast_to(tolerance, wrong.shape)[wrong][0]:.3g}"
        )


def _assert_identical(actual: list[Layer], expected: list[Layer], place: str) -> None:
    for got, wanted in zip(actual, expected, strict=True):
        for name, x, y in zip(Layer._fields, got, wanted, strict=True):
            if x.dtype != y.dtype or x.tobytes() != y.tobytes():
                raise MismatchError(f"{place}: {name} changed from {y!r} to {x!r}")
