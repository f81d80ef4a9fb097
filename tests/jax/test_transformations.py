"""Results stay the same inside the transformations of JAX and the wrappers of optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from novograd.jax import Novograd, novograd, scale_by_novograd
from novograd.layers import Rows, Stacked
from tests.helpers.jax import assert_close, made_up, train
from tests.helpers.oracle import trained

SHAPES = {"a": (3,), "b": (2, 4)}


def per_leaf(weights, gradients, **hyper):
    """Trains each leaf with the oracle and returns the weights."""
    return {k: trained(w, [g[k] for g in gradients], **hyper)[0] for k, w in weights.items()}


def assert_trees_close(actual, expected, rtol=2e-6):
    jax.tree.map(lambda x, y: assert_close(x, y, rtol), actual, expected)


def decreasing(step):
    return 0.2 * 0.8**step


# -- schedules and the place of the learning rate -------------------------------------------------


def test_schedules_are_called_with_the_number_of_earlier_steps():
    weights, gradients = made_up(SHAPES)

    def decay(step):
        return 0.1 * step

    w, state = train(novograd(decreasing, weight_decay=decay), weights, gradients)
    expected = per_leaf(weights, gradients, learning_rate=decreasing, weight_decay=decay)
    assert_trees_close(w, expected)
    assert int(state.count) == len(gradients)
    eager, _ = train(novograd(decreasing, weight_decay=decay), weights, gradients, jit=False)
    assert_trees_close(eager, expected)


def test_a_schedule_of_optax_is_followed():
    weights, gradients = made_up(SHAPES)
    schedule = optax.linear_schedule(0.2, 0.0, 6)
    w, _ = train(novograd(schedule), weights, gradients)
    expected = per_leaf(weights, gradients, learning_rate=lambda step: 0.2 * (1 - step / 6))
    assert_trees_close(w, expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_constant_learning_rate_may_be_applied_outside(nesterov):
    weights, gradients = made_up(SHAPES)
    hyper = {"weight_decay": 0.1, "grad_averaging": True, "nesterov": nesterov}
    inside, _ = train(novograd(0.1, **hyper), weights, gradients)
    outside, _ = train(
        optax.chain(scale_by_novograd(**hyper), optax.scale_by_learning_rate(0.1)),
        weights,
        gradients,
    )
    assert_trees_close(inside, per_leaf(weights, gradients, **hyper))
    assert_trees_close(outside, inside)


def test_a_schedule_applied_outside_gives_other_weights():
    weights, gradients = made_up({"a": (3,)})
    inside, _ = train(novograd(decreasing), weights, gradients)
    outside, _ = train(
        optax.chain(scale_by_novograd(), optax.scale_by_learning_rate(decreasing)),
        weights,
        gradients,
    )
    expected = np.float64(weights["a"])
    for step in range(len(gradients)):
        # With a learning rate of 1 the oracle's momentum buffer is the direction.
        _, direction, _ = trained(
            np.zeros(3), [g["a"] for g in gradients[: step + 1]], learning_rate=1.0
        )
        expected = expected - decreasing(step) * direction
    assert_close(outside["a"], expected)
    assert np.max(np.abs(inside["a"] - outside["a"])) > 0.1


def test_scale_by_novograd_does_not_change_the_sign():
    w, g = jnp.zeros(2), jnp.array([3.0, 4.0])
    updates, state = scale_by_novograd().update(g, scale_by_novograd().init(w))
    assert_close(updates, [0.6, 0.8])
    assert_close(state.mu, [0.6, 0.8])


# -- wrappers of optax ----------------------------------------------------------------------------


def test_chain_gives_the_same_weights():
    weights, gradients = made_up(SHAPES)
    w, _ = train(optax.chain(optax.clip(0.5), novograd(0.1)), weights, gradients)
    clipped = [jax.tree.map(lambda g: np.clip(g, -0.5, 0.5), tree) for tree in gradients]
    assert_trees_close(w, per_leaf(weights, clipped))


def test_inject_hyperparams_can_change_every_hyperparameter():
    weights, gradients = made_up({"a": (3,)}, steps=2)
    optimizer = optax.inject_hyperparams(novograd, static_args=("mask", "mu_dtype"))(
        0.1,
        b1=0.95,
        b2=0.98,
        eps=1e-8,
        weight_decay=0.0,
        mask=lambda params: {"a": True},
        mu_dtype=jnp.float32,
    )
    update = jax.jit(optimizer.update)
    state = optimizer.init(weights)
    updates, state = update(gradients[0], state, weights)
    w = optax.apply_updates(weights, updates)
    changed = {"learning_rate": 0.3, "b1": 0.5, "b2": 0.25, "eps": 4.0, "weight_decay": 0.5}
    state.hyperparams.update({k: jnp.float32(x) for k, x in changed.items()})
    updates, _ = update(gradients[1], state, w)
    w = optax.apply_updates(w, updates)
    # Compute the expected weights by hand.
    start, first, second = (np.float64(x["a"]) for x in (weights, *gradients))
    v = np.sum(first**2)
    m = 0.1 * first / np.sqrt(v + 1e-8)
    expected = start - m
    v = 0.25 * v + 0.75 * np.sum(second**2)
    m = 0.5 * m + 0.3 * (second / np.sqrt(v + 4.0) + 0.5 * expected)
    assert_close(w["a"], expected - m)


def test_inject_hyperparams_follows_a_schedule():
    weights, gradients = made_up(SHAPES)
    optimizer = optax.inject_hyperparams(novograd)(decreasing, nesterov=True)
    w, _ = train(optimizer, weights, gradients)
    expected = per_leaf(weights, gradients, learning_rate=decreasing, nesterov=True)
    assert_trees_close(w, expected)


def test_multi_transform_gives_the_same_weights():
    shapes = {"decaying": (3,), "plain": (2, 4), "frozen": (2,)}
    weights, gradients = made_up(shapes)
    optimizer = optax.multi_transform(
        {
            "decaying": novograd(0.1, weight_decay=0.1),
            "plain": novograd(0.2),
            "frozen": optax.set_to_zero(),
            "unused": novograd(0.3, weight_decay=0.1),
        },
        {name: name for name in shapes},
    )
    w, _ = train(optimizer, weights, gradients)
    expected = per_leaf(weights, gradients, weight_decay=0.1)
    assert_close(w["decaying"], expected["decaying"])
    assert_close(w["plain"], per_leaf(weights, gradients, learning_rate=0.2)["plain"])
    np.testing.assert_array_equal(w["frozen"], weights["frozen"])


@pytest.mark.parametrize(
    "mask", [{"a": True, "b": True}, lambda params: jax.tree.map(lambda w: True, params)]
)
def test_masked_updates_only_the_chosen_leaves(mask):
    weights, gradients = made_up(SHAPES)
    optimizer = optax.masked(novograd(0.1, weight_decay=0.1, mask=mask), {"a": True, "b": False})
    w, state = train(optimizer, weights, gradients)
    assert_close(w["a"], per_leaf(weights, gradients, weight_decay=0.1)["a"])
    # optax returns the gradient for a leaf that it masks.
    assert_close(w["b"], weights["b"] + np.sum([g["b"] for g in gradients], axis=0))
    assert isinstance(state.inner_state.mu["b"], optax.MaskedNode)


def test_multi_steps_uses_the_mean_gradient():
    weights, gradients = made_up(SHAPES)
    optimizer = optax.MultiSteps(novograd(decreasing, weight_decay=0.1), every_k_schedule=2)
    w, _ = train(optimizer, weights, gradients)
    means = [
        jax.tree.map(lambda x, y: (np.float64(x) + y) / 2, *pair)
        for pair in zip(gradients[::2], gradients[1::2], strict=True)
    ]
    assert_trees_close(w, per_leaf(weights, means, learning_rate=decreasing, weight_decay=0.1))


# bfloat16 has 8 bits, and each step rounds the update and the new weights.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 5e-2)])
def test_apply_if_finite_skips_a_nonfinite_step(dtype, tolerance):
    weights, gradients = made_up(SHAPES)
    weights, *gradients = (
        jax.tree.map(lambda x: jnp.asarray(x, dtype), tree) for tree in (weights, *gradients)
    )
    spoiled = gradients[2] | {"a": jnp.full(3, jnp.nan, dtype)}
    optimizer = optax.apply_if_finite(novograd(0.1, weight_decay=0.1), max_consecutive_errors=2)
    w, state = train(optimizer, weights, [*gradients[:2], spoiled, *gradients[2:]])
    assert int(state.total_notfinite) == 1
    assert w["a"].dtype == dtype
    as_float64 = [
        jax.tree.map(lambda x: np.asarray(x, np.float64), tree) for tree in (weights, *gradients)
    ]
    assert_trees_close(w, per_leaf(as_float64[0], as_float64[1:], weight_decay=0.1), tolerance)


LAYERS = {"a": Stacked(), "b": {"x": Rows(), "y": None}}


def nested(steps=3):
    """Like ``made_up``, but with trees of two levels."""
    flat, gradients = made_up({"a": (3, 4), "x": (4, 3), "y": (2,)}, steps)
    weights, *gradients = (
        {"a": tree["a"], "b": {"x": tree["x"], "y": tree["y"]}} for tree in (flat, *gradients)
    )
    return weights, gradients


def wrappers(**arguments):
    """Returns the optimizer in wrappers of optax that pass on placeholders or numbers."""
    made = functools.partial(novograd, 0.1, **arguments)
    labels = {"a": "ours", "b": "plain"}
    return {
        "itself": made(),
        "scale_by_novograd": scale_by_novograd(**arguments),
        "chain": optax.chain(optax.clip(1.0), made()),
        "masked": optax.masked(made(), {"a": True, "b": False}),
        "inject_hyperparams": optax.inject_hyperparams(
            novograd, static_args=("layers", "mask", "axis_name")
        )(0.1, **arguments),
        "multi_transform": optax.multi_transform({"ours": made(), "plain": optax.sgd(0.1)}, labels),
        "partition": optax.partition({"ours": made(), "plain": made()}, labels),
        "MultiSteps": optax.MultiSteps(made(), every_k_schedule=2),
        "apply_if_finite": optax.apply_if_finite(made(), max_consecutive_errors=2),
    }


ARGUMENTS = {
    "one": {"layers": Stacked()},
    "tree": {
        "layers": LAYERS,
        "weight_decay": 0.1,
        "mask": {"a": True, "b": {"x": True, "y": False}},
    },
    "prefix": {
        "layers": {"a": Stacked(), "b": None},
        "weight_decay": 0.1,
        "mask": {"a": True, "b": False},
    },
    "tree of functions": {"layers": {"a": lambda path, leaf: Stacked(), "b": None}},
    "functions": {
        "layers": lambda path, leaf: Rows() if leaf.ndim > 1 else None,
        "weight_decay": 0.1,
        "mask": lambda weights: jax.tree.map(lambda w: w.ndim > 1, weights),
    },
    "amsgrad": {"layers": LAYERS, "variant": "nvidia-amsgrad"},
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("wrapper", wrappers())
def test_tree_map_params_finds_the_state_of_each_weight(wrapper, arguments):
    weights, _ = nested()
    optimizer = wrappers(**ARGUMENTS[arguments])[wrapper]
    state = optimizer.init(weights)
    specs = {"a": "spec a", "b": {"x": "spec x", "y": "spec y"}}
    mapped = optax.tree_map_params(
        optimizer,
        lambda x, spec: spec if isinstance(x, jax.Array) else x,
        state,
        specs,
        transform_non_params=lambda x: "other",
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    found = jax.tree_util.tree_flatten_with_path(mapped)[0]
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    for path, leaf in found:
        path = jax.tree_util.keystr(path)
        of = next((key for key in "axy" if path.endswith(f"['{key}']")), None)
        assert leaf == (f"spec {of}" if of else "other"), path
    assert any("nu" in jax.tree_util.keystr(path) for path, _ in found)


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_trees_for_all_weights_work_if_some_weights_are_masked(arguments):
    weights, gradients = nested()
    expected, _ = train(novograd(0.1, **ARGUMENTS[arguments]), weights, gradients)
    for mask in ({"a": True, "b": False}, {"a": False, "b": True}, {"a": False, "b": False}):
        optimizer = optax.masked(novograd(0.1, **ARGUMENTS[arguments]), mask)
        w, _ = train(optimizer, weights, gradients)
        for key, is_ours in mask.items():
            if is_ours:
                assert_trees_close(w[key], expected[key])


@pytest.mark.parametrize("name", ["layers", "mask"])
@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ({"a": None}, r"it has nothing for params\['b'\]\['x'\]$"),
        ({"a": None, "b": {"x": None}}, r"it has nothing for params\['b'\]\['y'\]$"),
        ({"a": None, "b": None, "c": None}, r"there is no params\['c'\]$"),
        ([None], r"it has nothing for params\['a'\]$"),
    ],
)
def test_a_tree_that_is_not_a_prefix_is_refused(name, prefix, message):
    value = {"layers": Stacked(), "mask": True}[name]
    prefix = jax.tree.map(lambda _: value, prefix, is_leaf=lambda x: x is None)
    weights, _ = nested()
    optimizer = novograd(0.1, weight_decay=0.1, **{name: prefix})
    with pytest.raises(
        ValueError, match=rf"^{name} must be a prefix of the tree of weights: {message}"
    ):
        optimizer.update(weights, optimizer.init(weights), weights)


# -- the transformation as a tuple ----------------------------------------------------------------


def test_step_belongs_to_update():
    w, g = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    ours, other = novograd(0.1), novograd(0.5)
    assert Novograd._fields == ("init", "update")
    assert ours.step is ours.step  # otherwise jax.jit would compile it again each time
    for kept in (ours._replace(), ours._replace(init=lambda w: None), Novograd(*ours)):
        assert kept.step == ours.step
    replaced = ours._replace(update=other.update)
    assert_close(replaced.step(w, ours.init(w), g)[0], [0.7, 1.6])


def test_a_transformation_with_another_update_has_no_step():
    ours = novograd(0.1)

    @functools.wraps(ours.update)
    def clipped(updates, state, params=None):
        return ours.update(jax.tree.map(lambda g: g.clip(-1, 1), updates), state, params)

    for update in (
        clipped,
        optax.sgd(0.1).update,
        jax.jit(ours.update),
        scale_by_novograd().update,
    ):
        replaced = ours._replace(update=update)
        assert tuple(replaced) == (ours.init, update)
        with pytest.raises(
            AttributeError, match=r"^step belongs to the update of novograd\(\.\.\.\), but"
        ):
            replaced.step  # noqa: B018
        assert not hasattr(replaced, "step")


# -- masks and missing gradients ------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask",
    [
        {"kernels": True, "biases": False},
        {"kernels": {"a": True, "b": True}, "biases": {"a": False, "b": np.False_}},
        lambda params: jax.tree.map(lambda w: w.ndim > 1, params),
    ],
    ids=["prefix", "tree", "function"],
)
def test_only_leaves_in_the_mask_decay(mask):
    kernels, kernel_gradients = made_up({"a": (2, 3), "b": (1, 2)})
    biases, bias_gradients = made_up({"a": (3,), "b": (2,)})
    gradients = [
        {"kernels": kernel, "biases": bias}
        for kernel, bias in zip(kernel_gradients, bias_gradients, strict=True)
    ]
    optimizer = novograd(0.1, weight_decay=0.3, mask=mask)
    w, _ = train(optimizer, {"kernels": kernels, "biases": biases}, gradients)
    assert_trees_close(w["kernels"], per_leaf(kernels, kernel_gradients, weight_decay=0.3))
    assert_trees_close(w["biases"], per_leaf(biases, bias_gradients))


@pytest.mark.parametrize("mask", [True, False])
def test_one_bool_is_a_mask_for_all_leaves(mask):
    weights, gradients = made_up(SHAPES)
    w, _ = train(novograd(0.1, weight_decay=0.3, mask=mask), weights, gradients)
    assert_trees_close(w, per_leaf(weights, gradients, weight_decay=0.3 * mask))


@pytest.mark.parametrize("mask", [None, lambda params: jax.tree.map(lambda w: True, params)])
def test_a_missing_gradient_leaves_weights_and_state_unchanged(mask):
    weights, gradients = made_up(SHAPES)
    optimizer = novograd(0.1, weight_decay=0.1, mask=mask)
    _, before = optimizer.update(gradients[0], optimizer.init(weights), weights)
    updates, after = optimizer.update(gradients[1] | {"a": None}, before, weights)
    assert updates["a"] is None
    assert after.mu["a"] is before.mu["a"]
    assert after.nu["a"] is before.nu["a"]
    assert int(after.count) == 2
    usual, _ = optimizer.update(gradients[1], before, weights)
    np.testing.assert_array_equal(updates["b"], usual["b"])


def test_leaves_that_are_none_in_every_tree_are_ignored():
    weights, gradients = made_up(SHAPES)
    for optimizer in (novograd(0.1), optax.chain(scale_by_novograd(), optax.scale(-0.1))):
        w, _ = train(optimizer, weights | {"c": None}, [g | {"c": None} for g in gradients])
        assert w.pop("c") is None
        assert_trees_close(w, per_leaf(weights, gradients))


# -- transformations of JAX -----------------------------------------------------------------------


def test_donated_arguments_are_reused():
    weights, gradients = made_up(SHAPES)
    optimizer = novograd(0.1, weight_decay=0.1)

    def step(gradient, weights, state):
        updates, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    step = jax.jit(step, donate_argnums=(1, 2))
    w = jax.tree.map(lambda x: jnp.array(x, copy=True), weights)
    state = optimizer.init(w)
    for gradient in gradients:
        given = (w, state)
        w, state = step(gradient, w, state)
        assert all(x.is_deleted() for x in jax.tree.leaves(given))
    assert_trees_close(w, per_leaf(weights, gradients, weight_decay=0.1))


def test_scan_gives_the_same_weights():
    weights, gradients = made_up(SHAPES)
    optimizer = novograd(decreasing, weight_decay=0.1, nesterov=True)

    def step(carry, gradient):
        w, state = carry
        updates, state = optimizer.update(gradient, state, w)
        return (optax.apply_updates(w, updates), state), state.nu["a"]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
    start = jax.tree.map(jnp.asarray, weights)
    (w, _), norms = jax.lax.scan(step, (start, optimizer.init(start)), stacked)
    expected = per_leaf(
        weights, gradients, learning_rate=decreasing, weight_decay=0.1, nesterov=True
    )
    assert_trees_close(w, expected)
    last = trained(weights["a"], [g["a"] for g in gradients])[2]
    assert_close(norms[-1], last)


def test_vmap_trains_an_ensemble_with_its_learning_rates():
    ensemble, gradients = made_up({"a": (4, 3), "b": (4, 2, 2)})
    rates = jnp.array([0.01, 0.1, 0.3, 1.0])
    w, state = jax.vmap(lambda lr, w, g: train(novograd(lr, weight_decay=0.1), w, g, jit=False))(
        rates, ensemble, gradients
    )
    assert state.nu["b"].shape == state.count.shape == (4,)
    for i, rate in enumerate(rates):
        member, member_gradients = jax.tree.map(lambda x, i=i: x[i], (ensemble, gradients))
        expected = per_leaf(member, member_gradients, learning_rate=float(rate), weight_decay=0.1)
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], w), expected)


@pytest.mark.parametrize(
    "optimizer",
    [
        novograd(0.1),
        novograd(decreasing, weight_decay=lambda count: 0.1, mu_dtype=jnp.bfloat16),
        novograd(jnp.array(0.1), weight_decay=jnp.array(0.1), skip_nonfinite=True, nesterov=True),
        scale_by_novograd(grad_averaging=True, weight_decay=0.1),
        optax.inject_hyperparams(novograd, hyperparam_dtype=jnp.float32)(
            decreasing, weight_decay=0.1
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_the_second_step_is_not_traced_again(optimizer, dtype):
    traces = 0

    @jax.jit
    def step(gradient, weights, state):
        nonlocal traces
        traces += 1
        updates, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    w = jnp.ones(3, dtype)
    states = [optimizer.init(w)]
    for _ in range(3):
        w, state = step(jnp.ones(3, dtype), w, states[-1])
        states.append(state)
    assert traces == 1
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) for state in states]
    assert kinds == [kinds[0]] * 4


def test_weakly_typed_weights_give_a_state_that_is_not_weakly_typed():
    w = jnp.zeros_like(1.0)
    state = novograd(0.1).init(w)
    assert w.weak_type
    assert not any(x.weak_type for x in jax.tree.leaves(state))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("as_array", [False, True])
def test_strict_modes_raise_no_errors(jit, as_array):
    """There is no implicit promotion of dtypes or ranks, and no NaN in ordinary use."""
    weights, gradients = made_up({"a": (3,), "b": (2, 4), "c": ()})

    def cast(tree):
        a, b, c = (jnp.asarray(tree[k]) for k in "abc")
        return {"half": b.astype(jnp.bfloat16), "complex": jax.lax.complex(a, a), "scalar": c}

    number = jnp.float32 if as_array else float
    optimizer = novograd(
        number(0.1),
        *map(number, (0.95, 0.98, 0.0)),
        weight_decay=number(0.1),
        grad_averaging=True,
        nesterov=True,
        skip_nonfinite=True,
    )
    gradients = [jax.tree.map(np.zeros_like, gradients[0]), *gradients]
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
    ):
        w, _ = train(optimizer, cast(weights), [cast(g) for g in gradients], jit)
    hyper = {"epsilon": 0.0, "weight_decay": 0.1, "grad_averaging": True, "nesterov": True}
    assert_close(w["scalar"], trained(weights["c"], [g["c"] for g in gradients], **hyper)[0])
    pair = trained(
        np.stack([weights["a"]] * 2), [np.stack([g["a"]] * 2) for g in gradients], **hyper
    )[0]
    assert_close(jnp.stack([w["complex"].real, w["complex"].imag]), pair)
    half, *half_gradients = (np.asarray(cast(x)["half"], np.float64) for x in (weights, *gradients))
    # As in test_apply_if_finite_skips_a_nonfinite_step: bfloat16 rounds twice in each step.
    assert_close(w["half"], trained(half, half_gradients, **hyper)[0], rtol=5e-2)


# -- JAX's tools to find mistakes -----------------------------------------------------------------


@pytest.mark.parametrize("make", [novograd, functools.partial(novograd, mu_dtype=jnp.int8)])
def test_a_step_without_jit_equals_a_compiled_step(make):
    weights, (gradient, *_) = made_up({"w": (64, 96)})
    optimizer = make(0.1)
    state = optimizer.init(weights)
    expected = jax.jit(optimizer.step)(weights, state, gradient)
    with jax.disable_jit():
        found = optimizer.step(weights, state, gradient)
        updates, _ = optimizer.update(gradient, state, weights)
    assert_trees_close((found, optax.apply_updates(weights, updates)), (expected, expected[0]))


@pytest.mark.parametrize("jit", [jax.jit, lambda function: function], ids=["jit", "eager"])
def test_debug_nans_names_an_invalid_value(jit):
    weights, _ = made_up({"w": (64, 96)})
    optimizer = novograd(0.1)
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), weights)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="invalid value"):
        jit(optimizer.update)(bad, optimizer.init(weights), weights)


@pytest.mark.parametrize("fused", [None, False])
def test_debug_nans_accepts_a_step_of_finite_numbers(fused):
    weights, gradients = made_up(SHAPES)
    with jax.debug_nans(True):
        found, _ = train(novograd(0.1, fused=fused), weights, gradients)
    assert_trees_close(found, per_leaf(weights, gradients, learning_rate=0.1))
