"""Layers that are not leaves: the results equal those of the same layers as separate leaves."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from novograd import native, variants
from novograd.jax import novograd, scale_by_novograd
from novograd.layers import Rows, Split, Stacked
from tests.helpers.jax import assert_close, made_up, train
from tests.helpers.oracle import trained
from tests.helpers.parameters import crossed

HYPER = {"weight_decay": 0.1, "nesterov": True}
FUSED = [False, pytest.param(None, marks=pytest.mark.skipif(not native.kernels, reason="no C++"))]


def assert_trees_close(actual, expected, rtol=2e-6):
    jax.tree.map(lambda x, y: assert_close(x, y, rtol), actual, expected)


def assert_equal_to_separate_leaves(layers, weights, gradients, apart, **arguments):
    """Compares training a tree with training its layers, which ``apart`` makes separate leaves."""
    w, state = train(novograd(0.1, **HYPER, layers=layers, **arguments), weights, gradients)
    lone, lone_state = train(
        novograd(0.1, **HYPER, **arguments), apart(weights), [apart(g) for g in gradients]
    )
    assert_trees_close(apart(w), lone)
    assert_trees_close(apart(state.mu), lone_state.mu)
    expected = jax.tree.map(lambda v: np.reshape(v, -1)[0], apart(state.nu, of_v=True))
    assert_trees_close(expected, lone_state.nu)


# -- stacked, split, rows -------------------------------------------------------------------------


@pytest.mark.parametrize("fused", FUSED)
def test_scanned_layers_are_trained_as_separate_leaves(fused):
    shapes = {"kernel": (4, 3, 5), "bias": (4, 5), "head": (5, 2)}
    weights, gradients = made_up(shapes, steps=30)

    def tree(x):
        return {"scan": {"kernel": x["kernel"], "bias": x["bias"]}, "head": x["head"]}

    def apart(x, of_v=False):
        return {
            "head": x["head"],
            **{f"{i}": {k: a[i] for k, a in x["scan"].items()} for i in range(4)},
        }

    assert_equal_to_separate_leaves(
        {"scan": Stacked(), "head": None},
        tree(weights),
        [tree(g) for g in gradients],
        apart,
        fused=fused,
    )


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_experts_are_trained_as_separate_leaves(axis, fused):
    weights, gradients = made_up({"experts": (4, 4, 4), "plain": (3,)}, steps=6)

    def apart(x, of_v=False):
        experts = np.moveaxis(np.asarray(x["experts"]), axis, 0)
        return {"plain": x["plain"], **{f"{i}": expert for i, expert in enumerate(experts)}}

    layers = {"experts": Stacked(axis), "plain": None}
    assert_equal_to_separate_leaves(layers, weights, gradients, apart, fused=fused)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("axis", [0, -1])
def test_queries_keys_and_values_are_trained_as_separate_leaves(axis, fused):
    shape = (4, 9) if axis else (9, 4)
    weights, gradients = made_up({"qkv": shape, "bias": (9,)}, steps=6)
    sizes = (5, 2, 2)

    def apart(x, of_v=False):
        ends = [1, 2] if of_v else np.cumsum(sizes)[:-1]
        return {
            "qkv": np.split(np.asarray(x["qkv"]), ends, axis),
            "bias": np.split(np.asarray(x["bias"]), ends),
        }

    layers = {"qkv": Split(sizes, axis), "bias": Split(sizes)}
    assert_equal_to_separate_leaves(layers, weights, gradients, apart, fused=fused)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("scale", ["norm", "rms"])
def test_rows_are_trained_as_separate_leaves(scale, fused):
    shapes = {"kernel": (3, 5), "bias": (5,), "embedding": (6, 4), "scalar": ()}
    weights, gradients = made_up(shapes)
    optimizer = novograd(0.1, **HYPER, layers=Rows(scale=scale), fused=fused)
    w, state = train(optimizer, weights, gradients)
    rows = {"kernel": 5, "bias": 5, "embedding": 6, "scalar": 1}
    for key, count in rows.items():
        axis = 0 if key == "embedding" else -1
        size = np.size(weights[key]) / count
        factor = count**-0.5 if scale == "norm" else size**0.5
        for i in range(count):

            def row(x, axis=axis, i=i):
                return np.take(np.atleast_1d(x), i, axis)

            expected = trained(
                row(weights[key]), [row(g[key]) for g in gradients], scale=factor, **HYPER
            )
            assert_close(row(w[key]), expected[0])
            assert_close(row(state.mu[key]), expected[1])
            assert_close(np.ravel(state.nu[key])[i], expected[2])
    assert jax.tree.map(jnp.shape, state.nu) == {
        "kernel": (1, 5),
        "bias": (5,),
        "embedding": (6, 1),
        "scalar": (),
    }


def test_the_first_step_of_rows_has_the_documented_norm():
    w, g = jnp.zeros((64, 10)), jax.random.normal(jax.random.key(0), (64, 10))
    for scale, norm in (("norm", 1.0), ("rms", 640**0.5)):
        optimizer = novograd(1.0, layers=Rows(scale=scale))
        updates, _ = optimizer.update(g, optimizer.init(w))
        assert_close(jnp.linalg.norm(updates), norm)


@pytest.mark.parametrize("fused", FUSED)
def test_complex_leaves_equal_pairs_of_real_numbers(fused):
    layers = {"stacked": Stacked(), "split": Split((2, 1), axis=1), "rows": Rows()}
    shapes = {"stacked": (3, 20), "split": (4, 3), "rows": (2, 3)}
    real, gradients = made_up(shapes)
    weights = {k: x + 2j * x[::-1] for k, x in real.items()}
    pairs = {k: np.stack([x.real, x.imag], -1) for k, x in weights.items()}
    gradients = [{k: g - 3j * g[::-1] for k, g in tree.items()} for tree in gradients]
    of_pairs = {"stacked": Stacked(), "split": Split((2, 1), axis=1), "rows": Rows(axes=1)}
    w, state = train(novograd(0.1, **HYPER, layers=layers, fused=fused), weights, gradients)
    expected, other = train(
        novograd(0.1, **HYPER, layers=of_pairs, fused=False),
        pairs,
        [{k: np.stack([g.real, g.imag], -1) for k, g in tree.items()} for tree in gradients],
    )
    for key in shapes:
        assert_close(np.stack([w[key].real, w[key].imag], -1), expected[key])
        assert_close(state.nu[key], other.nu[key][..., 0])


# -- each layer on its own ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "shape", "where"),
    [
        (Stacked(), (3, 4, 16), np.s_[1:2]),
        (Rows(axes=0), (3, 16), np.s_[1:2]),
        (Rows(), (16, 3), np.s_[:, 1:2]),
        (Split((1, 1, 2)), (4, 3), np.s_[1:2]),
    ],
    ids=str,
)
@crossed("way", {"step": "step", "update": "update"}, "fused", {"kernels": None, "rule": False})
def test_a_skipped_layer_keeps_every_bit_and_the_others_are_updated(
    way, layers, shape, where, fused
):
    optimizer = novograd(0.1, **HYPER, layers=layers, skip_nonfinite=True, fused=fused)
    weights, (first, second) = made_up({"w": shape}, steps=2)
    w, state = train(optimizer, weights, [first])
    second["w"][where].flat[0] = np.nan
    if way == "step":
        after, then = jax.jit(optimizer.step)(w, state, second)
    else:
        updates, then = jax.jit(optimizer.update)(second, state, w)
        after = optax.apply_updates(w, updates)
    for x, y in ((after, w), (then.mu, state.mu), (then.nu, state.nu)):
        same = np.asarray(x["w"]) == np.asarray(y["w"])
        assert np.all(same[where])
        assert np.count_nonzero(same) == np.count_nonzero(same[where])


@pytest.mark.parametrize("fused", FUSED)
def test_each_layer_has_its_own_history(fused):
    w = jnp.zeros((2, 16))
    optimizer = novograd(0.1, b2=0.5, layers=Stacked(), fused=fused)
    state = optimizer.init(w)
    gradients = jnp.ones((2, 16)).at[1].set(0), jnp.full((2, 16), 2.0), jnp.full((2, 16), 1e30)
    for gradient, expected in zip(gradients, ([16, 0], [40, 64], [40, 64]), strict=True):
        updates, state = optimizer.update(gradient, state)
        assert_close(state.nu.ravel(), expected)
        assert np.all(np.isfinite(updates))


# -- how to give layers ---------------------------------------------------------------------------


def nu_shapes(layers, weights):
    return jax.tree.map(jnp.shape, novograd(0.1, layers=layers).init(weights).nu)


def test_layers_may_be_one_value_or_a_prefix_of_the_tree():
    weights = {"a": {"x": jnp.ones((2, 3)), "y": jnp.ones(2)}, "b": [jnp.ones((4, 2)), None]}
    whole = {"x": (), "y": ()}
    stacked = {"x": (2, 1), "y": (2,)}
    assert nu_shapes(None, weights) == {"a": whole, "b": [(), None]}
    assert nu_shapes(Stacked(), weights) == {"a": stacked, "b": [(4, 1), None]}
    assert nu_shapes({"a": None, "b": Stacked()}, weights) == {"a": whole, "b": [(4, 1), None]}
    layers = {"a": {"x": Rows(), "y": None}, "b": [Split((3, 1)), None]}
    assert nu_shapes(layers, weights) == {"a": {"x": (1, 3), "y": ()}, "b": [(2, 1), None]}


def test_layers_may_be_functions():
    weights = {"moe": {"wi": jnp.ones((4, 3, 5))}, "out": jnp.ones((5, 2), jnp.bfloat16)}

    def choose(path, leaf):
        return Stacked() if path[0].key == "moe" else Rows() if leaf.ndim == 2 else None

    assert nu_shapes(choose, weights) == {"moe": {"wi": (4, 1, 1)}, "out": (1, 2)}
    layers = {"moe": choose, "out": None}
    assert nu_shapes(layers, weights) == {"moe": {"wi": (4, 1, 1)}, "out": ()}
    # A step calls the function again.
    optimizer = novograd(0.1, layers=choose)
    _, state = jax.jit(optimizer.update)(weights, optimizer.init(weights))
    assert state.nu["out"].dtype == jnp.float32


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=[])
class Box:
    """Like the boxes of Flax, which add ``.value`` to the path."""

    def __init__(self, value):
        self.value = value


def test_rows_recognize_an_embedding_in_a_box():
    weights = {"embedding": Box(jnp.ones((5, 3))), "kernel": Box(jnp.ones((5, 3)))}
    shapes = nu_shapes(Rows(), weights)
    assert (shapes["embedding"].value, shapes["kernel"].value) == ((5, 1), (1, 3))


def test_a_leaf_without_a_gradient_keeps_its_state():
    weights, (first, second) = made_up({"a": (3, 16), "b": (4, 2)}, steps=2)
    optimizer = novograd(0.1, layers={"a": Stacked(), "b": Rows()})
    w, state = train(optimizer, weights, [first])
    updates, after = optimizer.update({"a": second["a"], "b": None}, state, w)
    assert updates["b"] is None
    np.testing.assert_array_equal(after.nu["b"], state.nu["b"])
    assert np.all(np.asarray(after.nu["a"]) != np.asarray(state.nu["a"]))


def test_layers_work_in_scale_by_novograd_and_wrappers():
    weights, gradients = made_up({"a": (3, 16), "b": (4, 2)})
    layers = {"a": Stacked(), "b": Rows()}
    expected, _ = train(novograd(0.1, **HYPER, layers=layers), weights, gradients)
    for optimizer in (
        optax.chain(scale_by_novograd(**HYPER, layers=layers), optax.scale_by_learning_rate(0.1)),
        optax.inject_hyperparams(novograd)(0.1, **HYPER, layers=layers),
        optax.masked(novograd(0.1, **HYPER, layers=layers), {"a": True, "b": True}),
    ):
        w, _ = train(optimizer, weights, gradients)
        assert_trees_close(w, expected)
    masked = optax.masked(novograd(0.1, **HYPER, layers=layers), {"a": True, "b": False})
    w, _ = train(masked, weights, gradients)
    assert_close(w["a"], expected["a"])


# -- transformations of JAX -----------------------------------------------------------------------

MIXED = {"stacked": Stacked(), "split": Split((3, 1)), "rows": Rows(scale="rms")}


def mixed(steps=2):
    weights, gradients = made_up({"stacked": (3, 16), "split": (4, 3), "rows": (3, 5)}, steps)
    optimizer = novograd(0.1, **HYPER, layers=MIXED)
    state = optimizer.init(weights)
    _, state = optimizer.update(gradients[0], state, weights)
    return optimizer, weights, state, gradients[1]


def test_vmap_agrees_with_separate_calls():
    optimizer, weights, state, gradients = mixed()
    batch = jax.tree.map(lambda x: jnp.stack([x, 3 * x]), gradients)
    result = jax.vmap(optimizer.update, in_axes=(0, None, None))(batch, state, weights)
    for i in range(2):
        alone = optimizer.update(jax.tree.map(lambda x, i=i: x[i], batch), state, weights)
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], result), alone)


def test_the_derivative_by_the_learning_rate_is_right():
    _, weights, state, gradients = mixed()

    def loss(lr, gradients):
        updates, _ = novograd(lr, **HYPER, layers=MIXED).update(gradients, state, weights)
        return sum(jnp.sum(u**3) for u in jax.tree.leaves(updates))

    gradients = jax.tree.map(jnp.asarray, gradients)
    slope, by_gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(0.1, gradients)
    h = 1e-2  # the loss is a polynomial of the third degree in lr
    assert_close(slope, (loss(0.1 + h, gradients) - loss(0.1 - h, gradients)) / (2 * h), rtol=1e-2)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(by_gradients))


def test_scan_carries_the_state():
    optimizer, weights, state, gradients = mixed()
    (_, scanned), _ = jax.lax.scan(
        lambda carry, _: (optimizer.step(*carry, gradients), None), (weights, state), length=3
    )
    w = weights
    for _ in range(3):
        w, state = optimizer.step(w, state, gradients)
    assert_trees_close(scanned, state)


# -- the native kernels ---------------------------------------------------------------------------

needs_kernels = pytest.mark.skipif(not native.kernels, reason="no C++")


@needs_kernels
def test_layers_are_one_call_in_place():
    layers = {"stacked": Stacked(), "middle": Stacked(1), "rows": Rows(0, "rms"), "whole": None}
    weights = {
        "stacked": jnp.ones((3, 4, 5)),
        "middle": jnp.ones((3, 4, 32)),
        "rows": jnp.ones((7, 5)),
        "whole": jnp.ones((7, 5)),
    }
    optimizer = novograd(0.1, layers=layers, fused=True, weight_decay=0.1)
    step = jax.jit(optimizer.step, donate_argnums=(0, 1))
    text = step.lower(weights, optimizer.init(weights), weights).compile().as_text()
    assert text.count('custom_call_target="novograd_step"') == 1
    assert not [line for line in text.splitlines() if "copy(" in line and "f32[]" not in line]


@needs_kernels
@pytest.mark.parametrize(
    ("layers", "shape"),
    [(Split((2, 2)), (4, 3)), (Rows(), (4, 3)), (Stacked(1), (3, 4, 5))],
    ids=str,
)
def test_fused_true_is_refused_for_layers_without_a_kernel(layers, shape):
    w = jnp.ones(shape)
    optimizer = novograd(0.1, layers=layers, fused=True)
    name = type(layers).__name__
    with pytest.raises(RuntimeError, match=rf"^fused=True, but there is no kernel for {name}\(.*"):
        optimizer.update(w, optimizer.init(w))


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["rows", Rows, 3, {"a": 0}, [None, "x"]])
def test_layers_of_the_wrong_type_are_refused(value):
    for make in (functools.partial(novograd, 0.1), scale_by_novograd):
        with pytest.raises(
            TypeError, match=r"^layers must be Stacked, Split, Rows, Whole, None or a "
        ):
            make(layers=value)


def test_a_function_that_does_not_return_layers_is_refused():
    with pytest.raises(
        TypeError, match=r"^layers must return Stacked, Split, Rows, Whole or None, got 3"
    ):
        novograd(0.1, layers=lambda path, leaf: 3).init({"a": jnp.ones(3)})


@pytest.mark.parametrize("layers", [Split((2, 2)), Stacked(2), Rows((0, 5))])
def test_layers_that_do_not_fit_the_shape_are_refused(layers):
    said = r"^params\['a'\]: .* does not fit a weight of shape \(3, 4\)$"
    mine = replace(variants.DOCUMENTED, layers=layers)
    for optimizer in (novograd(0.1, layers=layers), novograd(0.1, variant=mine)):
        with pytest.raises(ValueError, match=said):
            optimizer.init({"a": jnp.ones((3, 4))})


def test_layers_that_are_not_a_prefix_are_refused():
    with pytest.raises(ValueError, match=r"^layers must be a prefix of the tree of weights: "):
        novograd(0.1, layers={"b": Stacked()}).init({"a": jnp.ones((3, 4))})


def test_a_state_of_other_layers_is_refused():
    w = {"a": jnp.ones((3, 4))}
    state = novograd(0.1).init(w)
    with pytest.raises(
        ValueError,
        match=r"^state.nu\['a'\] must have shape \(3, 1\) for layers=Stacked\(axes=0\), got \(\)$",
    ):
        novograd(0.1, layers=Stacked()).update(w, state)
