"""Where the layers of the leaves are, which is known while a step is traced."""

import math
from collections.abc import Callable, Collection, Hashable, Sequence
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
Path = tuple[Any, ...]  # as of jax.tree_util.tree_map_with_path

_VALUE = jax.tree_util.GetAttrKey("value")


@dataclass(frozen=True)
class LeafLayout:
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
            the leaf that returns these. The path has no boxes of Flax in it.
        axis_name: The names of the mesh axes over which the pieces of a layer lie, None, or a
            function of the path and the leaf that returns these or a ``PartitionSpec``.
        weights: The tree, of weights or of arrays of their shapes.

    Raises:
        TypeError: If a function returns something else.
        ValueError: If the layers do not fit the leaves.

    Example:
        >>> layouts_of({"a": Split((2, 3)), "b": None}, None, {"a": jnp.ones((5, 7)), "b": 1.0})
        ... # doctest: +NORMALIZE_WHITESPACE
        {'a': LeafLayout(layers=Split(sizes=(2, 3), axis=0), v_shape=(2, 1), scale=1.0, names=(),
                     split_names=()),
         'b': LeafLayout(layers=None, v_shape=(), scale=1.0, names=(), split_names=())}
    """
    return map_with_prefix(
        lambda one, path, leaf: _layout(one, axis_name, path, leaf),
        "layers",
        layers,
        weights,
        is_leaf=lambda one: one is None,
    )


def map_with_prefix(
    function: Callable[[Any, Path, Any], Any],
    name: str,
    prefix: Any,
    weights: Any,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Calls a function for each leaf of a tree, with what a prefix of the tree holds for it.

    The two are compared by paths, so that it does not matter which kinds of nodes they are made of,
    nor whether their leaves are in the boxes of Flax. Where the tree has no leaves, as in
    ``optax.MaskedNode`` and in the placeholders of ``optax.tree_map_params``, it stays as it is,
    whatever the prefix holds there.

    Args:
        function: ``(held, path, leaf) -> result``; the path is without boxes.
        name: What the prefix is called in an error.
        prefix: The prefix.
        weights: The tree.
        is_leaf: What else is a leaf of the prefix.

    Returns:
        The tree of the results.

    Raises:
        ValueError: If it is no prefix of the tree.

    Example:
        >>> weights = {"a": [1.0, 2.0], "b": None}
        >>> map_with_prefix(lambda held, path, leaf: held * leaf, "x", {"a": 3, "b": 5}, weights)
        {'a': [3.0, 6.0], 'b': None}
    """
    held_paths, values, _ = _flatten(prefix, is_leaf)
    held = dict(zip(held_paths, values, strict=True))
    paths, parts, structure = _flatten(weights, _is_empty)
    starts = [_start(path, held) for path in paths]
    for path, part, start in zip(paths, parts, starts, strict=True):
        if start is None and not _is_empty(part):
            raise _no_prefix(name, f"it has nothing for params{jax.tree_util.keystr(path)}")
    used, known = {*starts}, {*paths}
    for path in held:
        if path not in used and _start(path, known) is None:
            raise _no_prefix(name, f"there is no params{jax.tree_util.keystr(path)}")
    return structure.unflatten(
        part if _is_empty(part) else function(held[start], path, part)
        for path, part, start in zip(paths, parts, starts, strict=True)
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


def _no_prefix(name: str, why: str) -> ValueError:
    return ValueError(f"{name} must be a prefix of the tree of weights: {why}")


def _flatten(tree: Any, is_leaf: Any) -> tuple[list[Path], list[Any], Any]:
    """Returns the paths of the leaves, without boxes, the leaves and the structure of a tree."""
    found, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return _without_boxes([path for path, _ in found]), [leaf for _, leaf in found], structure


def _without_boxes(paths: Sequence[Path]) -> list[Path]:
    """Leaves out the boxes of Flax: the nodes that hold nothing but ``.value``.

    NNX gives ``init`` the weights in them, and ``update`` all arrays without.
    """
    nodes = {path[:i] for path in paths for i, key in enumerate(path) if key != _VALUE}
    return [
        tuple(key for i, key in enumerate(path) if key != _VALUE or path[:i] in nodes)
        for path in paths
    ]


def _is_empty(part: Any) -> bool:
    """Whether a part of a tree has no leaves."""
    return not jax.tree.leaves(part)


def _start(path: Path, paths: Collection[Path]) -> Any:
    """Returns the start of a path, or all of it, that is among other paths; None if none is."""
    return next((path[:n] for n in range(len(path) + 1) if path[:n] in paths), None)


def _layout(layers: Any, axis_name: Any, path: Any, leaf: Any) -> LeafLayout:
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
        return LeafLayout(chosen, v_shape, scale, sum(summed, ()), split_names)
    names = _names(cut)
    if names and v_shape == shape and math.prod(shape) > 1:
        raise ValueError(f"axis_name is {cut!r} for a leaf whose layers are single elements")
    if isinstance(chosen, Rows) and chosen.scale == "rms":
        scale *= (devices(names) or 1) ** 0.5  # of each row there is only a piece
    return LeafLayout(chosen, v_shape, scale, names)


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
