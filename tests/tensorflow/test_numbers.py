"""Very large, very small and nonfinite gradients give right steps or documented results."""

import numpy as np
import pytest
import tensorflow as tf

from novograd.tensorflow import NovoGrad
from tests.helpers.oracle import trained

WRAPS = {
    "eager": lambda f: f,
    "function": tf.function,
    "compiled": lambda f: tf.function(f, jit_compile=True),
}
HYPER = {
    "learning_rate": 0.5,
    "beta1": 0.9,
    "beta2": 0.98,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "grad_averaging": False,
}


def train(gradients, dtype="float32", wrap="eager", **changes):
    """Takes steps from weights of 1. Returns the weights, and v after each step."""
    w = tf.Variable(np.ones_like(gradients[0]), dtype=dtype)
    optimizer = NovoGrad(**HYPER | changes)
    norms = []

    def apply(gradient):
        optimizer.apply_gradients([(gradient, w)])

    apply = WRAPS[wrap](apply)
    for gradient in gradients:
        apply(tf.constant(gradient, dtype))
        norms.append(float(optimizer.get_slot(w, "v")))
    return w.numpy(), norms


def oracle(gradients):
    return trained(np.ones_like(gradients[0]), gradients, **HYPER)[0]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(
    ("dtype", "size", "tolerance"),
    [
        ("float32", 1e-20, 2e-6),
        ("float32", 1e15, 2e-6),
        ("float16", 300.0, 1e-3),
        ("float16", 1e-4, 1e-3),
        ("bfloat16", 1e15, 8e-3),
        ("float64", 1e-150, 1e-14),
        ("float64", 1e150, 1e-14),
    ],
)
def test_the_step_is_right(wrap, dtype, size, tolerance):
    gradients = [size * np.array([3.0, -4.0, 0.5]), size * np.array([1.0, 2.0, -2.0])]
    w, _ = train(gradients, dtype, wrap)
    stored = [tf.constant(g, dtype).numpy().astype(np.float64) for g in gradients]
    np.testing.assert_allclose(w.astype(np.float64), oracle(stored), rtol=tolerance)


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_squared_norm_beyond_float32_is_ignored(wrap):
    usual, huge = np.array([3.0, 4.0]), np.array([1e25, -1e25])
    for gradients, remembered in (
        ([huge, usual], [0.0, 25.0]),
        ([usual, huge, usual], [25.0, 25.0, 25.0]),
    ):
        w, norms = train(gradients, wrap=wrap)
        np.testing.assert_allclose(norms, remembered, rtol=1e-6)
        # The huge gradient acts like a zero gradient, except that v does not decay.
        m, expected = np.zeros(2), np.ones(2)
        for gradient in gradients:
            m = 0.9 * m + (0.0 if gradient is huge else 0.5 * gradient / 5.0)
            expected = expected - m
        np.testing.assert_allclose(w, expected, rtol=1e-6)


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_squared_norm_below_float32_counts_as_zero(wrap):
    _, norms = train([np.array([1e-25, 1e-25])], wrap=wrap)
    assert norms == [0.0]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_zero_gradient_with_epsilon_0_gives_finite_weights(wrap, dtype):
    w, norms = train([np.zeros(2), np.array([3.0, 4.0])], dtype, wrap, epsilon=0.0)
    assert norms == [0.0, 25.0]
    np.testing.assert_allclose(w.astype(np.float64), [0.7, 0.6], rtol=4e-3)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_is_not_hidden(bad):
    """Every TensorFlow optimizer does this. v stays valid, so the weights can be restored."""
    w, norms = train([np.array([3.0, 4.0]), np.array([bad, 1.0])])
    assert np.isnan(w[0])
    assert norms == [25.0, 25.0]


def test_half_precision_is_rounded_once():
    """Steps use float32 arithmetic, so float16 weights are the nearest to the exact result."""
    random = np.random.default_rng(0)
    gradient = random.standard_normal(1000).astype(np.float16)
    w = tf.Variable(random.standard_normal(1000), dtype=tf.float16)
    before = w.numpy().astype(np.float64)
    NovoGrad(**HYPER | {"weight_decay": 0.1}).apply_gradients([(tf.constant(gradient), w)])
    exact, _, _ = trained(before, [gradient], **HYPER | {"weight_decay": 0.1})
    np.testing.assert_array_equal(w.numpy(), exact.astype(np.float16))


@pytest.mark.parametrize(
    ("gradient", "tolerance"),
    [
        (np.random.default_rng(0).standard_normal(2_000_000), 1e-6),
        # TensorFlow sums in float32. Equal small numbers that are added to a large sum are all
        # rounded in the same direction, so their errors add up: this is the worst case.
        (np.r_[1.0, np.full(2_000_000, 1e-3)], 1e-5),
    ],
    ids=["random", "worst case"],
)
def test_the_norm_of_many_elements_is_accurate(gradient, tolerance):
    stored = gradient.astype(np.float32)
    _, norms = train([stored])
    np.testing.assert_allclose(norms, np.sum(stored.astype(np.float64) ** 2), rtol=tolerance)
