"""The rule: results computed by hand, and properties."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from novograd import rule
from novograd.variants import DOCUMENTED


def documented(lr, beta1, beta2, epsilon, decay):
    return rule.numbers(
        DOCUMENTED,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        weight_decay=decay,
        grad_averaging=False,
    )


def step(w, m, v, g, *, nesterov=False, lr=0.1, beta1=0.9, beta2=0.98, epsilon=1e-8, decay=0.0):
    """Runs one step of the documented rule with its functions."""
    numbers = documented(lr, beta1, beta2, epsilon, decay)
    s = np.sum(g * g)
    v, _, scalars = rule.advance(s, v, numbers, xp=np)
    w, m = rule.linear_pass(w, m, g, scalars, beta1=beta1, nesterov=nesterov)
    return w, m, v


def test_two_steps_equal_those_computed_by_hand():
    # lr 0.5, beta1 0.9, beta2 0.75, epsilon 0, decay 0.1, weight 1, gradients 4 and 3:
    # v = 16, m = 0.5*(1 + 0.1) = 0.55, w = 0.45; v = 0.75*16 + 0.25*9 = 14.25,
    # m = 0.9*0.55 + 0.5*(3/sqrt(14.25) + 0.045) = 0.9148597071, w = -0.4648597071
    settings = {"lr": 0.5, "beta1": 0.9, "beta2": 0.75, "epsilon": 0.0, "decay": 0.1}
    w, m, v = step(1.0, 0.0, 0.0, 4.0, **settings)
    assert (w, m, v) == pytest.approx((0.45, 0.55, 16.0), rel=1e-12)
    w, m, v = step(w, m, v, 3.0, **settings)
    assert (w, m, v) == pytest.approx((-0.4648597071, 0.9148597071, 14.25), rel=1e-9)


vectors = arrays(np.float64, 5, elements=st.floats(-1e3, 1e3).map(lambda x: round(x, 3)))
gradients = st.lists(vectors, min_size=1, max_size=5)


def run(w, gradients, **settings):
    m, v = np.zeros_like(w), 0.0
    for g in gradients:
        w, m, v = step(w, m, v, g, **settings)
    return w, m


@given(vectors, gradients, st.integers(-20, 20), st.booleans())
def test_the_scale_of_the_gradients_does_not_matter(w, gradients, exponent, nesterov):
    # The scale is a power of two, so only the root is rounded differently: ``x**0.5`` is a power,
    # which may be off by one unit, and by another amount when x is scaled. Epsilon is far below any
    # gradient.
    settings = {"nesterov": nesterov, "epsilon": 1e-300}
    scaled = [g * 2.0**exponent for g in gradients]
    for plain, other in zip(run(w, gradients, **settings), run(w, scaled, **settings), strict=True):
        np.testing.assert_allclose(plain, other, rtol=1e-13, atol=1e-13)


@given(vectors, gradients, st.permutations(range(5)))
def test_the_order_of_the_weights_does_not_matter(w, gradients, order):
    settings = {"decay": 0.1, "epsilon": 1e-3}
    plain = run(w, gradients, **settings)
    permuted = run(w[order], [g[order] for g in gradients], **settings)
    for x, y in zip(plain, permuted, strict=True):
        # The order of the additions in the squared norm changes.
        np.testing.assert_allclose(x[order], y, rtol=1e-12, atol=1e-12)


@given(vectors, st.integers(1, 4))
def test_zero_gradients_have_no_effect(w, count):
    after, m = run(w, [np.zeros(5)] * count)
    np.testing.assert_array_equal(after, w)
    np.testing.assert_array_equal(m, np.zeros(5))


@given(vectors, vectors.filter(lambda g: np.any(g != 0)))
def test_the_first_step_is_as_long_as_the_learning_rate(w, g):
    _, m = run(w, [g], lr=0.25, epsilon=1e-300)
    assert np.linalg.norm(m) == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize(("norm", "clip"), [("l2", 0.5), ("l2", 2.0), ("inf", 0.5)])
def test_no_normalised_gradient_is_longer_than_the_limit(norm, clip):
    settings = {"lr": 1.0, "beta1": 0.0, "beta2": 0.75, "epsilon": 0.0, "weight_decay": 0.0}
    plain, limited = (
        rule.numbers(replace(DOCUMENTED, norm=norm, clip=c), grad_averaging=False, **settings)
        for c in (None, clip)
    )
    sizes = np.array([1e-3, 1.0, 10.0, 1e3])
    s, v = (sizes if norm == "inf" else sizes**2), np.ones(4)
    free, bounded = (rule.advance(s, v, numbers, xp=np) for numbers in (plain, limited))
    np.testing.assert_array_equal(bounded.v, free.v)
    lengths = np.minimum(sizes * free.scalars.a, clip)
    np.testing.assert_allclose(sizes * bounded.scalars.a, lengths, rtol=1e-13)


@pytest.mark.parametrize("largest", [None, np.float32(4)])
@pytest.mark.parametrize("clip", [None, 1.0, 1e-200])
def test_an_infinite_norm_takes_no_step_and_keeps_v_with_any_limit(clip, largest):
    numbers = rule.numbers(
        replace(DOCUMENTED, clip=clip),
        lr=1.0,
        beta1=0.9,
        beta2=0.5,
        epsilon=0.0,
        weight_decay=0.0,
        grad_averaging=False,
    )
    v, kept, scalars = rule.advance(np.float32(np.inf), np.float32(2), numbers, 1, largest, xp=np)
    assert (v, kept, scalars.a) == (2, largest, 0)


def test_read_only_inputs_and_scalars_for_many_layers_at_once():
    w, m, g = np.ones((3, 2)), np.zeros((3, 2)), np.arange(6.0).reshape(3, 2)
    for x in (w, m, g):
        x.flags.writeable = False
    s = np.sum(g * g, axis=1, keepdims=True)
    numbers = documented(0.1, 0.9, 0.98, 0.0, 0.1)
    _, _, scalars = rule.advance(s, 0 * s, numbers, xp=np)
    together = rule.linear_pass(w, m, g, scalars, beta1=0.9)
    for i in range(3):
        alone = step(w[i], m[i], 0.0, g[i], epsilon=0.0, decay=0.1)
        np.testing.assert_array_equal(together[0][i], alone[0])
        np.testing.assert_array_equal(together[1][i], alone[1])


def test_the_rule_imports_only_data():
    lines = Path(rule.__file__).read_text(encoding="utf-8").splitlines()
    # A limit on the length keeps the rule small. The limit of normalised gradients needed 5 lines.
    assert len(lines) <= 205
    assert [line for line in lines if line.startswith(("import ", "from "))] == [
        "import math",
        "from typing import Any, NamedTuple",
        "from novograd.variants import Variant",
    ]
