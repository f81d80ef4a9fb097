"""Dtypes, and gradients at the ends of the range."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from novograd.jax import novograd
from novograd.variants import DOCUMENTED, VARIANTS
from tests.helpers.jax import assert_close, made_up, train
from tests.helpers.oracle import trained
from tests.helpers.parameters import crossed

NUMBERS = {"learning_rate": 0.5, "b1": 0.9}
BOTH = pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])


@pytest.fixture
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def steps(gradients, dtype=jnp.float32, jit=True, **changes):
    """Takes steps from weights of 1. Returns the weights, and v after each step."""
    optimizer = novograd(**NUMBERS | changes)
    w, norms = jnp.ones(np.shape(gradients[0]), dtype), []
    for end in range(1, len(gradients) + 1):
        w, state = train(
            optimizer, jnp.ones_like(w), [jnp.asarray(g, dtype) for g in gradients[:end]], jit
        )
        norms.append(float(state.nu))
    return w, norms


@BOTH
@pytest.mark.parametrize(
    ("dtype", "size", "tolerance"),
    [
        ("float32", 1e-20, 2e-6),
        ("float32", 1e15, 2e-6),
        # Two units in the last place: in each step the update and its sum are rounded.
        ("float16", 300.0, 2e-3),
        ("float16", 1e-4, 2e-3),
        ("bfloat16", 1e15, 1.6e-2),
        ("float64", 1e-150, 1e-14),
        ("float64", 1e150, 1e-14),
    ],
)
def test_the_step_is_right(jit, dtype, size, tolerance, request):
    if dtype == "float64":
        request.getfixturevalue("float64")
    gradients = [size * np.array([3.0, -4.0, 0.5]), size * np.array([1.0, 2.0, -2.0])]
    stored = [np.asarray(jnp.asarray(g, dtype), np.float64) for g in gradients]
    w, _ = steps(gradients, dtype, jit)
    assert w.dtype == dtype
    expected, _, _ = trained(np.ones(3), stored, learning_rate=0.5, beta1=0.9)
    assert_close(w, expected, rtol=tolerance)


@BOTH
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_squared_norm_beyond_float32_is_ignored(jit, clip):
    usual, huge = np.array([3.0, 4.0]), np.array([1e25, -1e25])
    for gradients, remembered in (
        ([huge, usual], [0.0, 25.0]),
        ([usual, huge, usual], [25.0, 25.0, 25.0]),
    ):
        w, norms = steps(gradients, jit=jit, variant=replace(DOCUMENTED, clip=clip))
        np.testing.assert_allclose(norms, remembered, rtol=1e-6)
        # The huge gradient acts like a zero gradient, except that v does not decay.
        m, expected = np.zeros(2), np.ones(2)
        for gradient in gradients:
            m = 0.9 * m + (0.0 if gradient is huge else 0.5 * gradient / 5.0)
            expected = expected - m
        assert_close(w, expected)


@BOTH
def test_a_squared_norm_below_float32_counts_as_zero(jit):
    _, norms = steps([np.array([1e-25, 1e-25])], jit=jit)
    assert norms == [0.0]


@BOTH
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("eps", [0.0, jnp.zeros(())], ids=["number", "array"])
def test_a_zero_gradient_with_eps_0_gives_finite_weights(jit, dtype, eps):
    w, norms = steps([np.zeros(2), np.array([3.0, 4.0])], dtype, jit, eps=eps)
    assert norms == [0.0, 25.0]
    assert_close(w, [0.7, 0.6], rtol=4e-3)


@BOTH
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_gradient_that_is_not_finite_is_not_hidden(jit, bad):
    """Every optimizer of optax does this. v stays valid, so the weights can be restored."""
    w, norms = steps([np.array([3.0, 4.0]), np.array([bad, 1.0])], jit=jit)
    assert np.isnan(w[0])
    assert norms == [25.0, 25.0]


@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e25])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_skip_nonfinite_leaves_that_leaf_unchanged(bad, dtype):
    weights, gradients = made_up({"a": (3,), "b": (2, 2)})
    weights, *gradients = (
        jax.tree.map(lambda x: jnp.asarray(x, dtype), tree) for tree in (weights, *gradients)
    )
    optimizer = novograd(0.1, weight_decay=0.1, nesterov=True, skip_nonfinite=True)
    spoiled = [*gradients[:3], gradients[3] | {"a": jnp.array([1, bad, 1], dtype)}, *gradients[4:]]
    w, state = train(optimizer, weights, spoiled)
    # The skipped leaf has one step fewer, bit for bit; the other leaf has all steps.
    skipped, skipped_state = train(optimizer, weights, gradients[:3] + gradients[4:])
    usual, usual_state = train(optimizer, weights, gradients)
    for key, expected in (
        ("a", (skipped, skipped_state.mu, skipped_state.nu)),
        ("b", (usual, usual_state.mu, usual_state.nu)),
    ):
        for tree, other in zip((w, state.mu, state.nu), expected, strict=True):
            np.testing.assert_array_equal(tree[key], other[key])


def test_half_precision_is_rounded_once():
    """Momentum buffer and update are each the number nearest to the float32 result."""
    random = np.random.default_rng(0)
    w, gradient = (random.standard_normal(1000).astype(np.float16) for _ in range(2))
    optimizer = novograd(0.5, weight_decay=0.1, nesterov=True)
    updates, state = optimizer.update(jnp.asarray(gradient), optimizer.init(w), w)
    after, moment, _ = trained(w, [gradient], learning_rate=0.5, weight_decay=0.1, nesterov=True)
    for actual, exact in ((state.mu, moment), (updates, after - w.astype(np.float64))):
        unit = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
        assert np.all(np.abs(np.asarray(actual, np.float64) - exact) <= unit / 2 + 2e-7)


def test_the_update_comes_from_the_momentum_buffer_before_it_is_rounded():
    gradients = [jnp.asarray(g["a"]) for g in made_up({"a": (50,)})[1]]
    w, state = train(novograd(0.1, mu_dtype=jnp.bfloat16), jnp.zeros(50), gradients[:1])
    expected, moment, _ = trained(np.zeros(50), gradients[:1])
    assert_close(w, expected)
    np.testing.assert_array_equal(state.mu, jnp.asarray(moment, jnp.bfloat16))


@pytest.mark.parametrize(
    ("weight", "asked", "moment"),
    [
        ("float32", None, "float32"),
        ("float32", "bfloat16", "bfloat16"),
        ("bfloat16", None, "bfloat16"),
        ("bfloat16", np.float32, "float32"),
        ("float16", jnp.float32, "float32"),
        ("complex64", None, "complex64"),
        ("complex64", "float32", "complex64"),
    ],
)
def test_state_and_updates_have_the_documented_dtypes(weight, asked, moment):
    optimizer = novograd(0.1, weight_decay=0.1, mu_dtype=asked)
    w = jnp.ones(3, weight)
    state = optimizer.init(w)
    for _ in range(2):
        updates, state = optimizer.update(w, state, w)
        assert (updates.dtype, state.mu.dtype, state.nu.dtype) == (weight, moment, "float32")


def test_updates_have_the_dtype_of_the_gradients():
    w, g = jnp.ones(2), jnp.array([3.0, 4.0], jnp.bfloat16)
    updates, state = novograd(0.5).update(g, novograd(0.5).init(w), w)
    assert (updates.dtype, state.mu.dtype) == ("bfloat16", "float32")
    assert_close(updates, [-0.3, -0.4], rtol=4e-3)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("as_array", [False, True])
def test_float64_leaves_may_stand_beside_float32_leaves(as_array):
    weights, gradients = made_up({"a": (3,), "b": (2, 2)}, dtype=np.float64)
    weights, *gradients = (tree | {"b": np.float32(tree["b"])} for tree in (weights, *gradients))
    lr = jnp.asarray(0.1, jnp.float64) if as_array else 0.1
    w, state = train(novograd(lr, weight_decay=0.1), weights, gradients)
    assert (
        jax.tree.map(lambda x: x.dtype.name, (w, state.mu, state.nu))
        == ({"a": "float64", "b": "float32"},) * 3
    )
    for key, tolerance in (("a", 1e-14), ("b", 2e-6)):
        expected = trained(weights[key], [g[key] for g in gradients], weight_decay=0.1)
        for actual, value in zip((w, state.mu, state.nu), expected, strict=True):
            assert_close(actual[key], value, tolerance)


@pytest.mark.usefixtures("float64")
def test_complex128_leaves_have_a_float64_norm():
    w = jnp.array([3.0 + 4.0j])
    _, state = train(novograd(0.1), w, [w])
    assert (w.dtype, state.mu.dtype, state.nu.dtype) == ("complex128", "complex128", "float64")
    assert float(state.nu) == 25.0


def test_one_minus_b2_is_exact():
    gradients = [jnp.array([1.0]), jnp.array([1000.0])]
    _, state = train(novograd(0.1, b2=0.999999), jnp.ones(1), gradients)
    np.testing.assert_allclose(float(state.nu), 0.999999 + 1e-6 * 1e6, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_complex_leaves_equal_pairs_of_real_numbers(jit, shape):
    weights, gradients = made_up({"re": shape, "im": shape})

    def join(tree):
        return jnp.asarray(tree["re"] + 1j * tree["im"])

    optimizer = novograd(0.1, weight_decay=0.1, nesterov=True)
    w, state = train(optimizer, join(weights), [join(g) for g in gradients], jit)
    expected = trained(
        np.stack([weights["re"], weights["im"]]),
        [np.stack([g["re"], g["im"]]) for g in gradients],
        weight_decay=0.1,
        nesterov=True,
    )
    assert w.shape == shape
    for actual, value in ((w, expected[0]), (state.mu, expected[1])):
        assert_close(jnp.stack([actual.real, actual.imag]), value)
    assert_close(state.nu, expected[2])
    assert state.nu.shape == ()


def test_empty_leaves_and_trees_are_accepted():
    optimizer = novograd(0.1, weight_decay=0.1)
    w, state = train(optimizer, {"a": jnp.ones((0, 3))}, [{"a": jnp.ones((0, 3))}] * 2)
    assert (w["a"].shape, float(state.nu["a"])) == ((0, 3), 0.0)
    w, state = train(optimizer, {}, [{}, {}])
    assert (w, state.mu, state.nu, int(state.count)) == ({}, {}, {}, 2)


def test_gradients_and_state_are_not_modified():
    gradient, w = np.array([3.0, 4.0], np.float32), np.ones(2, np.float32)
    optimizer = novograd(0.1, weight_decay=0.1)
    state = optimizer.init(w)
    optimizer.update(gradient, state, w)
    assert (gradient.tolist(), w.tolist(), state.mu.tolist()) == ([3, 4], [1, 1], [0, 0])


@BOTH
@pytest.mark.parametrize(
    "gradient",
    [np.random.default_rng(0).standard_normal(2_000_000), np.r_[1.0, np.full(2_000_000, 1e-3)]],
    ids=["random", "small beside a large sum"],
)
def test_the_norm_of_many_elements_is_accurate(jit, gradient):
    stored = gradient.astype(np.float32)
    optimizer = novograd(0.1)
    update = jax.jit(optimizer.update) if jit else optimizer.update
    _, state = update(jnp.asarray(stored), optimizer.init(stored))
    np.testing.assert_allclose(state.nu, np.sum(stored.astype(np.float64) ** 2), rtol=5e-7)


def test_the_documented_difference_from_optax():
    """After a zero gradient at the first step, optax averages the next squared norm with zero."""
    w, gradients = jnp.ones(2), [jnp.zeros(2), jnp.array([3.0, 4.0])]
    ours, _ = train(novograd(0.1, b1=0.9, b2=0.75), w, gradients)
    theirs, _ = train(optax.novograd(0.1, b1=0.9, b2=0.75), w, gradients)
    assert_close(ours, [1 - 0.06, 1 - 0.08])
    assert_close(theirs, [1 - 0.12, 1 - 0.16], rtol=1e-5)


@crossed("fused", {"kernels": None, "rule": False}, "variant", {name: name for name in VARIANTS})
def test_a_step_with_a_learning_rate_and_gradients_of_zero_keeps_the_state(variant, fused):
    """Weight decay does not enter the momentum buffer of a layer that never had a gradient."""
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    optimizer = novograd(0.0, variant=variant, weight_decay=0.1, fused=fused)
    gradients = jax.tree.map(jnp.zeros_like, params)
    before = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(gradients, before, params)
    assert not any(map(np.any, jax.tree.leaves(updates)))
    for x, y in zip(jax.tree.leaves(state[1:]), jax.tree.leaves(before[1:]), strict=True):
        np.testing.assert_array_equal(x, y)
    assert state.count == 1
