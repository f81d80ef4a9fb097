"""Leaves cut into pieces over four devices: the norm is that of the whole leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from training import assert_close, made_up, oracle, train

from novograd.jax import NovogradState, novograd

SHAPES = {"matrix": (8, 4), "vector": (4,)}
MESHES = {
    "1-D": ((4,), ("x",), {"matrix": P("x"), "vector": P("x")}),
    "2-D": ((2, 2), ("x", "y"), {"matrix": P("x", "y"), "vector": P(("x", "y"))}),
}
HYPER = {"weight_decay": 0.1, "nesterov": True}


def mesh_of(name, kind=AxisType.Auto):
    shape, axes, specs = MESHES[name]
    return jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes)), axes, specs


def expected(weights, gradients):
    return {k: oracle(w, [g[k] for g in gradients], **HYPER) for k, w in weights.items()}


def assert_is_that_of_whole_leaves(w, state, weights, gradients):
    for key, values in expected(weights, gradients).items():
        for actual, value in zip((w[key], state.mu[key], state.nu[key]), values, strict=True):
            assert_close(actual, value)


def shard_map_steps(optimizer, name, weights, gradients):
    """Takes all steps inside shard_map, where each device sees its pieces only."""
    mesh, _, specs = mesh_of(name)
    state_specs = NovogradState(P(), specs, {key: P() for key in specs})
    return jax.jit(
        jax.shard_map(
            lambda w, g: train(optimizer, w, g, jit=False),
            mesh=mesh,
            in_specs=(specs, [specs] * len(gradients)),
            out_specs=(specs, state_specs),
        )
    )(weights, gradients)


@pytest.mark.parametrize("name", MESHES)
def test_shard_map(name):
    weights, gradients = made_up(SHAPES)
    _, axes, _ = mesh_of(name)
    optimizer = novograd(0.1, axis_name=axes if len(axes) > 1 else axes[0], **HYPER)
    w, state = shard_map_steps(optimizer, name, weights, gradients)
    assert_is_that_of_whole_leaves(w, state, weights, gradients)


def test_shard_map_takes_one_collective_for_all_leaves():
    weights, gradients = made_up(SHAPES, steps=1)
    mesh, _, specs = mesh_of("1-D")
    optimizer = novograd(0.1, axis_name="x")
    text = (
        jax.jit(
            jax.shard_map(
                lambda w, g: train(optimizer, w, g, jit=False)[0],
                mesh=mesh,
                in_specs=(specs, [specs]),
                out_specs=specs,
            )
        )
        .lower(weights, gradients)
        .compile()
        .as_text()
    )
    assert text.count(" all-reduce(") == 1


def test_shard_map_with_a_leaf_that_is_skipped():
    weights, gradients = made_up(SHAPES)
    spoiled = gradients[2] | {"vector": np.array([1, 1, 1, np.nan], np.float32)}
    optimizer = novograd(0.1, axis_name="x", skip_nonfinite=True, **HYPER)
    w, _ = shard_map_steps(optimizer, "1-D", weights, [*gradients[:2], spoiled, *gradients[3:]])
    kept = [g["vector"] for g in gradients[:2] + gradients[3:]]
    # Three devices hold only finite numbers, and leave their pieces alone as well.
    assert_close(w["vector"], oracle(weights["vector"], kept, **HYPER)[0])
    assert_close(w["matrix"], expected(weights, gradients)["matrix"][0])


@pytest.mark.filterwarnings("ignore:.*pmap.*:DeprecationWarning")
def test_pmap():
    weights, gradients = made_up(SHAPES)
    optimizer = novograd(0.1, axis_name="devices", **HYPER)

    def pieces(tree):
        return jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), tree)

    w, state = jax.pmap(lambda w, g: train(optimizer, w, g, jit=False), axis_name="devices")(
        pieces(weights), [pieces(g) for g in gradients]
    )
    whole = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), (w, state.mu))
    for key, (weight, moment, norm) in expected(weights, gradients).items():
        assert_close(whole[0][key], weight)
        assert_close(whole[1][key], moment)
        assert_close(state.nu[key], np.full(4, norm))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("init", [lambda f: f, jax.jit], ids=["init", "jitted init"])
@pytest.mark.parametrize("name", MESHES)
def test_jit_with_sharded_arrays(name, init, kind):
    weights, gradients = made_up(SHAPES)
    mesh, _, specs = mesh_of(name, kind)
    shardings = {key: NamedSharding(mesh, spec) for key, spec in specs.items()}
    optimizer = novograd(0.1, **HYPER)

    @jax.jit
    def step(gradient, w, state):
        updates, state = optimizer.update(gradient, state, w)
        return optax.apply_updates(w, updates), state

    with jax.set_mesh(mesh):
        w = jax.device_put(weights, shardings)
        state = init(optimizer.init)(w)
        for gradient in gradients:
            w, state = step(jax.device_put(gradient, shardings), w, state)
            for key, sharding in shardings.items():
                assert w[key].sharding.is_equivalent_to(sharding, w[key].ndim)
                assert state.mu[key].sharding.is_equivalent_to(sharding, w[key].ndim)
                assert state.nu[key].sharding.is_fully_replicated
            assert state.count.sharding.is_fully_replicated
    assert_is_that_of_whole_leaves(w, state, weights, gradients)


def test_the_moment_is_sharded_like_the_weights_from_the_start():
    mesh, _, specs = mesh_of("1-D")
    w = jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, specs["matrix"]))
    assert novograd(0.1).init(w).mu.sharding == w.sharding
