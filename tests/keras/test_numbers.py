"""Very large, very small and nonfinite gradients give right steps or documented results."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from novograd.keras import NovoGrad
from novograd.variants import DOCUMENTED, VARIANTS
from tests.helpers.oracle import trained

HYPER = {
    "learning_rate": 0.5,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "grad_averaging": False,
    "nesterov": False,
}
BETAS = (0.9, 0.98)


class Product(keras.Layer):
    """A layer whose gradient is its input."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=input_shape[1:], initializer="ones")

    def call(self, x):
        return keras.ops.sum(self.w * x, axis=-1)


def new(**changes):
    return NovoGrad(beta_1=BETAS[0], beta_2=BETAS[1], **HYPER | changes)


def numpy(x):
    return np.array(keras.ops.convert_to_numpy(x))


def train(gradients, dtype="float32", **changes):
    """Takes steps from weights of 1. Returns the weights, and v after each step."""
    w = keras.Variable(np.ones_like(gradients[0]), dtype=dtype)
    optimizer = new(**changes)
    norms = []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, dtype)], [w])
        norms.append(float(numpy(optimizer.variables[3])))
    return numpy(w), norms


def train_compiled(gradients, dtype="float32", **changes):
    """Does the same with ``train_on_batch``, compiled as the backend does by default."""
    model = keras.Sequential([keras.Input(gradients[0].shape, dtype=dtype), Product(dtype=dtype)])
    model.compile(new(**changes), loss=lambda _, product: product)
    norms = []
    for gradient in gradients:
        model.train_on_batch(gradient[None].astype(dtype), np.zeros(1, dtype))
        norms.append(float(numpy(model.optimizer.variables[3])))
    return numpy(model.trainable_variables[0]), norms


MODES = pytest.mark.parametrize("run", [train, train_compiled])


def oracle(gradients):
    return trained(np.ones_like(gradients[0]), gradients, beta1=BETAS[0], beta2=BETAS[1], **HYPER)[
        0
    ]


@MODES
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_the_step_is_right(run, size):
    gradients = [size * np.array([3.0, -4.0, 0.5]), size * np.array([1.0, 2.0, -2.0])]
    w, _ = run(gradients)
    stored = [g.astype(np.float32).astype(np.float64) for g in gradients]
    np.testing.assert_allclose(w, oracle(stored), rtol=2e-6)


@MODES
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_squared_norm_beyond_float32_is_ignored(run, clip):
    usual, huge = np.array([3.0, 4.0]), np.array([1e25, -1e25])
    for gradients, remembered in (
        ([huge, usual], [0.0, 25.0]),
        ([usual, huge, usual], [25.0, 25.0, 25.0]),
    ):
        w, norms = run(gradients, variant=replace(DOCUMENTED, clip=clip))
        np.testing.assert_allclose(norms, remembered, rtol=1e-6)
        # The huge gradient acts like a zero gradient, except that v does not decay.
        m, expected = np.zeros(2), np.ones(2)
        for gradient in gradients:
            m = 0.9 * m + (0.0 if gradient is huge else 0.5 * gradient / 5.0)
            expected = expected - m
        np.testing.assert_allclose(w, expected, rtol=1e-6)


@MODES
def test_a_squared_norm_below_float32_counts_as_zero(run):
    _, norms = run([np.array([1e-25, 1e-25])])
    assert norms == [0.0]


@MODES
def test_a_zero_gradient_with_epsilon_0_gives_finite_weights(run):
    w, norms = run([np.zeros(2), np.array([3.0, 4.0])], epsilon=0.0)
    assert norms == [0.0, 25.0]
    np.testing.assert_allclose(w, [0.7, 0.6], rtol=1e-6)


@MODES
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_is_not_hidden(run, bad):
    """Every Keras optimizer does this. v stays valid, so the weights can be restored."""
    w, norms = run([np.array([3.0, 4.0]), np.array([bad, 1.0])])
    assert np.isnan(w[0])
    assert norms == [25.0, 25.0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(dtype):
    """Steps use float32 arithmetic, so the weights are the numbers nearest to the exact result."""
    random = np.random.default_rng(0)
    w, gradient = (
        keras.Variable(random.standard_normal(1000), dtype=dtype, name=name) for name in "wg"
    )
    before, g = (numpy(x).astype(np.float64) for x in (w, gradient))
    optimizer = new(weight_decay=0.1)
    optimizer.apply([keras.ops.convert_to_tensor(gradient)], [w])
    hyper = HYPER | {"beta1": BETAS[0], "beta2": BETAS[1], "weight_decay": 0.1}
    exact, moment, _ = trained(before, [g], **hyper)
    np.testing.assert_array_equal(numpy(w), exact.astype(numpy(w).dtype))
    np.testing.assert_array_equal(numpy(optimizer.variables[2]), moment.astype(numpy(w).dtype))


def test_a_callable_learning_rate_has_float64_precision():
    w = keras.Variable([1.0], dtype="float64")
    new(learning_rate=lambda: 0.1).apply([keras.ops.ones(1, "float64")], [w])
    np.testing.assert_allclose(numpy(w), 1 - 0.1 / np.sqrt(1 + 1e-8), rtol=1e-15)


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_with_a_learning_rate_and_gradients_of_zero_keeps_the_state(variant):
    """Weight decay does not enter the momentum buffer of a layer that never had a gradient."""
    w = keras.Variable(np.ones((3, 4), np.float32))
    optimizer = NovoGrad(learning_rate=0.0, variant=variant, weight_decay=0.1)
    optimizer.apply([ops.zeros((3, 4))], [w])
    state = [x for x in optimizer.variables if x.name not in ("iteration", "learning_rate")]
    assert state
    for x in state:
        assert not np.any(ops.convert_to_numpy(x))
    np.testing.assert_array_equal(ops.convert_to_numpy(w), 1.0)
