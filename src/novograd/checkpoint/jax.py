"""Files of ``flax.serialization.to_bytes``: states of ``optax.novograd`` and of ``novograd.jax``.

The format is MessagePack, with extension types for arrays. JAX and Flax are not needed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from novograd import variants
from novograd.checkpoint.loading import arguments, has_weights, remarks
from novograd.checkpoint.neutral import (
    Checkpoint,
    CheckpointError,
    Entry,
    Group,
    all_entries,
    at,
    keys_of,
    single_step,
    unknown,
)
from novograd.variants import Variant

# Flax's extension types: an array is (shape, name of the dtype, bytes); a number of NumPy is an
# array of shape ().
_ARRAY, _COMPLEX, _NUMBER = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"
_STATE = {"optax": {"count", "mu", "nu"}, "jax": {"count", "mu", "nu", "nu_max"}}
_MOST = np.iinfo(np.int32).max
_WEIGHTS = ("params", "model")
_NAMES = {"lr": "learning_rate", "beta1": "b1", "beta2": "b2", "epsilon": "eps"}


def read(
    path: Path, kind: str, variant: Variant | None = None, *, key: str | None = None, **_: Any
) -> tuple[Checkpoint, Mapping[str, Any] | None]:
    """Reads a file.

    Args:
        path: A file with the state of an optimizer, which may be inside the states of
            ``optax.chain`` and other wrappers; or a dict or ``TrainState`` with that state and the
            weights as ``params``.
        kind: "optax" for states of ``optax.novograd``, "jax" for states of ``novograd.jax``.
        variant: The variant for "jax", whose states do not name it; None: the documented one.
        key: The key of the state, if the file has several states.

    Returns:
        The checkpoint, whose names are paths, and the weights, or None if the file has none.
    """
    content = _unpacked(path)
    tree = content if key is None else at(content, key)
    states = list(_states(tree, _STATE[kind]))
    if not states:
        raise CheckpointError(
            f"{'it' if key is None else repr(key)} has no state of {kind}, which is one of "
            f"{', '.join(sorted(_STATE[kind]))}{keys_of(tree)}"
        )
    entries: dict[str, Entry] = {}
    groups = []
    for where, state in states:
        moments, norms, maxima = (dict(_leaves(state.get(k))) for k in ("mu", "nu", "nu_max"))
        for name, moment in moments.items():
            v = norms.get(name)
            if v is None or (kind == "optax" and v.ndim):
                has = "no nu" if v is None else f"nu of shape {v.shape}"
                raise CheckpointError(f"{where}: {name!r} has {has}, so it is not of {kind}")
            if name in entries:
                raise CheckpointError(f"it has more than one state of {name!r}")
            entries[name] = Entry(moment, v, maxima.get(name), int(state["count"]))
        groups.append(Group(tuple(moments)))
    weights = next((content[key] for key in _WEIGHTS if key in content), None)
    chosen = variants.get("optax") if kind == "optax" else variant or variants.DOCUMENTED
    return Checkpoint(entries, chosen, tuple(groups)), weights and dict(_leaves(weights))


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a file that ``flax.serialization.from_bytes`` reads.

    It has a ``NovogradState``, or with weights, ``{"opt_state": state, "params": weights}``.
    """
    entries = all_entries(checkpoint, "JAX")
    amsgrad = checkpoint.variant.amsgrad
    step = single_step(checkpoint, "JAX")
    if step > _MOST:
        raise CheckpointError(f"JAX counts up to {_MOST} steps, but the source took {step}")
    state = {
        "count": np.asarray(step, np.int32),
        "mu": _tree({name: entry.moment for name, entry in entries.items()}),
        "nu": _tree({name: entry.v for name, entry in entries.items()}),
        "nu_max": _tree({name: x.v_max for name, x in entries.items()}) if amsgrad else None,
    }
    weights = {name: x.weights for name, x in entries.items() if x.weights is not None}
    content = {"opt_state": state, "params": _tree(weights)} if weights else state
    path.write_bytes(msgpack.Packer(default=_pack, strict_types=True).pack(content))


def how_to_load(checkpoint: Checkpoint, path: str) -> str:
    """Returns the lines of Python that load a file."""
    template, own = "optimizer.init(params)", "state"
    if has_weights(checkpoint):
        template = f"{{'opt_state': {template}, 'params': params}}"
        own = "state['opt_state']"
    given = arguments(checkpoint, _NAMES)
    lines = [f"optimizer = novograd.jax.novograd({given}){remarks(checkpoint)}"]
    missing = [_NAMES.get(name, name) for name in unknown(checkpoint) if name != "lr"]
    if "weight_decay" in missing:
        missing.append("mask")
    if missing:
        lines.append(f"# The source does not hold {', '.join(missing)}: give those that you had.")
    lines += [
        f"state = flax.serialization.from_bytes({template}, pathlib.Path({path!r}).read_bytes())",
        f"# In optax.chain it is one element, such as: chain_state = (chain_state[0], {own})",
    ]
    return "\n".join(lines)


# -- MessagePack ---------------------------------------------------------------------------------


def _unpacked(path: Path) -> dict[str, Any]:
    try:
        content = msgpack.unpackb(path.read_bytes(), ext_hook=_unpack, raw=False)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise CheckpointError(f"it is damaged, or not a MessagePack file: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"it contains {type(content).__name__}, which is not the state of an optimizer"
        )
    return content


def _unpack(code: int, data: bytes) -> Any:
    if code in (_ARRAY, _NUMBER):
        shape, name, content = msgpack.unpackb(data, raw=False)
        dtype = ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)
        return np.frombuffer(content, dtype).reshape(shape)
    if code == _COMPLEX:
        return complex(*msgpack.unpackb(data))
    raise ValueError(f"extension type {code} is not one of Flax")


def _pack(value: Any) -> msgpack.ExtType:
    data = msgpack.packb((value.shape, value.dtype.name, value.tobytes()), use_bin_type=True)
    return msgpack.ExtType(_ARRAY, data)


# -- trees ---------------------------------------------------------------------------------------


def _states(node: Any, keys: set[str], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the path and the content of each state in a tree: of each dict with these keys."""
    if isinstance(node, dict):
        if set(node) == keys:
            yield path or "the file", node
        else:
            for key, child in node.items():
                yield from _states(child, keys, f"{path}/{key}".lstrip("/"))


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yields the path and the content of each array in a tree."""
    if isinstance(node, dict) and _CHUNKED in node:
        pieces = [node["chunks"][str(i)] for i in range(len(node["chunks"]))]
        shape = [node["shape"][str(i)] for i in range(len(node["shape"]))]
        yield path, np.concatenate(pieces).reshape(shape)
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(child, f"{path}/{key}".lstrip("/"))
    elif isinstance(node, (np.ndarray, np.generic)):
        yield path or "w", np.asarray(node)


def _tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree that has each array at its path."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise CheckpointError(f"{path!r} lies below another weight")
        if last in node:
            raise CheckpointError(f"another weight lies below {path!r}")
        node[last] = leaf
    return tree
