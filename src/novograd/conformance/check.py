"""Runs a case through an adapter and compares every step with the oracle."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np

from novograd import reference
from novograd.conformance.adapters import Adapter, WeightState, zero_second_moments
from novograd.conformance.cases import Case
from novograd.conformance.peers import PEERS, Gradient, State
from novograd.layers import Layers, Rows, Split
from novograd.variants import DOCUMENTED

# The error that a step may have by rounding in the compute dtype: this many times the dtype's
# epsilon, relative to the largest number in the computation. There are about ten operations in
# sequence from the gradient to the weights, and the sum of squares adds a few. The largest error
# seen over all cases and adapters is 3.4.
ROUNDINGS = 8


class MismatchError(AssertionError):
    """The values that an adapter stores differ from the oracle's."""


def check(make: Callable[[Case], Adapter], case: Case) -> float:
    """Runs a case and compares weights and state with the oracle after every step.

    In each step the oracle starts from the values that the adapter stored before the step.
    Rounding errors therefore do not add up over the steps, and the tolerance covers one step: one
    rounding to the dtype of storage, plus ``ROUNDINGS`` in the dtype of computation. If every step
    is right, all steps together are right. A weight without a gradient must keep its exact bits in
    the step. Everything must keep its exact bits in a reload.

    Args:
        make: The adapter's class, or another function that makes an adapter from a case.
        case: The case to run.

    Returns:
        The largest error seen, in units in the last place (ulps) of the dtype of storage, at the
        size of the largest number in the layer's step.

    Raises:
        MismatchError: At the first difference. The message names the case, the step, the layer and
            the value that differs.

    Example:
        >>> from novograd.conformance import CASES
        >>> from novograd.conformance.numpy import RuleAdapter
        >>> check(RuleAdapter, CASES[0]) < ROUNDINGS
        True
    """
    worst = 0.0
    # The largest second moment of each layer, for amsgrad.
    largest: defaultdict[tuple[int, int], float] = defaultdict(float)
    clip = math.inf if case.variant.clip is None else case.variant.clip
    adapter = make(case)
    before = adapter.layers()
    start = [
        WeightState(w, np.zeros_like(w), v)
        for w, v in zip(case.weights(), zero_second_moments(case), strict=True)
    ]
    _assert_identical(before, start, f"{case.name}, before the first step")
    for step in range(case.steps):
        where = f"{case.name}, step {step}"
        if step == case.reload_at:
            adapter.reload()
            _assert_identical(adapter.layers(), before, f"{where}, reloaded")
        gradients = case.gradients(step)
        hyper = case.hyperparameters(step)
        adapter.step(gradients, hyper)
        after = adapter.layers()
        for number, gradient in enumerate(gradients):
            place = f"{where}, layer {number} of shape {case.shapes[number]}"
            if gradient is None:
                _assert_identical([after[number]], [before[number]], f"{place}, without gradient")
            else:
                apart = _apart(case.layers[number], gradient.shape)
                for index, (part, v, scale) in enumerate(apart):
                    was, now = (
                        WeightState(x.weights[part], x.moment[part], x.second_moment[v].reshape(()))
                        for x in (before[number], after[number])
                    )
                    if case.variant.name == DOCUMENTED.name:
                        expected = reference.step(
                            *was, gradient[part], **asdict(hyper), scale=scale, clip=clip
                        )
                    else:
                        w, m, v = (x.astype(np.float64) for x in was)
                        *expected, largest[number, index] = PEERS[case.variant.name](
                            State(w, m, v, largest[number, index]),
                            Gradient(gradient[part].astype(np.float64), step + 1, scale, clip),
                            hyper,
                        )
                    error = _assert_step(was, expected, now, adapter.rounds_update, place)
                    worst = max(worst, error)
        before = after
    return worst


def _apart(layers: Layers, shape: tuple[int, ...]) -> Iterator[tuple[Any, Any, float]]:
    """Yields the index of each layer in a weight, the index of its v, and its step scale."""
    if layers is None:
        yield ..., ..., 1.0
        return
    if isinstance(layers, Split):
        axis = range(len(shape))[layers.axis]
        ends = [sum(layers.sizes[:i]) for i in range(len(layers.sizes) + 1)]
        for i, (start, end) in enumerate(pairwise(ends)):
            before = (slice(None),) * axis
            yield (*before, slice(start, end)), (*before, slice(i, i + 1)), 1.0
        return
    given = layers.axes if isinstance(layers.axes, tuple) else (layers.axes,)
    axes = {range(len(shape))[axis] for axis in given if axis is not None}
    counts = [size if axis in axes else 1 for axis, size in enumerate(shape)]
    scale = 1.0
    if isinstance(layers, Rows) and layers.scale == "norm":
        scale = 1 / math.sqrt(max(math.prod(counts), 1))
    elif isinstance(layers, Rows):
        scale = math.sqrt(math.prod(shape) // max(math.prod(counts), 1))
    for index in np.ndindex(*counts):
        where = tuple(
            slice(i, i + 1) if axis in axes else slice(None) for axis, i in enumerate(index)
        )
        yield where, where, scale


def _assert_step(
    before: WeightState,
    expected: Sequence[Any],
    after: WeightState,
    rounds_update: bool,
    place: str,
) -> float:
    """Compares a layer's step with the oracle's step and returns the largest error, in ulps."""
    w, m, v = expected
    stored = ml_dtypes.finfo(before.weights.dtype)
    compute = ml_dtypes.finfo(before.second_moment.dtype)
    size = max(float(np.max(np.abs(x), initial=0)) for x in (before.weights, before.moment, w, m))
    # Storing rounds by half a unit in the last place. Among subnormal numbers, this unit is fixed.
    rounding, smallest = float(stored.eps) / 2, float(stored.smallest_subnormal) / 2
    arithmetic = ROUNDINGS * float(compute.eps) * size
    for_weights = rounding * np.abs(w) + smallest + arithmetic
    if rounds_update:
        for_weights += rounding * np.abs(w - before.weights.astype(np.float64)) + smallest
    # Squares below the smallest normal number may be flushed to zero. A second moment of zero must
    # be exact, because zero means that there was no gradient yet.
    underflow = (1 + before.weights.size) * float(compute.smallest_normal) if v > 0 else 0.0
    for_v = ROUNDINGS * float(compute.eps) * float(v) + underflow
    unit = float(stored.eps) * size
    return max(
        _error(after.weights, w, before.weights.dtype, unit, for_weights, f"{place}: weights"),
        _error(
            after.moment,
            m,
            before.weights.dtype,
            unit,
            rounding * np.abs(m) + smallest + arithmetic,
            f"{place}: moment",
        ),
        _error(
            after.second_moment,
            v,
            before.second_moment.dtype,
            for_v / ROUNDINGS,
            np.asarray(for_v),
            f"{place}: second moment",
        ),
    )


def _error(
    actual: np.ndarray,
    expected: np.ndarray,
    dtype: np.dtype,
    unit: float,
    tolerance: np.ndarray,
    place: str,
) -> float:
    """Checks an array's dtype, shape and values. Returns its largest error in units of ``unit``."""
    if actual.dtype != dtype or actual.shape != expected.shape:
        raise MismatchError(
            f"{place}: {actual.dtype}{actual.shape}, expected {dtype}{expected.shape}"
        )
    error = np.abs(actual.astype(np.float64) - expected)
    wrong = ~(error <= tolerance)  # NaN is wrong
    if np.any(wrong):
        raise MismatchError(
            f"{place}: {np.count_nonzero(wrong)} of {actual.size} differ, the first is "
            f"{actual[wrong][0]!r}, expected {expected[wrong][0]!r} "
            f"+- {np.broadcast_to(tolerance, wrong.shape)[wrong][0]:.3g}"
        )
    worst = float(np.max(error, initial=0))
    return worst / unit if worst else 0.0


def _assert_identical(actual: list[WeightState], expected: list[WeightState], place: str) -> None:
    for got, wanted in zip(actual, expected, strict=True):
        for name, x, y in zip(WeightState._fields, got, wanted, strict=True):
            if x.dtype != y.dtype or x.tobytes() != y.tobytes():
                raise MismatchError(f"{place}: {name} changed from {y!r} to {x!r}")
