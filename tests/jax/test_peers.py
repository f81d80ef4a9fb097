"""The transformation gives the same results as ``optax.novograd``."""

import inspect
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from novograd import variants
from novograd.jax import novograd
from tests.helpers import published
from tests.helpers.published import Draw, Stored


def updated(optimizer: Any, weights: Any, state: Any, gradients: Any) -> Any:
    updates, state = optimizer.update(gradients, state, weights)
    return optax.apply_updates(weights, updates), state


def stepped(optimizer: Any, weights: Any, state: Any, gradients: Any) -> Any:
    return optimizer.step(weights, state, gradients)


OURS = {
    "update": ({}, updated),
    "update, fused=False": ({"fused": False}, updated),
    "step": ({}, stepped),
}


@pytest.fixture
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def trainer(make: Any, take: Any, moments: Any) -> Any:
    """Returns a training function whose step is compiled once for all hyperparameters."""

    def optimizer(hyper: Any) -> Any:
        rates = hyper["rates"]
        return make(
            lambda count: rates[count],
            **{name: x for name, x in hyper.items() if name != "rates"},
        )

    @jax.jit
    def step(hyper: Any, *args: Any) -> Any:
        return take(optimizer(hyper), *args)

    def train(run: Draw) -> list[Stored]:
        def arrays(xs: Any) -> Any:
            return jax.tree.map(jnp.asarray, xs)

        hyper = arrays(
            {
                "rates": np.array(run.rates),
                "b1": run.beta1,
                "b2": run.beta2,
                "eps": run.epsilon,
                "weight_decay": run.weight_decay,
            }
        )
        weights, found = arrays(run.weights), []
        state = optimizer(hyper).init(weights)
        for gradients in run.gradients:
            weights, state = step(hyper, weights, state, arrays(gradients))
            stored = weights, moments(state).mu, moments(state).nu
            found.append(Stored(*([np.asarray(x, np.float64) for x in xs] for xs in stored)))
        return found

    return train


@cache
def of_optax(dtype: str) -> list[list[Stored]]:
    """Returns the results of optax in each run, in the dtype that JAX is set to."""
    train = trainer(optax.novograd, updated, lambda state: state[0])
    return [train(published.draw(seed)) for seed in published.DRAWS]


def compare(ours: str, dtype: str, record: Any) -> None:
    if ours == "words":
        train = partial(published.words, "optax")
    else:
        arguments, take = OURS[ours]
        train = trainer(partial(novograd, variant="optax", **arguments), take, lambda state: state)
    found = []
    for seed, peer in zip(published.DRAWS, of_optax(dtype), strict=True):
        run = published.draw(seed)._replace(grad_averaging=False)  # optax does not have it
        found.append(published.differences(run.weights, train(run), peer))
    names = f"optax {optax.__version__}", "optax", ours, dtype
    published.check(published.worst(found), dtype, record, *names)


@pytest.mark.parametrize("ours", OURS)
def test_results_equal_optax_in_float32(ours, record_property):
    compare(ours, "float32", record_property)


@pytest.mark.parametrize("ours", ["words", *OURS])
def test_results_equal_optax_in_float64(ours, float64, record_property):
    compare(ours, "float64", record_property)


def test_the_variant_has_the_defaults_of_optax():
    theirs = {x.name: x.default for x in inspect.signature(optax.novograd).parameters.values()}
    ours = variants.get("optax")
    assert ours.lr is None
    assert theirs.pop("learning_rate") is inspect.Parameter.empty
    assert theirs == {
        "b1": ours.beta1,
        "b2": ours.beta2,
        "eps": ours.eps,
        "eps_root": 0.0,
        "weight_decay": 0.0,
    }
