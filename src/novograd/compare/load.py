"""Finds a task or an optimizer by its name on the command line."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from novograd.compare.errors import TaskError, described
from novograd.compare.task import Task
from novograd.compare.tasks import BUILT_IN


def load(name: str) -> Task:
    """Loads a task.

    Args:
        name: A built-in task, a Python file, or a module. The file or module defines ``task``, or
            the name given after a colon: ``my_task.py:other``.

    Returns:
        The task.

    Raises:
        TaskError: If the file does not exist, or does not define a ``Task`` of this name.
        Exception: Any exception that the file or module raises.

    Example:
        >>> load("brain").title
        'Label the tissue of every pixel in slices of a brain MRI'
    """
    if name in BUILT_IN:
        return importlib.import_module(f"novograd.compare.tasks.{name}").TASK
    place, attribute = parts(name)
    module = _module(place)
    if not hasattr(module, attribute):
        raise TaskError(f"{place} must define {attribute}, a novograd.compare.Task")
    found = getattr(module, attribute)
    if not isinstance(found, Task):
        raise TaskError(
            f"{attribute} of {place} must be a novograd.compare.Task, got {described(found)}"
        )
    return found


def find_class(place: str) -> Callable[..., Any]:
    """Returns a class or a function that makes an optimizer.

    Args:
        place: ``package.module.name``, ``package.module:name`` or ``FILE.py:name``.

    Raises:
        TaskError: If the file does not exist.
        AttributeError: If the module does not have this name.
        TypeError: If the object cannot be called.
        Exception: Any exception that the file or module raises.

    Example:
        >>> find_class("math.hypot")(3, 4)
        5.0
    """
    module, _, name = place.rpartition(":" if ":" in place else ".")
    found = getattr(_module(module), name)
    if not callable(found):
        raise TypeError(f"{place} must be a class or a function, got {found!r}")
    return found


def default_rate(make: Callable[..., Any]) -> float | None:
    """Returns the default learning rate of a class or a function; None if it has none.

    Example:
        >>> default_rate(lambda params, lr=0.002: ...)
        0.002
    """
    arguments = inspect.signature(make).parameters
    defaults = [arguments[name].default for name in ("lr", "learning_rate") if name in arguments]
    return next((one for one in defaults if isinstance(one, float) and one > 0), None)


def parts(name: str) -> tuple[str, str]:
    """Splits the name of a user's task into a file or module and the name of its variable.

    Example:
        >>> parts("my_task.py"), parts("package.module:other")
        (('my_task.py', 'task'), ('package.module', 'other'))
    """
    place, colon, attribute = name.rpartition(":")
    return (place, attribute) if colon else (name, "task")


def is_file(place: str) -> bool:
    """Returns whether a place is a file and not a module."""
    return place.endswith(".py")


def _module(place: str) -> Any:
    if not is_file(place):
        sys.path.insert(0, "")  # as `python -m` does
        return importlib.import_module(place)
    path = Path(place).resolve()
    if not path.is_file():
        raise TaskError(f"there is no file {place}")
    return _executed(path)


@cache  # the task and an optimizer may be in the same file
def _executed(path: Path) -> Any:
    sys.path.insert(0, str(path.parent))  # as `python FILE` does
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
