"""Files of ``novograd.keras.NovoGrad``: ``.keras`` archives, and HDF5 files of weights.

In an HDF5 file the optimizer's variables are ``optimizer/vars/0``, ``optimizer/vars/1`` and so on:
``iteration``, ``learning_rate`` unless it is a schedule, then ``momentum``, ``v`` and with amsgrad
``v_max`` of each weight. Keras does not store the names of the weights. Files written here have the
metadata of the neutral form as attributes of ``optimizer``, which Keras ignores, and weights as
``weights/NAME``.
"""

import io
import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np

from novograd import variants
from novograd.checkpoint.loading import arguments, has_weights, remarks
from novograd.checkpoint.neutral import (
    Checkpoint,
    CheckpointError,
    Entry,
    Group,
    Hyperparameters,
    all_entries,
    completed,
    from_metadata,
    single_step,
    to_metadata,
)
from novograd.keras import NovoGrad
from novograd.variants import Variant


def read(
    path: Path, variant: Variant | None = None, **_: Any
) -> tuple[Checkpoint, Mapping[str, Any] | None]:
    """Reads a file.

    Args:
        path: A ``.keras`` archive or a ``.weights.h5`` file. ``keras.saving.load_model`` loads an
            archive, in its safe mode; names are then the paths of its variables. In a
            ``.weights.h5`` file, weights are numbered in the order of ``trainable_variables``. An
            archive is read in the same way if Keras does not find the classes of its layers.
        variant: The variant of a ``.weights.h5`` file, which does not name it; None: the documented
            one.

    Returns:
        The checkpoint, and the weights, or None if they were not read.
    """
    if zipfile.is_zipfile(path):
        return _read_archive(path)
    try:
        with h5py.File(path, "r") as file:
            return _read_h5(file, variant or variants.DOCUMENTED)
    except OSError as error:
        if not path.is_file():
            raise
        raise CheckpointError(f"it is damaged, or not a file of Keras: {error}") from error


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes an HDF5 file, with the optimizer's variables in Keras's layout."""
    entries = all_entries(checkpoint, "Keras")
    hyperparameters = {
        completed(group.hyperparameters, checkpoint.variant) for group in checkpoint.groups
    }
    if len({known.lr for known in hyperparameters}) > 1:
        rates = sorted({known.lr or 0.0 for known in hyperparameters})
        raise CheckpointError(
            f"Keras has one learning rate, but the groups have {rates}: give one with lr"
        )
    variables = [
        np.asarray(single_step(checkpoint, "Keras"), np.int64),
        np.asarray(hyperparameters.pop().lr, np.float32),
    ]
    for entry in entries.values():
        variables += [x for x in (entry.moment, entry.v, entry.v_max) if x is not None]
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        optimizer = file.create_group("optimizer")
        optimizer.attrs.update(to_metadata(checkpoint))
        for index, value in enumerate(variables):
            _store(optimizer, f"vars/{index}", value)
        for name, entry in entries.items():
            if entry.weights is not None:
                try:
                    _store(file, f"weights/{name}", entry.weights)
                except (TypeError, ValueError) as error:  # with names such as "a" and "a/b"
                    raise CheckpointError(f"HDF5 cannot store {name!r}: {error}") from error
    path.write_bytes(buffer.getbuffer())


def how_to_load(checkpoint: Checkpoint, path: str) -> str:
    """Returns the lines of Python that load a file."""
    given = arguments(checkpoint, {"lr": "learning_rate", "beta1": "beta_1", "beta2": "beta_2"})
    lines = [
        f"model.compile(novograd.keras.NovoGrad({given})){remarks(checkpoint)}",
        "model.optimizer.build(model.trainable_variables)",
        f"with h5py.File({path!r}) as file:",
        "    model.optimizer.load_own_variables(file['optimizer/vars'])",
    ]
    if has_weights(checkpoint):
        lines += [
            f"saved = novograd.checkpoint.read({path!r}, 'keras', weights=True).entries.values()",
            "for x, entry in zip(model.trainable_variables, saved): x.assign(entry.weights)",
        ]
    return "\n".join(lines)


def _read_archive(path: Path) -> tuple[Checkpoint, Mapping[str, Any] | None]:
    try:
        with warnings.catch_warnings():
            # If an optimizer's variables do not fit, Keras skips them with only this warning.
            warnings.filterwarnings("error", message="Skipping variable loading")
            model: Any = keras.saving.load_model(path)
    except Exception as error:  # of any kind, since layers are the user's code
        try:
            return _read_parts(path)
        except CheckpointError as why:
            raise CheckpointError(f"{why}; Keras cannot load it: {error}") from error
        except Exception:  # the archive is incomplete
            raise CheckpointError(f"Keras cannot load it: {error}") from error
    optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, NovoGrad) or not optimizer.built:
        state = "not trained yet" if isinstance(optimizer, NovoGrad) else type(optimizer).__name__
        raise CheckpointError(f"its optimizer is not a trained NovoGrad: {state}")
    weights = {x.path: _numpy(x) for x in model.trainable_variables}
    variables = [_numpy(x) for x in optimizer.variables]
    # Averages of weights and sums of gradients, if there are any, come before the states.
    states = len(weights) * _per_weight(optimizer.variant)
    hyperparameters = Hyperparameters(
        lr=float(_numpy(optimizer.learning_rate)),
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        grad_averaging=optimizer.grad_averaging,
        nesterov=optimizer.nesterov,
    )
    entries = _entries(list(weights), variables[-states:], int(variables[0]), optimizer.variant)
    group = Group(tuple(weights), hyperparameters)
    return Checkpoint(entries, optimizer.variant, (group,)), weights


def _read_parts(path: Path) -> tuple[Checkpoint, Mapping[str, Any] | None]:
    """Reads an archive like a ``.weights.h5`` file, without the classes of its layers."""
    with zipfile.ZipFile(path) as archive:
        optimizer = json.loads(archive.read("config.json"))["compile_config"]["optimizer"]
        content = archive.read("model.weights.h5")
    config = optimizer["config"]
    if optimizer["class_name"] != "NovoGrad":
        raise CheckpointError(f"its optimizer is not NovoGrad: {optimizer['class_name']}")
    for option in ("use_ema", "gradient_accumulation_steps"):
        if config.get(option):
            raise CheckpointError(f"its optimizer has {option}, which adds variables to its own")
    hyperparameters = Hyperparameters(
        beta1=config["beta_1"],
        beta2=config["beta_2"],
        epsilon=config["epsilon"],
        weight_decay=config["weight_decay"],
        grad_averaging=config["grad_averaging"],
        nesterov=config["nesterov"],
    )
    with h5py.File(io.BytesIO(content)) as file:
        checkpoint, _ = _read_h5(file, variants.get(variants.from_config(config["variant"])))
    groups = tuple(
        replace(group, hyperparameters=replace(hyperparameters, lr=group.hyperparameters.lr))
        for group in checkpoint.groups
    )
    return replace(checkpoint, groups=groups), None


def _read_h5(file: Any, variant: Variant) -> tuple[Checkpoint, Mapping[str, Any] | None]:
    if "optimizer/vars" not in file:
        raise CheckpointError("it has no 'optimizer/vars': it was saved without an optimizer")
    stored = file["optimizer/vars"]
    try:
        variables = [_load(stored[str(index)]) for index in range(len(stored))]
    except KeyError as error:
        raise CheckpointError(f"'optimizer/vars' is incomplete: {error}") from error
    metadata = dict(file["optimizer"].attrs)
    groups = None
    if metadata:  # the file is from `write`
        variant, groups = from_metadata(metadata)
    count = len(variables)
    per_weight = _per_weight(variant)
    # The learning rate is missing if it is a schedule.
    first = next((n for n in (2, 1) if count > n and (count - n) % per_weight == 0), None)
    if first is None or any(x.shape for x in variables[:first]):
        raise CheckpointError(
            f"'optimizer/vars' has {count} variables; variant {variant.name!r} has iteration, "
            f"learning_rate and {per_weight} for each weight"
        )
    if groups is None:
        names = tuple(str(index) for index in range((count - first) // per_weight))
        lr = float(variables[1]) if first == 2 else None
        groups = (Group(names, Hyperparameters(lr=lr)),)
    names = [name for group in groups for name in group.names]
    if len(names) * per_weight != count - first:
        raise CheckpointError(f"'optimizer/vars' has {count} variables for {len(names)} weights")
    entries = _entries(names, variables[first:], int(variables[0]), variant)
    weights = None
    if "weights" in file:
        weights = {name: _load(file["weights"][name]) for name in names if name in file["weights"]}
    return Checkpoint(entries, variant, groups), weights


def _per_weight(variant: Variant) -> int:
    return 3 if variant.amsgrad else 2


def _entries(
    names: Sequence[str], variables: Sequence[np.ndarray], step: int, variant: Variant
) -> dict[str, Entry]:
    """Returns the entries from variables in the order momentum, v, v_max of each weight."""
    n = _per_weight(variant)
    return {
        name: Entry(*variables[i * n : (i + 1) * n], step=step)  # in the order of its fields
        for i, name in enumerate(names)
    }


def _numpy(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))


def _store(group: h5py.Group, name: str, value: np.ndarray) -> None:
    """Writes an array; HDF5 has no bfloat16, so that becomes float32 with Keras's mark."""
    if value.dtype == ml_dtypes.bfloat16:
        group.create_dataset(name, data=value.astype(np.float32)).attrs["dtype"] = "bfloat16"
    else:
        group.create_dataset(name, data=value)


def _load(stored: Any) -> np.ndarray:
    if stored.attrs.get("dtype") != "bfloat16":
        return stored[()]
    if stored.dtype.kind == "V":  # Keras stores the bytes like this
        return stored[()].view(ml_dtypes.bfloat16)
    return stored[()].astype(ml_dtypes.bfloat16)
