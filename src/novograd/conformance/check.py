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
from novograd.conformance.adapters import Adapter, WeightState, zero_states
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
    taken = [0] * len(before)  # the steps of each weight
    _assert_identical(before, zero_states(case), f"{case.name}, before the first step")
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
                wide = [_with_wide_moment(x) for x in (before[number], after[number])]
                weights, moment, allowed = (np.zeros(gradient.shape) for _ in range(3))
                for index, (part, v, scale) in enumerate(apart):
                    was, now = (
                        WeightState(x.weights[part], x.moment[part], x.second_moment[v].reshape(()))
                        for x in wide
                    )
                    if case.variant.name == DOCUMENTED.name:
                        expected = reference.step(
                            *was[:3], gradient[part], **asdict(hyper), scale=scale, clip=clip
                        )
                    else:
                        w, m, v = (x.astype(np.float64) for x in was[:3])
                        *expected, largest[number, index] = PEERS[case.variant.name](
                            State(w, m, v, largest[number, index]),
                            Gradient(gradient[part].astype(np.float64), step + 1, scale, clip),
                            hyper,
                        )
                    arithmetic = _arithmetic(was, expected)
                    weights[part], moment[part], _ = expected
                    allowed[part] = arithmetic
                    errors = [_assert_second_moment(was, expected[2], now, place)]
                    if not case.stochastic_rounding:
                        rounds = adapter.rounds_update
                        errors += [_assert_weights(was, expected, now, arithmetic, rounds, place)]
                    if not after[number].scales.size:
                        errors += [_assert_moment(was, expected, now, arithmetic, place)]
                    worst = max(worst, *errors)
                count = taken[number] if adapter.counts_each else step
                if case.stochastic_rounding:
                    _assert_rounded(weights, allowed, after[number].weights, count, place)
                if after[number].scales.size:
                    _assert_blocks(moment, allowed, after[number], count, place)
                taken[number] += 1
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


def _arithmetic(before: WeightState, expected: Sequence[Any]) -> float:
    """Returns the error of arithmetic that a layer's step may have."""
    compute = ml_dtypes.finfo(before.second_moment.dtype)
    return ROUNDINGS * float(compute.eps) * _size(before, expected)


def _size(before: WeightState, expected: Sequence[Any]) -> float:
    """Returns the largest number in a layer's step."""
    return max(map(_largest, (before.weights, before.moment, *expected[:2])))


def _assert_weights(
    before: WeightState,
    expected: Sequence[Any],
    after: WeightState,
    arithmetic: float,
    rounds_update: bool,
    place: str,
) -> float:
    """Compares a layer's weights with the oracle's; returns the largest error, in ulps."""
    w, stored = expected[0], ml_dtypes.finfo(before.weights.dtype)
    # Storing rounds by half a unit in the last place. Among subnormal numbers, this unit is fixed.
    rounding, smallest = float(stored.eps) / 2, float(stored.smallest_subnormal) / 2
    tolerance = rounding * np.abs(w) + smallest + arithmetic
    if rounds_update:
        tolerance += rounding * np.abs(w - before.weights.astype(np.float64)) + smallest
    unit = float(stored.eps) * _size(before, expected)
    return _error(after.weights, w, before.weights.dtype, unit, tolerance, f"{place}: weights")


def _assert_rounded(
    weights: np.ndarray, allowed: np.ndarray, after: np.ndarray, step: int, place: str
) -> None:
    """Compares weights that are rounded at random with the oracle's.

    Args:
        weights: The oracle's weights before they are rounded.
        allowed: The error of arithmetic that each of them may have.
        after: The weights after the step.
        step: The number of steps of the weight before this one.
        place: Names the weight in messages.
    """
    random = reference.uniform(step, np.arange(weights.size), reference.WEIGHTS_SEED)
    random = random.reshape(weights.shape)
    least, most = (reference.to_bfloat16(weights + x, random) for x in (-allowed, allowed))
    # A number beyond the largest bfloat16 is an infinity, and none of the cases has one.
    middle, tolerance = (least + most) / 2, (most - least) / 2
    _error(after, middle, after.dtype, 1.0, tolerance, f"{place}: weights")


def _assert_second_moment(
    before: WeightState, v: np.ndarray, after: WeightState, place: str
) -> float:
    """Compares a layer's second moment with the oracle's; returns the error in ulps."""
    compute = ml_dtypes.finfo(before.second_moment.dtype)
    # Squares below the smallest normal number may be flushed to zero. A second moment of zero must
    # be exact, because zero means that there was no gradient yet.
    underflow = (1 + before.weights.size) * float(compute.smallest_normal) if v > 0 else 0.0
    # XLA adds the squares of a layer one after the other: the error grows with the root of their
    # number. This matters only for layers with more than 1,024 elements.
    of_sum = max(float(ROUNDINGS), math.sqrt(before.weights.size) / 4)
    tolerance = of_sum * float(compute.eps) * float(v) + underflow
    return _error(
        after.second_moment,
        v,
        before.second_moment.dtype,
        tolerance / of_sum,
        np.asarray(tolerance),
        f"{place}: second moment",
    )


def _assert_moment(
    before: WeightState,
    expected: Sequence[Any],
    after: WeightState,
    arithmetic: float,
    place: str,
) -> float:
    """Compares a layer's momentum buffer with the oracle's; returns the largest error, in ulps."""
    m, stored = expected[1], ml_dtypes.finfo(before.moment.dtype)
    rounding = float(stored.eps) / 2 * np.abs(m) + float(stored.smallest_subnormal) / 2
    unit, tolerance = float(stored.eps) * _size(before, expected), rounding + arithmetic
    return _error(after.moment, m, before.moment.dtype, unit, tolerance, f"{place}: moment")


def _assert_blocks(
    moment: np.ndarray, allowed: np.ndarray, after: WeightState, step: int, place: str
) -> None:
    """Compares the blocks of a momentum buffer in 8 bits with the oracle's.

    Args:
        moment: The oracle's buffer before it is rounded.
        allowed: The error of arithmetic that each of its elements may have.
        after: The state after the step.
        step: The number of steps of the weight before this one.
        place: Names the weight in messages.
    """
    if after.moment.dtype != np.int8 or after.scales.dtype != np.float32:
        raise MismatchError(f"{place}: {after.moment.dtype} blocks, {after.scales.dtype} scales")
    single = float(np.finfo(np.float32).eps)
    q, scales, moment, allowed = (x.ravel() for x in (after.moment, after.scales, moment, allowed))
    random = reference.uniform(step, np.arange(q.size), reference.MOMENT_SEED)
    for number, where in enumerate(reference.blocks(after.moment.shape)):
        scale, largest = float(scales[number]), _largest(moment[where])
        # Three roundings: of the maximum, of 1/127, with which XLA multiplies, and of the product.
        tolerance = (1.5 * single * largest + allowed[where].max()) / 127
        if not abs(scale - largest / 127) <= tolerance:
            raise MismatchError(
                f"{place}: the scale of block {number} is {scale!r}, expected {largest / 127!r}"
            )
        exact = moment[where] / scale if scale else np.zeros(where.size)
        # In float32 the quotient is up to 127, and the sum is rounded too.
        near = ROUNDINGS * 127 * single + (allowed[where] / scale if scale else 0)
        exact = exact + random[where]
        least, most = (np.floor(exact + x).clip(-127, 127) for x in (-near, near))
        wrong = (q[where] < least) | (q[where] > most)
        if wrong.any():
            raise MismatchError(
                f"{place}: {np.count_nonzero(wrong)} of {wrong.size} elements of block {number} "
                f"differ, the first is {q[where][wrong][0]}, expected {least[wrong][0]:.0f}"
            )


def _largest(x: np.ndarray) -> float:
    return float(abs(x).max(initial=0))


def _with_wide_moment(state: WeightState) -> WeightState:
    """Returns a state whose momentum buffer is in float64 if it is in 8 bits."""
    if not state.scales.size:
        return state
    return state._replace(moment=reference.dequantised(state.moment, state.scales))


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
    if wrong.any():
        raise MismatchError(
            f"{place}: {np.count_nonzero(wrong)} of {actual.size} differ, the first is "
            f"{actual[wrong][0]!r}, expected {expected[wrong][0]!r} "
            f"+- {np.broadcast_to(tolerance, wrong.shape)[wrong][0]:.3g}"
        )
    worst = _largest(error)
    return worst / unit if worst else 0.0


def _assert_identical(actual: list[WeightState], expected: list[WeightState], place: str) -> None:
    for got, wanted in zip(actual, expected, strict=True):
        for name, x, y in zip(WeightState._fields, got, wanted, strict=True):
            if x.dtype != y.dtype or x.tobytes() != y.tobytes():
                raise MismatchError(f"{place}: {name} changed from {y!r} to {x!r}")
