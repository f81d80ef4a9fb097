"""Public objects can be copied and pickled wherever the transformations of optax can."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from novograd.jax import Novograd, novograd, scale_by_novograd
from novograd.layers import Rows
from tests.helpers.copies import WAYS, Case, assert_survives_what_its_control_does


def test_public_objects_survive_every_copy_that_optax_survives():
    weights = {"a": jnp.ones((2, 3)), "b": jnp.array([3.0, 4.0])}

    def shown(tree):
        return str(jax.tree.map(lambda x: np.asarray(x).tolist(), tree))

    def does(optimizer):
        init, update = optimizer
        updates, state = jax.jit(update)(weights, init(weights), weights)
        step = getattr(optimizer, "step", None)
        stepped = step and step(weights, state, weights)
        return type(optimizer), shown((updates, state, stepped))

    def arguments():
        return {
            "weight_decay": jnp.array(0.1),
            "mask": {"a": True, "b": False},
            "layers": {"a": Rows(), "b": None},
        }

    def state():
        return novograd(0.1, **arguments()).init(weights)

    def adam():
        return optax.adam(0.1)

    cases = {
        "novograd": Case(lambda: novograd(0.1, **arguments()), does, adam),
        "novograd with numbers": Case(lambda: novograd(0.1), does),
        "novograd with a schedule": Case(
            lambda: novograd(optax.linear_schedule(0.1, 0.0, 9)), does, adam
        ),
        "scale_by_novograd": Case(lambda: scale_by_novograd(**arguments()), does, adam),
        "Novograd": Case(lambda: Novograd(*novograd(0.1)), does, adam),
        "NovogradState": Case(state, lambda x: (type(x), shown(x))),
    }
    ways = WAYS | {
        "tree.map": lambda x: jax.tree.map(lambda leaf: leaf, x),
        "fields": lambda x: type(x)(*x),
        "_replace": lambda x: x._replace(),
    }
    assert_survives_what_its_control_does(cases, ways)
