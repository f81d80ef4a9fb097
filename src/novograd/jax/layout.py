"""Where the layers of the leaves are, which is known while a step is traced."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from novograd.layers import (
    Layers,
    Rows,
    Split,
    check_layers,
    layers_of,
    row_axis,
    second_moment_shape,
    step_scale,
)

Names = tuple[Hashable, ...]


@dataclass(frozen=True)
class Layout:
    """The layers of a leaf, or of what is here of it.

    Attributes:
        layers: What they are.
        v_shape: Shape of their second moments.
        scale: What their normalised gradients are multiplied by.
        names: The mesh axes over which the pieces of a layer lie.
        split_names: Those over which the axis is cut that ``Split`` splits.
    """

    layers: Layers = None
    v_shape: tuple[int, ...] = ()
    scale: float = 1.0
    names: Names = ()
    split_names: Names = ()


def check_tree(layers: Any) -> Any:
    """Returns ``layers`` after checking that it is a tree of layers and functions.

    Raises:
        TypeError: If there is anything else in it.
    """
    for one in jax.tree.leaves(layers):
        check_layers("layers", one)
    return layers


def layouts_of(layers: Any, axis_name: Any, weights: Any) -> Any:
    """Returns the layout of each leaf of a tree, as a tree.

    Args:
        layers: A prefix of the tree; each leaf of it is layers, None, or a function of the path and
            the leaf that returns these.
        axis_name: The names of the mesh axes over which the pieces of a layer lie, None, or a
            function of the path and the leaf that returns these or a ``PartitionSpec``.
        weights: The tree, of weights or of arrays of their shapes.

    Raises:
        TypeError: If a function returns something else.
        ValueError: If the layers do not fit the leaves.

    Example:
        >>> layouts_of({"a": Split((2, 3)), "b": None}, None, {"a": jnp.ones((5, 7)), "b": 1.0})
        ... # doctest: +NORMALIZE_WHITESPACE
        {'a': Layout(layers=Split(sizes=(2, 3), axis=0), v_shape=(2, 1), scale=1.0, names=(),
                     split_names=()),
         'b': Layout(layers=None, v_shape=(), scale=1.0, names=(), split_names=())}
    """
    try:
        chosen = jax.tree.map(
            lambda one, part: jax.tree.map(lambda _: one, part),
            layers,
            weights,
            is_leaf=lambda one: one is None,
        )
    except ValueError as error:
        raise ValueError(f"layers must be a prefix of the tree of weights: {error}") from error
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, one: _layout(one, axis_name, path, leaf), weights, chosen
    )


def devices(names: Names) -> int | None:
    """Returns how many devices lie along mesh axes; None outside of their ``jax.shard_map``.

    Example:
        >>> jax.vmap(lambda x: x * devices(("x",)), axis_name="x")(jnp.ones(3)), devices(("x",))
        (Array([3., 3., 3.], dtype=float32), None)
    """
    try:
        return jax.lax.psum(1, names)
    except NameError:
        return None


def _layout(layers: Any, axis_name: Any, path: Any, leaf: Any) -> Layout:
    shape = jnp.shape(leaf)
    cut = axis_name(path, leaf) if callable(axis_name) else axis_name
    along = _along(cut, shape)
    whole = tuple(n * (devices(names) or 1) for n, names in zip(shape, along, strict=True))
    chosen = layers_of(layers, (path, leaf), whole, row_axis(_name(path)))
    scale = step_scale(chosen, whole)
    if isinstance(chosen, Split):
        v_shape, summed = second_moment_shape(chosen, whole), along
        is_cut = whole[chosen.axis] != shape[chosen.axis]
        split_names = along[chosen.axis] if is_cut else ()
    else:
        v_shape, split_names = second_moment_shape(chosen, shape), ()
        counts = second_moment_shape(chosen, whole) or (1,) * len(shape)
        summed = [names for names, n in zip(along, counts, strict=True) if n == 1]
    if isinstance(cut, PartitionSpec):
        return Layout(chosen, v_shape, scale, sum(summed, ()), split_names)
    names = _names(cut)
    if names and v_shape == shape and math.prod(shape) > 1:
        raise ValueError(f"axis_name is {cut!r} for a leaf whose layers are single elements")
    if isinstance(chosen, Rows) and chosen.scale == "rms":
        scale *= (devices(names) or 1) ** 0.5  # of each row there is only a piece
    return Layout(chosen, v_shape, scale, names)


def _along(cut: Any, shape: tuple[int, ...]) -> list[Names]:
    """Returns the mesh axes over which each axis of a leaf is cut, as far as that is known."""
    if not isinstance(cut, PartitionSpec):
        return [()] * len(shape)
    if len(cut) > len(shape):
        raise ValueError(f"axis_name is {cut} for a leaf of shape {shape}")
    return [_names(names) for names in (*cut, *[None] * (len(shape) - len(cut)))]


def _names(names: Any) -> Names:
    if names is None:
        return ()
    return tuple(names) if isinstance(names, (tuple, list)) else (names,)


def _name(path: Any) -> str:
    """Returns the name of a leaf; in the boxes of Flax it is that of the box."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    return next((name for name in reversed(names) if name != "value"), "")
