"""The statistics of a step equal what the step did."""

import math
from itertools import cycle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from novograd.jax import NovogradState, novograd, scale_by_novograd
from novograd.jax.statistics import layer_statistics
from novograd.layers import Rows, Split
from novograd.variants import VARIANTS


def trees(dtype=jnp.float32):
    """Returns weights, and their gradients in three steps."""
    random = np.random.default_rng(0)

    def tree(scale):
        return {
            "dense": {"kernel": jnp.asarray(random.standard_normal((4, 6)) * scale, dtype)},
            "bias": jnp.asarray(random.standard_normal(6) * scale, dtype),
        }

    return tree(1), [tree(1), tree(1), tree(3)]


def trained(optimizer, params, gradients):
    """Returns the weights before and after the last step, and the state."""
    state = optimizer.init(params)
    for given in gradients:
        before = params
        updates, state = optimizer.update(given, state, params)
        params = optax.apply_updates(params, updates)
    return before, params, state


LAYERS = cycle([None, Split((2, 4), axis=-1), Rows(scale="rms")])


@pytest.mark.parametrize(("variant", "layers"), [*zip(VARIANTS, LAYERS, strict=False)], ids=str)
def test_the_update_is_the_distance_that_the_weights_moved(variant, layers):
    params, gradients = trees(jnp.complex64 if variant == "nvidia" else jnp.float32)
    schedule = optax.linear_schedule(0.03, 0.01, 3)
    optimizer = novograd(schedule, variant=variant, layers=layers)
    before, after, state = trained(optimizer, params, gradients)
    found = layer_statistics(optimizer, after, state, gradients[-1])
    assert list(found) == ["bias", "dense/kernel"]
    leaves = (after["bias"], before["bias"]), (after["dense"]["kernel"], before["dense"]["kernel"])
    for one, (w, old) in zip(found.values(), leaves, strict=True):
        norm = float(jnp.linalg.norm(w))
        assert one.weight_norm == pytest.approx(norm, rel=1e-5)
        # A float32 weight of size 1 moves by about 1e-3, which leaves 4 digits.
        assert one.update_ratio == pytest.approx(float(jnp.linalg.norm(w - old)) / norm, rel=1e-3)


def test_clipped_needs_the_gradients():
    params = {"w": jnp.ones((2, 4))}
    optimizer = novograd(0.01, variant="rows")
    gradients = [{"w": jnp.ones((2, 4))}, {"w": jnp.array([[9.0, 0.1, 0.1, 9.0]] * 2)}]
    _, params, state = trained(optimizer, params, gradients)
    assert layer_statistics(optimizer, params, state, gradients[-1])["w"].clipped == 0.5
    assert math.isnan(layer_statistics(optimizer, params, state)["w"].clipped)


def test_the_state_may_be_inside_a_wrapper():
    params, gradients = trees()
    own = novograd(0.01)
    chain = optax.chain(optax.clip_by_global_norm(1e9), own)
    *_, after, state = trained(chain, params, gradients)
    *_, alone, own_state = trained(own, params, gradients)
    found = layer_statistics(own, after, state, gradients[-1])
    expected = layer_statistics(own, alone, own_state, gradients[-1])
    assert found == expected


@pytest.mark.parametrize("mu_dtype", [None, jnp.int8])
def test_states_of_nnx_give_the_numbers_of_the_arrays_in_them(mu_dtype):
    model = nnx.Linear(64, 64, rngs=nnx.Rngs(0))
    own = novograd(0.01, variant="rows", mu_dtype=mu_dtype)
    arrays = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, optax.chain(optax.clip(1e9), own), wrt=nnx.Param)
    gradients = nnx.grad(lambda model: jnp.sum(model(jnp.arange(64.0)) ** 2))(model)
    optimizer.update(model, gradients)
    params = nnx.state(model, nnx.Param)
    found = layer_statistics(own, params, optimizer.opt_state, gradients)
    assert list(found) == ["bias", "kernel"]
    given = nnx.to_pure_dict(gradients)
    updates, state = own.update(given, own.init(arrays), arrays)
    after = optax.apply_updates(arrays, updates)
    assert found == layer_statistics(own, after, state, given)


def test_boxes_of_linen_are_not_in_the_names():
    params = {"kernel": nn.Partitioned(jnp.ones((2, 3)), names=(None, "x"))}
    optimizer = novograd(0.01)
    params, state = optimizer.step(params, optimizer.init(params), params)
    assert list(layer_statistics(optimizer, params, state)) == ["kernel"]


def test_leaves_without_a_gradient_are_left_out():
    params = {"a": jnp.ones(2), "b": None, "steps": jnp.ones(3)}
    optimizer = novograd(0.01)
    gradients = {"a": jnp.ones(2), "b": None, "steps": None}
    params, state = optimizer.step(params, optimizer.init(params), gradients)
    assert list(layer_statistics(optimizer, params, state, gradients)) == ["a"]


def test_the_numbers_are_read_at_once(monkeypatch):
    params, gradients = trees()
    optimizer = novograd(0.01, variant="rows")
    *_, after, state = trained(optimizer, params, gradients)
    reads, get = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: reads.append(x) or get(x))
    layer_statistics(optimizer, after, state)
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("optimizer", "state", "error", "said"),
    [
        (optax.sgd(0.1), None, TypeError, r"optimizer must be the result of novograd\("),
        (scale_by_novograd(), None, TypeError, r"optimizer must be the result of novograd\("),
        (novograd(0.1), (), ValueError, "state must contain one NovogradState, got 0 of them"),
        (
            novograd(0.1),
            novograd(0.1).init({"w": jnp.ones(2)}),
            ValueError,
            "state must be the state after a step",
        ),
        (
            novograd(0.1),
            [NovogradState(jnp.ones(()), {}, {}, {})] * 2,
            ValueError,
            "state must contain one NovogradState, got 2 of them",
        ),
    ],
    ids=["sgd", "direction", "empty", "new", "two"],
)
def test_what_is_not_supported_is_refused(optimizer, state, error, said):
    with pytest.raises(error, match=said):
        layer_statistics(optimizer, {"w": jnp.ones(2)}, state)
