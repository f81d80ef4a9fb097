"""The neutral form in a safetensors file.

Tensors: ``moment/NAME``, ``v/NAME`` and, if there are any, ``v_max/NAME``, ``step/NAME`` (int64)
and ``weights/NAME``. Metadata: ``format``, ``version``, and as JSON ``variant`` and ``groups``.
"""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from novograd.checkpoint.loading import has_weights
from novograd.checkpoint.neutral import (
    Checkpoint,
    CheckpointError,
    Entry,
    from_metadata,
    to_metadata,
)

PARTS = ("moment", "v", "v_max", "step", "weights")

_DTYPES = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
    "I64": np.int64,
}


def read(path: Path, **_: Any) -> tuple[Checkpoint, None]:
    """Reads a file; the weights are in the entries."""
    try:
        content = safetensors.deserialize(path.read_bytes())
        with safetensors.safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"it is damaged, or not a safetensors file: {error}") from error
    parts: dict[str, dict[str, Any]] = {}
    for key, tensor in content:
        part, _slash, name = key.partition("/")
        if part not in PARTS or tensor["dtype"] not in _DTYPES:
            raise CheckpointError(f"{key!r} of dtype {tensor['dtype']} is not from a checkpoint")
        array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        parts.setdefault(name, {})[part] = int(array) if part == "step" else array
    for name, found in parts.items():
        for part in ("moment", "v"):
            if part not in found:
                raise CheckpointError(f"there is no '{part}/{name}'")
    variant, groups = from_metadata(metadata)
    entries = {name: Entry(**found) for name, found in parts.items()}
    return Checkpoint(entries, variant, groups), None


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a file."""
    tensors = {}
    for name, entry in checkpoint.entries.items():
        for part in PARTS:
            value = getattr(entry, part)
            if value is not None:
                dtype = np.int64 if part == "step" else value.dtype
                tensors[f"{part}/{name}"] = np.asarray(value, dtype, order="C")
    try:
        content = safetensors.numpy.save(tensors, to_metadata(checkpoint))
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"safetensors cannot store it: {error}") from error
    path.write_bytes(content)


def how_to_load(checkpoint: Checkpoint, path: str) -> str:
    """Returns the lines of Python that load a file."""
    weights = ", weights=True" if has_weights(checkpoint) else ""
    return (
        "from novograd import checkpoint\n"
        f"state = checkpoint.read({path!r}, 'safetensors'{weights})"
    )
