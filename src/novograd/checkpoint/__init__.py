"""Converts checkpoints between NovoGrads: ``read`` one of any kind, ``write`` one for ours.

Each framework has a module that reads and writes its files. They all convert to or from the neutral
form, a ``Checkpoint``. docs/checkpoints.md describes the kinds of files, and how to load them.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from novograd import variants
from novograd.checkpoint.neutral import (
    Checkpoint,
    CheckpointError,
    Entry,
    Group,
    Hyperparameters,
    Names,
    as_variant,
    lost,
    new_names,
    renamed,
    unknown,
    with_lr,
    with_weights,
)
from novograd.variants import Variant

__all__ = [
    "SOURCES",
    "TARGETS",
    "WITH_KEYS",
    "Checkpoint",
    "CheckpointError",
    "Entry",
    "Group",
    "Hyperparameters",
    "as_variant",
    "how_to_load",
    "lost",
    "read",
    "unknown",
    "write",
]

SOURCES = {
    "torch": "torch",
    "jax": "jax",
    "keras": "keras",
    "tf1": "tensorflow",
    "safetensors": "safetensors",
    "timm": "torch",
    "monai": "torch",
    "nemo": "torch",
    "apex": "torch",
    "torch-optimizer": "torch",
    "pytorch-optimizer": "torch",
    "optax": "jax",
    "tfa": "tensorflow",
    "openseq2seq": "tensorflow",
}
"""The module that reads each kind of file."""

TARGETS = ("torch", "jax", "keras", "tensorflow", "safetensors")


WITH_KEYS = ("torch", "jax")
"""The modules whose files may have the optimizer's state under a key."""


def read(
    path: str | Path,
    kind: str,
    *,
    names: Names = None,
    weights: bool = False,
    variant: str | Variant | None = None,
    lr: float | None = None,
    key: str | None = None,
) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        path: The file; for TensorFlow, the prefix of its files or the folder.
        kind: The NovoGrad that wrote the file, a key of ``SOURCES``.
        names: New names of the weights: a mapping from old to new names, which also gives their
            order if it has all names; a sequence in the order of the source; or a function of the
            old name.
        weights: Whether to read the weights too; the file must have them then.
        variant: The variant that wrote the file, if such files do not name it: for "apex" and
            "jax", and for "keras" with ``.weights.h5``. Otherwise the variant that continues the
            training, see ``as_variant``.
        lr: The current learning rate, if the file does not contain it, or to replace it.
        key: The key of the optimizer's state in a file of PyTorch or Flax, if it is not a usual
            one: a key, or several with dots between them, such as "trainer.optim" or
            "optimizer_states.1".

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If the file cannot be read.
        ValueError: If the kind or the variant is unknown, or files of the kind have no keys.
        CheckpointError: If the file is damaged, is of another kind, or lacks something that was
            requested; the message names the file and the entry.

    Example:
        >>> read("model.pt", "tim")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
            ...
        ValueError: kind must be one of torch, jax, keras, tf1, ...
    """
    if kind not in SOURCES:
        raise ValueError(f"kind must be one of {', '.join(SOURCES)}, got {kind!r}")
    if key is not None and SOURCES[kind] not in WITH_KEYS:
        raise ValueError(f"key must be None if kind is {kind!r}; got {key!r}")
    given = None if variant is None else variants.get(variant)
    path = Path(path)
    reader = import_module(f"novograd.checkpoint.{SOURCES[kind]}")
    keys = {"key": key} if SOURCES[kind] in WITH_KEYS else {}
    try:
        with _errors_name(path):
            if SOURCES[kind] != "tensorflow":
                path.open("rb").close()  # its error is clearer than the libraries' errors
            checkpoint, found = _expecting_layout(
                lambda: reader.read(path, kind=kind, variant=given, weights=weights, **keys)
            )
            old = checkpoint.names
            new = new_names(old, names)
            checkpoint = with_lr(renamed(checkpoint, names), lr)
            if given is not None and kind != "apex":  # whose file completes the variant
                checkpoint = as_variant(checkpoint, given)
            back = {new[name]: name for name in old}
            return _expecting_layout(lambda: with_weights(checkpoint, found, back, weights))
    except CheckpointError as error:
        raise CheckpointError(f"{path}, as {kind}: {error}") from error


def _expecting_layout(read_file: Callable[[], Any]) -> Any:
    """Reads a file; errors caused by unexpected content become a CheckpointError."""
    try:
        return read_file()
    except (CheckpointError, ImportError, OSError):
        raise
    except Exception as error:
        raise CheckpointError(f"its content is not laid out as expected: {error!r}") from error


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Makes errors of the operating system name this path, not a temporary file or no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def write(checkpoint: Checkpoint, path: str | Path, kind: str, *, force: bool = False) -> None:
    """Writes a checkpoint.

    Unknown hyperparameters get the defaults of the variant; ``unknown`` lists them.

    Args:
        checkpoint: The checkpoint.
        path: The file; for TensorFlow, the prefix of its files.
        kind: The NovoGrad that will load the file, one of ``TARGETS``.
        force: Whether an existing file is replaced; it is replaced as a whole.

    Raises:
        FileExistsError: If the file exists and ``force`` is False.
        ValueError: If the kind is unknown.
        CheckpointError: If the target cannot represent the checkpoint; nothing is written then.

    Example:
        >>> import tempfile, numpy as np
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4), step=10)
        >>> checkpoint = Checkpoint({"w": entry}, variants.get("optax"), (Group(("w",)),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(checkpoint, f"{folder}/state.safetensors", "safetensors")
        ...     read(f"{folder}/state.safetensors", "safetensors").entries["w"].v
        array(4., dtype=float32)
    """
    if kind not in TARGETS:
        raise ValueError(f"kind must be one of {', '.join(TARGETS)}, got {kind!r}")
    path = Path(path)
    refuse_existing(path, kind, force)
    writer = import_module(f"novograd.checkpoint.{kind}")
    try:
        with _errors_name(path), tempfile.TemporaryDirectory(dir=path.parent) as folder:
            writer.write(checkpoint, Path(folder, path.name))
            # TensorFlow finds a checkpoint by its index, so that file is moved last.
            for file in sorted(Path(folder).iterdir()):
                file.replace(path.with_name(file.name))
    except CheckpointError as error:
        raise CheckpointError(f"{path}, as {kind}: {error}") from error


def how_to_load(checkpoint: Checkpoint, path: str | Path, kind: str) -> str:
    """Returns the lines of Python that load a file of ``write``.

    Args:
        checkpoint: The checkpoint that was written.
        path: The file; for TensorFlow, the prefix of its files.
        kind: The kind of the file, one of ``TARGETS``.

    Raises:
        ValueError: If the kind is unknown.

    Example:
        >>> import numpy as np
        >>> entry = Entry(moment=np.zeros(3, np.float32), v=np.float32(4), step=10)
        >>> checkpoint = Checkpoint({"w": entry}, variants.get("optax"), (Group(("w",)),))
        >>> print(how_to_load(checkpoint, "state.msgpack", "jax"))
        optimizer = novograd.jax.novograd(learning_rate=lr, variant='optax')
        # The source does not hold b1, b2, eps, weight_decay, grad_averaging, nesterov, mask: \
give those that you had.
        state = flax.serialization.from_bytes(optimizer.init(params), \
pathlib.Path('state.msgpack').read_bytes())
        # In optax.chain it is one element, such as: chain_state = (chain_state[0], state)
    """
    if kind not in TARGETS:
        raise ValueError(f"kind must be one of {', '.join(TARGETS)}, got {kind!r}")
    return import_module(f"novograd.checkpoint.{kind}").how_to_load(checkpoint, str(path))


def refuse_existing(path: Path, kind: str, force: bool) -> None:
    """Checks that a target may be written.

    Raises:
        FileExistsError: If it exists and ``force`` is False.

    Example:
        >>> refuse_existing(Path("."), "torch", force=False)
        Traceback (most recent call last):
            ...
        FileExistsError: . already exists
    """
    file = path.with_name(f"{path.name}.index") if kind == "tensorflow" else path
    if file.exists() and not force:
        raise FileExistsError(f"{file} already exists")
