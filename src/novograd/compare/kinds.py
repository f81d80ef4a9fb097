"""The kinds of models that can be trained. Their packages are not imported to recognise them."""

import sys
from collections.abc import Callable
from typing import Any

from novograd.compare.errors import TaskError, described

# By kind: the module and the name of the base class. While nothing has imported the module, there
# can be no model of this kind. A Keras model can be a module of PyTorch or of Flax as well.
CLASSES = {
    "keras": ("keras", "Model"),
    "torch": ("torch.nn", "Module"),
    "flax": ("flax.nnx", "Module"),
    "equinox": ("equinox", "Module"),
}
_FRAMEWORKS = {"torch": "torch", "flax": "jax", "equinox": "jax"}


def kind(model: Any, build: Callable[[int], Any] | None = None) -> str:
    """Returns the kind of a model, a key of ``CLASSES``.

    Args:
        model: The model. In Equinox, a module may be in a tuple with its state.
        build: The function of the task that has built the model, for the error.

    Raises:
        TaskError: If it is something else.

    Example:
        >>> kind(3)
        Traceback (most recent call last):
            ...
        novograd.compare.errors.TaskError: task.model must return a keras.Model, a \
torch.nn.Module, a flax.nnx.Module or an equinox.Module, got 3 of type int
    """
    for name, (place, base) in CLASSES.items():
        module = model[0] if name == "equinox" and isinstance(model, tuple) and model else model
        if place in sys.modules and isinstance(module, getattr(sys.modules[place], base)):
            return name
    raise TaskError(
        "task.model must return a keras.Model, a torch.nn.Module, a flax.nnx.Module or an "
        f"equinox.Module, got {described(model)}",
        build,
    )


def framework(kind: str) -> str:
    """Returns the framework that trains models of a kind: for Keras, its backend.

    Example:
        >>> framework("flax")
        'jax'
    """
    return sys.modules["keras"].backend.backend() if kind == "keras" else _FRAMEWORKS[kind]


def title(kind: str) -> str:
    """Returns the full name of the base class of a kind.

    Example:
        >>> title("torch")
        'torch.nn.Module'
    """
    return ".".join(CLASSES[kind])
