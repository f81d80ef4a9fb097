"""A step of the leaves in JAX's own operations, on any device and under every transformation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from novograd import rule


class Leaf(NamedTuple):
    """What a step takes of a leaf ("layer"); ``weights`` is the float 0 where it needs none."""

    gradient: Any
    moment: Any
    v: Any
    weights: Any
    decays: bool = True


class Stepped(NamedTuple):
    """What a step makes of it.

    Attributes:
        weights: What is to be added to the weights, in the dtype of the gradient; or, where the
            variant ``applies`` it, the new weights.
        moment: The new moment.
        v: The new second moment.
    """

    weights: Any
    moment: Any
    v: Any


class Numbers(NamedTuple):
    """The hyperparameters of a step: floats, or arrays of shape ()."""

    lr: Any
    beta1: Any
    beta2: Any
    epsilon: Any
    weight_decay: Any


class Variant(NamedTuple):
    """The switches of the rule; ``applies`` is whether a step adds to the weights itself."""

    grad_averaging: bool
    nesterov: bool
    skip_nonfinite: bool
    applies: bool


def step_by_rule(
    leaves: Sequence[Leaf], numbers: Numbers, variant: Variant, axis_name: Any = None
) -> list[Stepped]:
    """Takes a step; the squared norms are summed over ``axis_name``."""
    squares = [jnp.sum(jnp.square(_as_real(leaf.gradient, leaf.v.dtype))) for leaf in leaves]
    if axis_name is not None:
        squares = jax.lax.psum(squares, axis_name)
    return [_step(leaf, s, numbers, variant) for leaf, s in zip(leaves, squares, strict=True)]


def cast(value: Any, dtype: Any) -> Any:
    """Casts an array; a Python number takes the dtype of what it meets, so that 1 - b2 is exact."""
    return value if isinstance(value, float) else jnp.asarray(value, dtype)


def _step(leaf: Leaf, s: Any, numbers: Numbers, variant: Variant) -> Stepped:
    """All arithmetic is in the dtype of v."""
    g, m, v, w, decays = leaf
    lr, beta1, beta2, epsilon, decay = (cast(x, v.dtype) for x in numbers)
    new = jnp.where(v == 0, s, rule.second_moment(s, v, beta2))
    scalars = rule.coefficients(
        new,
        lr=lr,
        beta1=beta1,
        # With eps 0 a gradient that is zero throughout would be 0/0.
        epsilon=jnp.maximum(epsilon, float(jnp.finfo(v.dtype).tiny)),
        weight_decay=decay if decays else 0.0,
        grad_averaging=variant.grad_averaging,
    )
    if not variant.applies:
        scalars = scalars._replace(c=0.0)  # what is added to the weights, without the weights
    weights, moment = rule.linear_pass(
        _as_real(w, v.dtype),
        _as_real(m, v.dtype),
        _as_real(g, v.dtype),
        scalars,
        beta1=beta1,
        nesterov=variant.nesterov,
    )
    weights, moment = _as_leaf(weights, w if variant.applies else g), _as_leaf(moment, m)
    if variant.skip_nonfinite:
        finite = jnp.isfinite(s)
        weights = jnp.where(finite, weights, w if variant.applies else 0)
        moment = jnp.where(finite, moment, m)
    # An s beyond the dtype's range makes a = 0 and must not stay in v for ever.
    return Stepped(weights, moment, jnp.where(jnp.isfinite(new), new, v))


def _as_real(x: Any, dtype: Any) -> jax.Array:
    """Returns a leaf in a real dtype, the parts of a complex one along a new axis."""
    return jnp.asarray(jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x, dtype)


def _as_leaf(x: jax.Array, like: Any) -> jax.Array:
    """Undoes ``_as_real``, and rounds to the dtype of another leaf."""
    return (jax.lax.complex(x[0], x[1]) if jnp.iscomplexobj(like) else x).astype(like.dtype)
