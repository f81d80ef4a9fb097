"""A step of the leaves in JAX's own operations, on any device and under every transformation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from novograd import rule
from novograd.jax.layout import Layout, devices
from novograd.layers import Split


class Leaf(NamedTuple):
    """What a step takes of a leaf; ``weights`` is the float 0 where it needs none."""

    gradient: Any
    moment: Any
    v: Any
    weights: Any
    layout: Layout
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


def step_by_rule(leaves: Sequence[Leaf], numbers: Numbers, variant: Variant) -> list[Stepped]:
    """Takes a step; the square sums of layers that are cut are those of all pieces."""
    sums = [_square_sums(leaf.gradient, leaf.v.dtype, leaf.layout) for leaf in leaves]
    sums = _of_all_pieces(sums, [leaf.layout for leaf in leaves])
    return [_step(leaf, s, numbers, variant) for leaf, s in zip(leaves, sums, strict=True)]


def zero_second_moment(weights: Any, layout: Layout) -> jax.Array:
    """Returns the second moment of a leaf before the first step.

    That of many layers is made as their square sums are, and so sharded like these.
    """
    dtype = compute_dtype(weights)
    if layout.v_shape == ():
        return jnp.zeros((), dtype)
    sums = _square_sums(jnp.zeros_like(weights, dtype=dtype), dtype, layout)
    return sums if devices(layout.names) is None else _of_all_pieces([sums], [layout])[0]


def compute_dtype(w: Any) -> Any:
    """Returns the dtype of ``v`` and of the arithmetic: float64 for float64, else float32."""
    return jnp.float64 if jnp.result_type(w) in (jnp.float64, jnp.complex128) else jnp.float32


def cast(value: Any, dtype: Any) -> Any:
    """Casts an array; a Python number takes the dtype of what it meets, so that 1 - b2 is exact."""
    return value if isinstance(value, float) else jnp.asarray(value, dtype)


def _square_sums(gradient: Any, dtype: Any, layout: Layout) -> jax.Array:
    """Returns the sums of the squares of what is here of each layer, in the shape of v."""
    squares = jnp.square(_as_real(gradient, dtype))
    if jnp.iscomplexobj(gradient):
        squares = jnp.sum(squares, axis=0)
    if layout.v_shape == ():
        return jnp.sum(squares)
    if not isinstance(layout.layers, Split):
        summed = [i for i, size in enumerate(layout.v_shape) if size == 1]
        return jnp.sum(squares, axis=summed, keepdims=True)
    # First over the other axes: of an axis that is sharded only a vector is then taken apart.
    axis = range(squares.ndim)[layout.layers.axis]
    vector = jnp.sum(squares, axis=[i for i in range(squares.ndim) if i != axis])
    parts = np.arange(len(layout.layers.sizes))
    of_each = jnp.where(_part_of(layout, vector.size) == parts[:, None], vector, 0)
    return jnp.sum(of_each, axis=1).reshape(layout.v_shape)


def _of_all_pieces(sums: Sequence[jax.Array], layouts: Sequence[Layout]) -> list[jax.Array]:
    """Adds up what the devices have of each layer: a collective for each set of mesh axes."""
    together: dict[frozenset[Any], list[int]] = {}
    for i, layout in enumerate(layouts):
        together.setdefault(frozenset(layout.names), []).append(i)
    whole = dict(enumerate(sums))
    for indices in together.values():
        names = layouts[indices[0]].names
        if names:
            added = jax.lax.psum([sums[i] for i in indices], names)
            whole.update(zip(indices, added, strict=True))
    return list(whole.values())


def _part_of(layout: Layout, length: int) -> Any:
    """Returns the number of the part to which each index belongs of what is here of an axis."""
    split: Any = layout.layers
    parts = np.repeat(np.arange(len(split.sizes)), split.sizes)
    if not layout.split_names:
        return parts
    start = length * jax.lax.axis_index(layout.split_names)
    return jax.lax.dynamic_slice_in_dim(jnp.asarray(parts), start, length)


def _spread(of_layers: Any, layout: Layout, shape: tuple[int, ...]) -> Any:
    """Makes what there is for each layer broadcast against a leaf of a shape."""
    if not isinstance(layout.layers, Split):
        return of_layers
    axis = layout.layers.axis
    part_of = _part_of(layout, shape[axis])
    return jnp.take(of_layers, part_of, axis=axis)


def _step(leaf: Leaf, s: Any, numbers: Numbers, variant: Variant) -> Stepped:
    """All arithmetic is in the dtype of v."""
    g, m, v, w, layout, decays = leaf
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
        scale=layout.scale,
    )
    scalars = scalars._replace(a=_spread(scalars.a, layout, g.shape))
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
        finite = _spread(jnp.isfinite(s), layout, g.shape)
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
