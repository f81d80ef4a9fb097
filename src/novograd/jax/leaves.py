"""A step of the leaves in JAX's operations, for all devices and transformations."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from novograd import rule
from novograd.jax import moments
from novograd.jax.layout import LeafLayout, devices
from novograd.layers import Split
from novograd.variants import Variant


@dataclass(frozen=True)
class Leaf:
    """The inputs of a step for one leaf. For JAX, it is a tree whose leaves are the arrays.

    Attributes:
        gradient: The gradient.
        moment: The momentum buffer.
        v: The second moment.
        weights: The weights, or None if the step does not need them.
        maximum: The largest ``v`` so far for amsgrad, else None.
        layout: The layers of the leaf.
        decays: Whether weight decay applies to the leaf.
        scales: The scales of a momentum buffer in 8 bits, else None.
    """

    gradient: Any
    moment: Any
    v: Any
    weights: Any
    maximum: Any
    layout: LeafLayout
    decays: bool
    scales: Any = None


jax.tree_util.register_dataclass(
    Leaf,
    data_fields=["gradient", "moment", "v", "weights", "maximum", "scales"],
    meta_fields=["layout", "decays"],
)


class Stepped(NamedTuple):
    """The outputs of a step for one leaf.

    Attributes:
        weights: The new weights if ``Switches.applies``, else what to add to the weights, in the
            dtype of the gradient.
        moment: The new momentum buffer.
        v: The new second moment.
        maximum: The largest ``v`` so far for amsgrad, else None.
        scales: The new scales of a momentum buffer in 8 bits, else None.
    """

    weights: Any
    moment: Any
    v: Any
    maximum: Any = None
    scales: Any = None


@dataclass(frozen=True)
class StepHyperparameters:
    """The hyperparameters of a step: floats, or arrays of shape ().

    For JAX, this is a tree whose leaves are the arrays. The floats belong to the structure of the
    tree, so that they stay constants of a compiled program.

    ``count`` is the number of steps before this one, for variants that count steps and for momentum
    buffers in 8 bits.
    """

    lr: Any
    beta1: Any
    beta2: Any
    epsilon: Any
    weight_decay: Any
    count: Any = 0.0


def _flatten(hyper: StepHyperparameters) -> tuple[list[Any], tuple[float | None, ...]]:
    values = [getattr(hyper, field.name) for field in fields(hyper)]
    arrays = [x for x in values if not isinstance(x, float)]
    return arrays, tuple(x if isinstance(x, float) else None for x in values)


def _unflatten(constants: tuple[float | None, ...], arrays: Iterable[Any]) -> StepHyperparameters:
    rest = iter(arrays)
    return StepHyperparameters(*(next(rest) if x is None else x for x in constants))


jax.tree_util.register_pytree_node(StepHyperparameters, _flatten, _unflatten)


class Switches(NamedTuple):
    """The options that never change; ``applies`` is whether a step returns the new weights."""

    variant: Variant
    grad_averaging: bool
    nesterov: bool
    skip_nonfinite: bool
    applies: bool


def step_by_rule(
    leaves: Sequence[Leaf], hyper: StepHyperparameters, switches: Switches
) -> list[Stepped]:
    """Takes a step; the norm of a layer includes its pieces on all devices."""
    norm = switches.variant.norm
    sums = [_layer_norms(leaf.gradient, leaf.v.dtype, leaf.layout, norm) for leaf in leaves]
    sums = _combine_pieces(sums, [leaf.layout for leaf in leaves], norm)
    return [_step(leaf, s, hyper, switches) for leaf, s in zip(leaves, sums, strict=True)]


def numbers_of(hyper: StepHyperparameters, switches: Switches, dtype: Any) -> rule.Numbers:
    """Returns the numbers of the rule: floats, or arrays of the given dtype."""
    return rule.numbers(
        switches.variant,
        lr=cast(hyper.lr, dtype),
        beta1=cast(hyper.beta1, dtype),
        beta2=cast(hyper.beta2, dtype),
        epsilon=cast(hyper.epsilon, dtype),
        weight_decay=cast(hyper.weight_decay, dtype),
        grad_averaging=switches.grad_averaging,
        # With eps 0, a gradient of zeros would give 0/0.
        floor=float(jnp.finfo(dtype).tiny),
        count=cast(hyper.count, dtype),
        xp=jnp,
    )


def zero_second_moment(weights: Any, layout: LeafLayout) -> jax.Array:
    """Returns the second moment of a leaf before the first step.

    For many layers it is computed like the squared norms, so that it has their sharding.
    """
    dtype = compute_dtype(weights)
    if layout.v_shape == ():
        return jnp.zeros((), dtype)
    sums = _layer_norms(jnp.zeros_like(weights, dtype=dtype), dtype, layout, "l2")
    return sums if devices(layout.names) is None else _combine_pieces([sums], [layout], "l2")[0]


def compute_dtype(w: Any) -> Any:
    """Returns the dtype of ``v`` and of the arithmetic: float64 for float64, else float32."""
    return jnp.float64 if jnp.result_type(w) in (jnp.float64, jnp.complex128) else jnp.float32


def cast(value: Any, dtype: Any) -> Any:
    """Casts an array; a Python number stays a Python number, so that 1 - b2 is exact."""
    return value if isinstance(value, float) else jnp.asarray(value, dtype)


def _layer_norms(gradient: Any, dtype: Any, layout: LeafLayout, norm: str) -> jax.Array:
    """Returns the quantity that v averages, for the pieces on this device, in the shape of v.

    That is the squared norm of each layer or, with norm "inf", its largest absolute value.
    """
    real = _as_real(gradient, dtype)
    # The largest value of an empty leaf is 0.
    squares, total = (
        (jnp.square(real), jnp.sum)
        if norm == "l2"
        else (jnp.abs(real), functools.partial(jnp.max, initial=0))
    )
    if jnp.iscomplexobj(gradient):
        squares = total(squares, axis=0)
    if layout.v_shape == ():
        return total(squares)
    if not isinstance(layout.layers, Split):
        summed = tuple(i for i, size in enumerate(layout.v_shape) if size == 1)
        return total(squares, axis=summed, keepdims=True)
    # Sum over the other axes first. If the split axis is sharded, only a vector must be divided.
    axis = range(squares.ndim)[layout.layers.axis]
    vector = total(squares, axis=tuple(i for i in range(squares.ndim) if i != axis))
    parts = np.arange(len(layout.layers.sizes))
    of_each = jnp.where(_part_numbers(layout, vector.size) == parts[:, None], vector, 0)
    return total(of_each, axis=1).reshape(layout.v_shape)


def _combine_pieces(
    sums: Sequence[jax.Array], layouts: Sequence[LeafLayout], norm: str
) -> list[jax.Array]:
    """Combines the pieces of each layer, by one collective for each set of mesh axes."""
    join = jax.lax.psum if norm == "l2" else jax.lax.pmax
    together: dict[frozenset[Any], list[int]] = {}
    for i, layout in enumerate(layouts):
        together.setdefault(frozenset(layout.names), []).append(i)
    whole = dict(enumerate(sums))
    for indices in together.values():
        names = layouts[indices[0]].names
        if names:
            joined = join([sums[i] for i in indices], names)
            whole.update(zip(indices, joined, strict=True))
    return list(whole.values())


def _part_numbers(layout: LeafLayout, length: int) -> Any:
    """Returns the number of the part that each index on this device belongs to."""
    split: Any = layout.layers
    parts = np.repeat(np.arange(len(split.sizes)), split.sizes)
    if not layout.split_names:
        return parts
    start = length * jax.lax.axis_index(layout.split_names)
    return jax.lax.dynamic_slice_in_dim(jnp.asarray(parts), start, length)


def _spread(of_layers: Any, layout: LeafLayout, shape: tuple[int, ...]) -> Any:
    """Repeats one number per layer, so that the result broadcasts with a leaf."""
    if not isinstance(layout.layers, Split) or jnp.ndim(of_layers) == 0:
        return of_layers
    axis = layout.layers.axis
    numbers = _part_numbers(layout, shape[axis])
    return jnp.take(of_layers, numbers, axis=axis)


def _step(leaf: Leaf, s: Any, hyper: StepHyperparameters, switches: Switches) -> Stepped:
    """Takes a step of one leaf, in the dtype of v."""
    g, layout = leaf.gradient, leaf.layout
    m = real_moment(leaf.moment, leaf.scales, g, leaf.v.dtype)
    w = 0.0 if leaf.weights is None else leaf.weights
    if not leaf.decays:
        hyper = replace(hyper, weight_decay=0.0)
    numbers = numbers_of(hyper, switches, leaf.v.dtype)
    v, maximum, scalars = rule.advance(s, leaf.v, numbers, layout.scale, leaf.maximum, xp=jnp)
    scalars = rule.Coefficients(*(_spread(x, layout, g.shape) for x in scalars))
    if not switches.applies:  # the result is then added to the weights
        scalars = scalars._replace(c=scalars.c - 1.0)
    weights, moment = rule.linear_pass(
        _as_real(w, v.dtype),
        m,
        _as_real(g, v.dtype),
        scalars,
        beta1=numbers.beta1,
        nesterov=switches.nesterov,
    )
    weights, finite = _as_leaf(weights, w if switches.applies else g), None
    if switches.skip_nonfinite:
        finite = _spread(jnp.isfinite(s), layout, g.shape)
        weights = jnp.where(finite, weights, w if switches.applies else 0)
        moment = jnp.where(finite, moment, m)
    if leaf.scales is None:
        return Stepped(weights, _as_leaf(moment, leaf.moment), v, maximum)
    q, scales = _quantised(leaf, moment, finite, hyper.count)
    return Stepped(weights, q, v, maximum, scales)


def real_moment(moment: Any, scales: Any, like: Any, dtype: Any) -> jax.Array:
    """Returns a momentum buffer as ``_as_real`` returns its leaf.

    Args:
        moment: The buffer.
        scales: Its scales if it is in 8 bits, else None.
        like: The weights or the gradient.
        dtype: The dtype of the arithmetic.
    """
    if scales is None:
        return _as_real(moment, dtype)
    wide = moments.dequantised(moment, scales, dtype)
    return jnp.moveaxis(wide, -1, 0) if jnp.iscomplexobj(like) else wide


def _quantised(leaf: Leaf, moment: Any, finite: Any, step: Any) -> tuple[jax.Array, jax.Array]:
    """Rounds a new momentum buffer to 8 bits; blocks without a finite layer do not change."""
    if jnp.iscomplexobj(leaf.gradient):
        moment = jnp.moveaxis(moment, 0, -1)
    if finite is not None:
        finite = jnp.broadcast_to(finite, leaf.gradient.shape)
        if jnp.iscomplexobj(leaf.gradient):
            finite = jnp.stack([finite, finite], -1)
    return moments.quantised(moment, leaf.moment, leaf.scales, step, leaf.layout, finite)


def _as_real(x: Any, dtype: Any) -> jax.Array:
    """Returns a leaf in a real dtype; a complex leaf gets a new axis for its two parts."""
    return jnp.asarray(jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x, dtype)


def _as_leaf(x: jax.Array, like: Any) -> jax.Array:
    """Converts the result of ``_as_real`` back, and rounds to the dtype of ``like``."""
    return (jax.lax.complex(x[0], x[1]) if jnp.iscomplexobj(like) else x).astype(like.dtype)
