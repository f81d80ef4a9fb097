"""Checkpoints of TensorFlow: of ``tf.compat.v1.train.Saver`` and of ``tf.train.Checkpoint``.

A Saver stores variables by name: a weight ``NAME``, and its slots ``NAME/OPTIMIZER`` (the momentum
buffer) and ``NAME/OPTIMIZER_v``. ``tf.train.Checkpoint`` stores variables by the paths of objects:
``NAME/.OPTIMIZER_SLOT/OPTIMIZER/SLOT``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from novograd import variants
from novograd.checkpoint.loading import arguments, has_weights, remarks
from novograd.checkpoint.neutral import (
    Checkpoint,
    CheckpointError,
    Entry,
    Group,
    Hyperparameters,
    all_entries,
    single_step,
)
from novograd.variants import DOCUMENTED

tf1 = tf.compat.v1

_ON_CPU = tf1.ConfigProto(device_count={"GPU": 0})
_NAME = "NovoGrad"  # default name of the optimizer
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = re.compile(rf"(.+)/\.OPTIMIZER_SLOT/(.+)/([^/]+){re.escape(_VALUE)}")


def read(path: Path, kind: str, **_: Any) -> tuple[Checkpoint, Mapping[str, Any] | None]:
    """Reads a checkpoint.

    Args:
        path: The prefix of its files, or a folder, whose latest checkpoint is read.
        kind: "tf1" for ``novograd.tensorflow.NovoGrad`` and ``ai4med.libs.optimizers.NovoGrad``,
            "openseq2seq" for OpenSeq2Seq's ``NovoGrad2``, "tfa" for TensorFlow Addons' NovoGrad.

    Returns:
        The checkpoint, and the weights.
    """
    prefix = tf.train.latest_checkpoint(str(path)) if path.is_dir() else str(path)
    if prefix is None or not Path(f"{prefix}.index").is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with open(f"{prefix}.index", "rb"):  # its error is clearer than TensorFlow's
        pass
    try:
        stored = tf.train.load_checkpoint(prefix)
        shapes = stored.get_variable_to_shape_map()
        return _KINDS[kind](set(shapes), stored.get_tensor)
    except (tf.errors.OpError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"it is damaged: {error}") from error


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint that a ``tf.compat.v1.train.Saver`` restores.

    The checkpoint has the slots of an optimizer with the default name, and a ``global_step``.

    Raises:
        CheckpointError: If the variant is not the documented one: the class has no other.
    """
    if checkpoint.variant != DOCUMENTED:
        raise CheckpointError(
            f"the TensorFlow class has the documented rule only, but the checkpoint is of variant "
            f"{checkpoint.variant.name!r}: give variant 'documented', and lr, to continue with "
            "that rule"
        )
    tensors = {"global_step": np.asarray(single_step(checkpoint, "TensorFlow"), np.int64)}
    for name, entry in all_entries(checkpoint, "TensorFlow").items():
        tensors[f"{name}/{_NAME}"], tensors[f"{name}/{_NAME}_v"] = entry.moment, entry.v
        if entry.weights is not None:
            tensors[name] = entry.weights
    values = {name: np.asarray(value) for name, value in tensors.items()}
    try:
        # In a separate graph, also if the caller uses one. Fed, since constants must be small.
        with tf.Graph().as_default(), tf1.Session(config=_ON_CPU) as session:
            inputs = [tf1.placeholder(value.dtype, value.shape) for value in values.values()]
            save = tf.raw_ops.SaveV2(
                prefix=str(path),
                tensor_names=list(values),
                shape_and_slices=[""] * len(values),
                tensors=inputs,
            )
            session.run(save, dict(zip(inputs, values.values(), strict=True)))
    except tf.errors.OpError as error:
        raise CheckpointError(f"TensorFlow cannot write it: {error.message}") from error


def how_to_load(checkpoint: Checkpoint, path: str) -> str:
    """Returns the lines of Python that load a checkpoint."""
    given = arguments(checkpoint, {"lr": "learning_rate", "nesterov": "use_nesterov"})
    # Without a list, a Saver restores all variables, including the weights.
    saved = "" if has_weights(checkpoint) else "[*optimizer.variables(), step]"
    return "\n".join(
        (
            f"optimizer = novograd.tensorflow.NovoGrad({given}){remarks(checkpoint)}",
            "step = tf.compat.v1.train.get_or_create_global_step()",
            "train = optimizer.minimize(loss, step)",
            f"tf.compat.v1.train.Saver({saved}).restore(session, {path!r})",
        )
    )


# -- reading -------------------------------------------------------------------------------------

Read = Callable[[str], Any]


def _documented(keys: set[str], get: Read) -> tuple[Checkpoint, Mapping[str, Any]]:
    """Reads a checkpoint of our class, from a Saver or from ``tf.train.Checkpoint``."""
    if any(map(_SLOT.fullmatch, keys)):
        slots = _object_slots(keys, ("momentum", "v"))
        weights = {name: name + _VALUE for name in slots}
    else:
        slots = {
            name: (key, f"{key}_v")
            for name, key in _named_slots(keys).items()
            if f"{key}_v" in keys
        }
        weights = {name: name for name in slots}
    if not slots:
        raise CheckpointError(f"it has no slots NAME/{_NAME} and NAME/{_NAME}_v of a weight NAME")
    step = _step(keys, get, "global_step")
    entries = {n: Entry(get(m), np.asarray(get(v)), step=step) for n, (m, v) in slots.items()}
    checkpoint = Checkpoint(entries, DOCUMENTED, (Group(tuple(slots)),))
    return checkpoint, {name: get(key) for name, key in weights.items() if key in keys}


def _openseq2seq(keys: set[str], get: Read) -> tuple[Checkpoint, Mapping[str, Any]]:
    """Reads a checkpoint of OpenSeq2Seq; it has no ``v``, so ``v`` is 0, as this variant needs."""
    slots = _named_slots(keys)
    if not slots:
        raise CheckpointError("it has no slots NAME/NovoGrad2 of a weight NAME")
    step = _step(keys, get, "global_step")
    zero = np.zeros((), np.float32)
    entries = {name: Entry(get(key), zero, step=step) for name, key in slots.items()}
    checkpoint = Checkpoint(entries, variants.get("openseq2seq"), (Group(tuple(slots)),))
    return checkpoint, {name: get(name) for name in slots if name in keys}


def _tfa(keys: set[str], get: Read) -> tuple[Checkpoint, Mapping[str, Any]]:
    """Reads a checkpoint of TensorFlow Addons, whose momentum buffer has the opposite sign."""
    slots = _object_slots(keys, ("m", "v"))
    if not slots:
        raise CheckpointError("it has no slots m and v of an optimizer of TensorFlow Addons")
    optimizer = next(match[2] for match in map(_SLOT.fullmatch, sorted(keys)) if match)
    step = _step(keys, get, f"{optimizer}/iter{_VALUE}")
    variant = variants.get("tfa")
    maxima = {name: vhat for name, (vhat,) in _object_slots(keys, ("vhat",)).items()}
    if maxima:
        variant = replace(variant, name="tfa-amsgrad", amsgrad=True)
    entries = {
        name: Entry(
            -get(m),
            np.asarray(get(v)),
            # It has the weight's shape, and all its elements are equal.
            np.asarray(get(maxima[name]).reshape(-1)[0]) if name in maxima else None,
            step,
        )
        for name, (m, v) in slots.items()
    }
    group = Group(tuple(slots), _hyperparameters(keys, get, optimizer))
    weights = {name: get(name + _VALUE) for name in slots if name + _VALUE in keys}
    return Checkpoint(entries, variant, (group,)), weights


def _hyperparameters(keys: set[str], get: Read, optimizer: str) -> Hyperparameters:
    """Returns the hyperparameters that an optimizer of Keras 2 stores: those without a schedule."""
    known = {
        ours: get(f"{optimizer}/{theirs}{_VALUE}").item()
        for theirs, ours in _HYPERPARAMETERS.items()
        if f"{optimizer}/{theirs}{_VALUE}" in keys
    }
    if known.pop("decay", 0):
        known.pop("lr", None)
    if "grad_averaging" in known:
        known["grad_averaging"] = bool(known["grad_averaging"])
    return Hyperparameters(**known)


_KINDS = {"tf1": _documented, "openseq2seq": _openseq2seq, "tfa": _tfa}
_HYPERPARAMETERS = {
    "learning_rate": "lr",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "weight_decay": "weight_decay",
    "grad_averaging": "grad_averaging",
    "decay": "decay",
}


def _named_slots(keys: set[str]) -> dict[str, str]:
    """Returns for each weight's name the key of its momentum buffer, in a checkpoint of a Saver.

    The key is the weight's key and the name of the optimizer: NovoGrad, or NovoGrad2 in
    OpenSeq2Seq, followed by a number if the name was used before.
    """
    slots = {}
    for key in sorted(keys):
        *parts, optimizer = key.split("/")
        if parts and re.fullmatch(r"NovoGrad2?(_\d+)?", optimizer):
            # The scope in which the optimizer was applied may come before the weight's name.
            ends = ["/".join(parts[start:]) for start in range(len(parts))]
            name = next((end for end in ends if end in keys), ends[0])
            if name in slots:
                raise CheckpointError(f"{name!r} has slots of two optimizers, also {key!r}")
            slots[name] = key
    return slots


def _object_slots(keys: set[str], slots: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Returns the keys of each weight's slots, in a checkpoint of ``tf.train.Checkpoint``."""
    found: dict[str, dict[str, str]] = {}
    for key in sorted(keys):
        match = _SLOT.fullmatch(key)
        if match and match[3] in slots:
            if match[3] in found.setdefault(match[1], {}):
                raise CheckpointError(f"{match[1]!r} has slots of two optimizers, also {key!r}")
            found[match[1]][match[3]] = key
    for name, mine in found.items():
        missing = [slot for slot in slots if slot not in mine]
        if missing:
            raise CheckpointError(f"there is no slot {missing[0]!r} of {name!r}")
    return {name: tuple(mine[slot] for slot in slots) for name, mine in found.items()}


def _step(keys: set[str], get: Read, key: str) -> int | None:
    return int(get(key)) if key in keys else None
