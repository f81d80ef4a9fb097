"""The conformance cases can fail: a small choice of them catches every wrong rule in this file.

The wrong formulas replace functions of ``novograd.rule``. The wrong bookkeeping replaces methods of
the adapter that runs the rule.
"""

from dataclasses import replace

import numpy as np
import pytest

from novograd import quantized, rounding, rule
from novograd.conformance import (
    CASES,
    MOMENT_CASES,
    ROUNDING_CASES,
    VARIANT_CASES,
    MismatchError,
    check,
)
from novograd.conformance.adapters import WeightState
from novograd.conformance.choice import chosen
from novograd.conformance.numpy import RuleAdapter, _wide
from novograd.rule import Coefficients, numbers


def epsilon_outside_the_root(variant, **hyper):
    return numbers(replace(variant, epsilon="outside"), **hyper)


def no_epsilon(variant, **hyper):
    return numbers(variant, **hyper | {"epsilon": 0.0})


def averaging_leaves_out_the_decay(variant, **hyper):
    plain = numbers(variant, **hyper | {"grad_averaging": False})
    return numbers(variant, **hyper)._replace(b=plain.b)


def averaging_leaves_out_the_gradient(variant, **hyper):
    plain = numbers(variant, **hyper | {"grad_averaging": False})
    return numbers(variant, **hyper)._replace(a=plain.a)


def averaging_ignored(variant, **hyper):
    return numbers(variant, **hyper | {"grad_averaging": False})


def decay_twice(variant, **hyper):
    return numbers(variant, **hyper)._replace(c=1 - hyper["lr"] * hyper["weight_decay"])


def decay_decoupled(variant, **hyper):
    return numbers(replace(variant, decay="decoupled"), **hyper)


def decay_without_learning_rate(variant, **hyper):
    return numbers(variant, **hyper)._replace(b=numbers(variant, **hyper | {"lr": 1.0}).b)


def learning_rate_in_the_update(variant, **hyper):
    return numbers(replace(variant, rate="update"), **hyper)


def no_root(variant, **hyper):
    return numbers(variant, **hyper)._replace(power=1.0)


def v_restarted_each_step(variant, **hyper):
    return numbers(replace(variant, averages=False), **hyper)


def weights_of_average_swapped(variant, **hyper):
    return numbers(variant, **hyper)._replace(keep=1 - hyper["beta2"], mix=hyper["beta2"])


def average_without_complement(variant, **hyper):
    return numbers(variant, **hyper)._replace(mix=1.0)


def average_from_zero(variant, **hyper):
    return numbers(replace(variant, start="never"), **hyper)


WRONG_NUMBERS = [
    epsilon_outside_the_root,
    no_epsilon,
    averaging_leaves_out_the_decay,
    averaging_leaves_out_the_gradient,
    averaging_ignored,
    decay_twice,
    decay_decoupled,
    decay_without_learning_rate,
    learning_rate_in_the_update,
    no_root,
    v_restarted_each_step,
    weights_of_average_swapped,
    average_without_complement,
    average_from_zero,
]


def nesterov_ignored(w, m, g, scalars, *, beta1, nesterov=False):
    a, b, c, d = scalars
    m = beta1 * m + a * g + b * w
    return c * w - d * m, m


def nesterov_always(w, m, g, scalars, *, beta1, nesterov=False):
    a, b, c, d = scalars
    push = a * g + b * w
    m = beta1 * m + push
    return c * w - d * (beta1 * m + push), m


def momentum_with_opposite_sign(w, m, g, scalars, *, beta1, nesterov=False):
    w, m = _right_pass(w, -m, g, scalars, beta1=beta1, nesterov=nesterov)
    return w, -m


def momentum_dampened(w, m, g, scalars, *, beta1, nesterov=False):
    a, b, c, d = scalars
    return _right_pass(
        w,
        m,
        g,
        Coefficients((1 - beta1) * a, (1 - beta1) * b, c, d),
        beta1=beta1,
        nesterov=nesterov,
    )


_right_pass = rule.linear_pass
WRONG_PASSES = [nesterov_ignored, nesterov_always, momentum_with_opposite_sign, momentum_dampened]


def limit_ignored(variant, **hyper):
    return numbers(replace(variant, clip=None), **hyper)


def limit_of_the_square(variant, **hyper):
    """The limit is not squared, although ``v`` is a squared norm."""
    return numbers(variant, **hyper)._replace(clip=1 / variant.clip)


def limit_squared_always(variant, **hyper):
    """The limit is squared, although ``v`` may be a norm."""
    return numbers(variant, **hyper)._replace(clip=variant.clip**-2)


def limit_inverted(variant, **hyper):
    right = numbers(variant, **hyper)
    return right._replace(clip=1 / right.clip)


def limit_stored(s, v, numbers, scale=1.0, largest=None, *, xp):
    """The limit enters ``v`` itself."""
    after = _right_advance(s, v, numbers, scale, largest, xp=xp)
    return after._replace(v=xp.where(after.v < numbers.clip * s, numbers.clip * s, after.v))


def limit_stored_in_the_maximum(s, v, numbers, scale=1.0, largest=None, *, xp):
    after = _right_advance(s, v, numbers, scale, largest, xp=xp)
    if largest is None:
        return after
    return after._replace(largest=xp.maximum(after.largest, numbers.clip * s))


def limit_before_the_correction(s, v, numbers, scale=1.0, largest=None, *, xp):
    changed = numbers._replace(clip=numbers.clip * numbers.correction)
    return _right_advance(s, v, changed, scale, largest, xp=xp)


def limit_on_the_sum_of_the_average_and_the_present(s, v, numbers, scale=1.0, largest=None, *, xp):
    changed = numbers._replace(inside=numbers.inside + numbers.clip * s, clip=0.0)
    return _right_advance(s, v, changed, scale, largest, xp=xp)


_right_advance = rule.advance
WRONG_LIMITS = [
    ("numbers", limit_ignored),
    ("numbers", limit_of_the_square),
    ("numbers", limit_squared_always),
    ("numbers", limit_inverted),
    ("advance", limit_stored),
    ("advance", limit_stored_in_the_maximum),
    ("advance", limit_before_the_correction),
    ("advance", limit_on_the_sum_of_the_average_and_the_present),
]


class AverageNotStored(RuleAdapter):
    """OpenSeq2Seq: the graph computes v but never stores it in the variable."""

    def _step_layer(self, layer, gradient, hyper, *weight):
        after = super()._step_layer(layer, gradient, hyper, *weight)
        return after._replace(second_moment=layer.second_moment)


class OneGlobalNorm(RuleAdapter):
    """One norm for all layers, as in a fused optimizer that concatenates them."""

    def step(self, gradients, hyper):
        joined = np.concatenate([g.ravel() for g in gradients if g is not None])
        total = np.sum(np.square(joined.astype(self._compute)))
        original = np.sum
        np.sum = lambda *args, **kwargs: total
        try:
            super().step(gradients, hyper)
        finally:
            np.sum = original


class StartsFromZero(RuleAdapter):
    """Flashlight: the first average is (1 - beta2)*|g|^2."""

    def _step_layer(self, layer, gradient, hyper, *weight):
        tiny = np.asarray(np.finfo(self._compute).smallest_normal, self._compute)
        return super()._step_layer(
            layer._replace(second_moment=np.maximum(layer.second_moment, tiny)),
            gradient,
            hyper,
            *weight,
        )


class FirstStepByCount(RuleAdapter):
    """optax: history begins at the first step, even if its gradient was zero."""

    def _step_layer(self, layer, gradient, hyper, *weight):
        after = super()._step_layer(layer, gradient, hyper, *weight)
        tiny = np.asarray(np.finfo(self._compute).smallest_normal, self._compute)
        return after._replace(second_moment=np.maximum(after.second_moment, tiny))


class FirstStepTwice(RuleAdapter):
    """pytorch-optimizer: the first gradient enters the momentum buffer twice."""

    def _step_layer(self, layer, gradient, hyper, *weight):
        after = super()._step_layer(layer, gradient, hyper, *weight)
        if np.all(layer.second_moment == 0):
            return super()._step_layer(after, gradient, hyper, *weight)
        return after


class MissingCountsAsZero(RuleAdapter):
    """A layer without a gradient still gets weight decay and moves by its momentum buffer."""

    def step(self, gradients, hyper):
        filled = [
            np.zeros_like(layer.weights) if g is None else g
            for layer, g in zip(self._layers, gradients, strict=True)
        ]
        super().step(filled, hyper)


class NormInTheGradientsDtype(RuleAdapter):
    """A float16 squared norm overflows as soon as an element reaches 300."""

    def _step_layer(self, layer, gradient, hyper, *weight):
        with np.errstate(all="ignore"):
            s = np.sum(np.square(gradient), dtype=gradient.dtype)
        if not np.isfinite(s):
            return layer
        return super()._step_layer(layer, gradient, hyper, *weight)


class MomentumLostOnReload(RuleAdapter):
    """A reload restores the weights and v but not the momentum buffer."""

    def reload(self):
        super().reload()
        self._layers = [x._replace(moment=np.zeros_like(x.moment)) for x in self._layers]


class SecondMomentInHalfPrecision(RuleAdapter):
    """v is cast to the dtype of the weights, as torch does by default when it loads."""

    def _step_layer(self, layer, gradient, hyper, *weight):
        after = super()._step_layer(layer, gradient, hyper, *weight)
        v = after.second_moment.astype(layer.weights.dtype).astype(self._compute)
        return WeightState(after.weights, after.moment, v)


WRONG_BOOKKEEPING = [
    AverageNotStored,
    OneGlobalNorm,
    StartsFromZero,
    FirstStepByCount,
    FirstStepTwice,
    MissingCountsAsZero,
    NormInTheGradientsDtype,
    MomentumLostOnReload,
    SecondMomentInHalfPrecision,
]


def scales_of_the_next_blocks(blocks, bits, **library):
    q, scales = _right_blocks(blocks, bits, **library)
    return q, np.roll(scales, 1)


def rounded_to_nearest(blocks, bits, **library):
    return _right_blocks(blocks, 0 * bits + 2**15, **library)


def rounded_down(blocks, bits, **library):
    return _right_blocks(blocks, 0 * bits, **library)


def one_scale_for_all(blocks, bits, **library):
    q, scales = _right_blocks(blocks.reshape(-1), bits.reshape(-1), **library)
    return q.reshape(blocks.shape), np.full(blocks.shape[:-1], scales)


def largest_is_128(blocks, bits, **library):
    q, scales = _right_blocks(blocks, bits, **library)
    return q, scales * np.float32(127 / 128)


def the_same_bits_in_each_step(purpose, step, *words):
    return _right_bits(purpose, 0 * step, *words)


def bits_of_the_next_step(purpose, step, *words):
    return _right_bits(purpose, step + np.int32(1), *words)


def the_same_bits_for_neighbours(purpose, step, low, high, odd):
    return _right_bits(purpose, step, low, high, 0 * odd)


def the_same_bits_for_all(purpose, step, low, high, odd):
    return _right_bits(purpose, step, 0 * low, 0 * high, 0 * odd)


def the_bits_of_the_momentum_buffer(_, *words):
    return _right_bits(rounding.FOR_MOMENT, *words)


def weights_rounded_to_nearest(x, bits, *, xp):
    return _right_weights(x, 0 * bits + 2**15, xp=xp)


def weights_truncated(x, bits, *, xp):
    return _right_weights(x, 0 * bits, xp=xp)


_right_weights = rounding.to_bfloat16
_right_blocks, _right_bits = quantized.quantised, rounding.random_bits
WRONG_BLOCKS = [
    scales_of_the_next_blocks,
    rounded_to_nearest,
    rounded_down,
    one_scale_for_all,
    largest_is_128,
]
WRONG_BITS = [
    the_same_bits_in_each_step,
    bits_of_the_next_step,
    the_same_bits_for_neighbours,
    the_same_bits_for_all,
]


class ScalesNotUpdated(RuleAdapter):
    """The first scales are kept for ever."""

    def _step_layer(self, layer, gradient, hyper, *weight):
        after = super()._step_layer(layer, gradient, hyper, *weight)
        return after._replace(scales=layer.scales) if layer.scales.any() else after


class WeightsOfTheRoundedBuffer(RuleAdapter):
    """The weights move by the buffer after it has been rounded."""

    def _step_layer(self, layer, gradient, hyper, *weight):
        after = super()._step_layer(layer, gradient, hyper, *weight)
        moved = np.asarray(layer.weights - _wide(after, self._compute), layer.weights.dtype)
        return after._replace(weights=moved) if after.scales.size else after


class ScalesLostOnReload(RuleAdapter):
    """A reload sets the scales to 1."""

    def reload(self):
        super().reload()
        self._layers = [x._replace(scales=np.ones_like(x.scales)) for x in self._layers]


FORMULAS = [
    (name, wrong)
    for name, mutants in (
        ("numbers", WRONG_NUMBERS),
        ("linear_pass", WRONG_PASSES),
    )
    for wrong in mutants
]


# The cases that compiling adapters run without ``--full``, so the whole table catches more.
CHOICE = [case for _, case in chosen(["rule"], CASES)]
ROUNDED_WEIGHTS = [case for case in ROUNDING_CASES if case.name == "stochastic rounding"]
PLAIN_INT8 = [case for case in MOMENT_CASES if case.name == "int8 moment"]
LIMITED = [case for case in VARIANT_CASES if case.variant.clip is not None]


def fails(adapter, cases=CHOICE):
    """Whether at least one of the cases fails for the adapter."""
    with np.errstate(all="ignore"):
        for case in cases:
            try:
                check(adapter, case)
            except MismatchError:
                return True
    return False


@pytest.mark.parametrize(("name", "wrong"), FORMULAS, ids=lambda x: getattr(x, "__name__", x))
def test_a_wrong_formula_fails(monkeypatch, name, wrong):
    monkeypatch.setattr(rule, name, wrong)
    assert fails(RuleAdapter)


@pytest.mark.parametrize(("name", "wrong"), WRONG_LIMITS, ids=lambda x: getattr(x, "__name__", x))
def test_a_wrong_limit_fails(monkeypatch, name, wrong):
    monkeypatch.setattr(rule, name, wrong)
    assert fails(RuleAdapter, LIMITED)


@pytest.mark.parametrize("wrong", WRONG_BLOCKS)
def test_wrong_blocks_fail(monkeypatch, wrong):
    monkeypatch.setattr(quantized, "quantised", wrong)
    assert fails(RuleAdapter, PLAIN_INT8)


@pytest.mark.parametrize("wrong", WRONG_BITS)
def test_wrong_random_bits_fail(monkeypatch, wrong):
    monkeypatch.setattr(rounding, "random_bits", wrong)
    assert fails(RuleAdapter, PLAIN_INT8)
    assert fails(RuleAdapter, ROUNDED_WEIGHTS)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("random_bits", the_bits_of_the_momentum_buffer),
        ("to_bfloat16", weights_rounded_to_nearest),
        ("to_bfloat16", weights_truncated),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_wrong_rounding_of_weights_fails(monkeypatch, name, wrong):
    monkeypatch.setattr(rounding, name, wrong)
    assert fails(RuleAdapter, ROUNDED_WEIGHTS)


@pytest.mark.parametrize(
    "adapter", [ScalesNotUpdated, WeightsOfTheRoundedBuffer, ScalesLostOnReload]
)
def test_wrong_bookkeeping_of_blocks_fails(adapter):
    assert fails(adapter, PLAIN_INT8)


@pytest.mark.parametrize("adapter", WRONG_BOOKKEEPING)
def test_wrong_bookkeeping_fails(adapter):
    assert fails(adapter)


def test_the_right_rule_passes():
    assert not fails(RuleAdapter, [*CASES, *MOMENT_CASES, *ROUNDING_CASES, *VARIANT_CASES])
