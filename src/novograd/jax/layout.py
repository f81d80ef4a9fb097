"""The layers of the leaves, which are known while a step is traced."""

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
    row_axes,
    second_moment_shape,
    step_scale,
)

Names = tuple[Hashable, ...]
Path = tuple[Any, ...]  # as in jax.tree_util.tree_map_with_path

_VALUE = jax.tree_util.GetAttrKey("value")


@dataclass(frozen=True)
class LeafLayout:
    """The layers of a leaf, or of the piece of a leaf on one device.

    Attributes:
        layers: The layers.
        v_shape: Shape of their second moments.
        scale: Factor of their normalised gradients.
        names: The mesh axes along which a layer is cut into pieces.
        split_names: The mesh axes along which the axis of ``Split`` is cut.
        whole: Shape of the whole leaf, as far as it is known.
        along: The mesh axes along which each axis of the leaf is cut, as far as they are known.
    """

    layers: Layers = None
    v_shape: tuple[int, ...] = ()
    scale: float = 1.0
    names: Names = ()
    split_names: Names = ()
    whole: tuple[int, ...] = ()
    along: tuple[Names, ...] = ()


def check_tree(layers: Any) -> Any:
    """Returns ``layers`` after checking that it is a tree of layers and functions.

    Raises:
        TypeError: If the tree holds anything else.
    """
    for one in jax.tree.leaves(layers):
        check_layers("layers", one)
    return layers


def layouts_of(layers: Any, axis_name: Any, weights: Any) -> Any:
    """Returns the layout of each leaf of a tree, as a tree.

    Args:
        layers: A prefix of the tree. Each leaf of the prefix is layers, ``Whole``, None, or a
            function of the path and the leaf that returns one of these. The path has no boxes of
            Flax.
        axis_name: The names of the mesh axes along which a layer is cut into pieces; None; or a
            function of the path and the leaf that returns one of these or a ``PartitionSpec``.
        weights: The tree, of weights or of arrays that have their shapes.

    Raises:
        TypeError: If a function returns something else.
        ValueError: If the layers do not fit a leaf. The message names the leaf.

    Example:
        >>> layouts_of({"a": Split((2, 3)), "b": None}, None, {"a": jnp.ones((5, 7)), "b": 1.0})
        ... # doctest: +NORMALIZE_WHITESPACE
        {'a': LeafLayout(layers=Split(sizes=(2, 3), axis=0), v_shape=(2, 1), scale=1.0, names=(),
                     split_names=(), whole=(5, 7), along=((), ())),
         'b': LeafLayout(layers=None, v_shape=(), scale=1.0, names=(), split_names=(), whole=(),
                     along=())}
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
    """Calls a function for each leaf of a tree, with the value that a prefix of the tree gives it.

    The tree and the prefix are compared by paths. So they may have different kinds of nodes, and
    their leaves may be in the boxes of Flax. Parts of the tree without leaves stay as they are,
    whatever the prefix holds there: ``optax.MaskedNode`` and the placeholders of
    ``optax.tree_map_params``.

    Args:
        function: ``(held, path, leaf) -> result``; the path has no boxes.
        name: Name of the prefix in an error.
        prefix: The prefix.
        weights: The tree.
        is_leaf: Whether a node of the prefix counts as a leaf.

    Returns:
        The tree of the results.

    Raises:
        ValueError: If ``prefix`` is not a prefix of the tree.

    Example:
        >>> weights = {"a": [1.0, 2.0], "b": None}
        >>> map_with_prefix(lambda held, path, leaf: held * leaf, "x", {"a": 3, "b": 5}, weights)
        {'a': [3.0, 6.0], 'b': None}
    """
    held_paths, values, _ = _flatten(prefix, is_leaf)
    held = dict(zip(held_paths, values, strict=True))
    paths, parts, structure = _flatten(weights, _is_empty)
    starts = [_known_start(path, held) for path in paths]
    for path, part, start in zip(paths, parts, starts, strict=True):
        if start is None and not _is_empty(part):
            raise _not_a_prefix(name, f"it has nothing for params{jax.tree_util.keystr(path)}")
    used, known = {*starts}, {*paths}
    for path in held:
        if path not in used and _known_start(path, known) is None:
            raise _not_a_prefix(name, f"there is no params{jax.tree_util.keystr(path)}")
    return structure.unflatten(
        part if _is_empty(part) else function(held[start], path, part)
        for path, part, start in zip(paths, parts, starts, strict=True)
    )


def unboxed(tree: Any) -> Any:
    """Returns a tree with the content of each box of Flax in the place of the box.

    NNX keeps weights and states in boxes of different types, so their trees have other nodes.

    Example:
        >>> from flax import nnx
        >>> unboxed({"w": nnx.Param(1.0), "b": 2.0})
        {'b': 2.0, 'w': 1.0}
    """

    def children(node: Any) -> list[tuple[Path, Any]]:
        return jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]

    def is_box(node: Any) -> bool:
        return [path for path, _ in children(node)] == [(_VALUE,)]

    def content(node: Any) -> Any:
        return unboxed(children(node)[0][1]) if is_box(node) else node

    return jax.tree.map(content, tree, is_leaf=is_box)


def devices(names: Names) -> int | None:
    """Returns the number of devices along mesh axes; None outside their ``jax.shard_map``.

    Example:
        >>> jax.vmap(lambda x: x * devices(("x",)), axis_name="x")(jnp.ones(3)), devices(("x",))
        (Array([3., 3., 3.], dtype=float32), None)
    """
    try:
        return jax.lax.psum(1, names)
    except NameError:
        return None


def _not_a_prefix(name: str, why: str) -> ValueError:
    return ValueError(f"{name} must be a prefix of the tree of weights: {why}")


def _flatten(tree: Any, is_leaf: Any) -> tuple[list[Path], list[Any], Any]:
    """Returns the paths (without boxes), the leaves and the structure of a tree."""
    found, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return _without_boxes([path for path, _ in found]), [leaf for _, leaf in found], structure


def _without_boxes(paths: Sequence[Path]) -> list[Path]:
    """Removes the boxes of Flax from paths: the nodes that hold only ``.value``.

    NNX gives ``init`` the weights in boxes, but gives ``update`` all arrays without boxes.
    """
    nodes = {path[:i] for path in paths for i, key in enumerate(path) if key != _VALUE}
    return [
        tuple(key for i, key in enumerate(path) if key != _VALUE or path[:i] in nodes)
        for path in paths
    ]


def _is_empty(part: Any) -> bool:
    """Whether a part of a tree has no leaves."""
    return not jax.tree.leaves(part)


def _known_start(path: Path, paths: Collection[Path]) -> Any:
    """Returns the shortest start of a path that is one of the given paths, or None."""
    return next((path[:n] for n in range(len(path) + 1) if path[:n] in paths), None)


def _layout(layers: Any, axis_name: Any, path: Any, leaf: Any) -> LeafLayout:
    shape = jnp.shape(leaf)
    cut = axis_name(path, leaf) if callable(axis_name) else axis_name
    along = _cuts(cut, shape)
    whole = tuple(n * (devices(names) or 1) for n, names in zip(shape, along, strict=True))
    try:
        chosen = layers_of(layers, (path, leaf), whole, row_axes(_name(path)))
    except ValueError as error:
        raise ValueError(f"params{jax.tree_util.keystr(path)}: {error}") from error
    scale, place = step_scale(chosen, whole), {"whole": whole, "along": tuple(along)}
    if isinstance(chosen, Split):
        v_shape, summed = second_moment_shape(chosen, whole), along
        is_cut = whole[chosen.axis] != shape[chosen.axis]
        split_names = along[chosen.axis] if is_cut else ()
    else:
        v_shape, split_names = second_moment_shape(chosen, shape), ()
        counts = second_moment_shape(chosen, whole) or (1,) * len(shape)
        summed = [names for names, n in zip(along, counts, strict=True) if n == 1]
    if isinstance(cut, PartitionSpec):
        return LeafLayout(chosen, v_shape, scale, sum(summed, ()), split_names, **place)
    names = _names(cut)
    if names and v_shape == shape and math.prod(shape) > 1:
        raise ValueError(
            f"axis_name must be None for a leaf whose layers are single elements, got {cut!r}"
        )
    if isinstance(chosen, Rows) and chosen.scale == "rms":
        scale *= (devices(names) or 1) ** 0.5  # each row is only a piece here
    return LeafLayout(chosen, v_shape, scale, names, **place)


def _cuts(cut: Any, shape: tuple[int, ...]) -> list[Names]:
    """Returns the mesh axes along which each axis of a leaf is cut; () if that is not known."""
    if not isinstance(cut, PartitionSpec):
        return [()] * len(shape)
    if len(cut) > len(shape):
        raise ValueError(
            f"axis_name must not have more axes than a leaf of shape {shape}, got {cut}"
        )
    return [_names(names) for names in (*cut, *[None] * (len(shape) - len(cut)))]


def _names(names: Any) -> Names:
    if names is None:
        return ()
    return tuple(names) if isinstance(names, (tuple, list)) else (names,)


def _name(path: Any) -> str:
    """Returns the name of a leaf; for a leaf in a box of Flax, the name of the box."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    return next((name for name in reversed(names) if name != "value"), "")
