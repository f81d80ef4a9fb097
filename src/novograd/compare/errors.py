"""Explains errors in a user's task by the user's own lines."""

import inspect
import traceback
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

PACKAGE = Path(__file__).parents[1]


class TaskError(Exception):
    """A part of a task does not do what ``novograd.compare.Task`` requires.

    Args:
        message: What is required, and what was found instead.
        part: The function that is wrong, if it is a function.
    """

    def __init__(self, message: str, part: Any = None) -> None:
        """Stores the arguments."""
        super().__init__(message)
        self._part = part

    def place(self) -> str:
        """Returns the file and the line of the function that is wrong, like a traceback, or "".

        Example:
            >>> import json
            >>> print(TaskError("is wrong", json.dumps).place())  # doctest: +ELLIPSIS
              File ".../json/__init__.py", line ..., in dumps
                def dumps(...
        """
        code = getattr(inspect.unwrap(self._part), "__code__", None) if self._part else None
        if code is None:
            return ""
        frame = traceback.FrameSummary(code.co_filename, code.co_firstlineno, code.co_name)
        return "".join(traceback.format_list([frame]))


def explained(error: BaseException) -> dict[str, str]:
    """Returns ``error`` and ``traceback`` for the result of a run that has failed.

    The traceback begins at the user's own code. For a ``TaskError`` it is the place of the user's
    function, or the traceback of the cause, if this contains the user's own code.

    Example:
        >>> explained(TaskError("task.steps must be an integer of at least 1, got 0"))
        {'error': 'task.steps must be an integer of at least 1, got 0', 'traceback': ''}
        >>> explained(SystemExit(3))["error"]
        'SystemExit: 3 (a task must not end its process)'
    """
    for one in _chain(error):  # TensorFlow raises another error in place of a TaskError
        if isinstance(one, TaskError):
            cause = one.__cause__
            shown = _shown(cause) if cause and _has_own_line(cause) else ""
            return {"error": str(one), "traceback": one.place() or shown}
    ends = "" if isinstance(error, Exception) else " (a task must not end its process)"
    return {"error": summary(error) + ends, "traceback": _shown(error)}


def summary(error: BaseException) -> str:
    """Returns the type and the message of an error, without the notes that a library has added.

    Example:
        >>> summary(ValueError("is wrong"))
        'ValueError: is wrong'
    """
    notes = "\n".join(getattr(error, "__notes__", [])).splitlines()
    lines = traceback.format_exception_only(error)
    return lines[-1 - len(notes)].strip()


def described(value: Any) -> str:
    """Describes a value that a user's function has returned.

    Example:
        >>> described(0.5), described(np.ones((2, 3))), described({})
        ('0.5 of type float', 'a NumPy array of shape (2, 3)', 'an empty dict')
    """
    name = type(value).__qualname__
    if value is None:
        return "None"
    if isinstance(value, Real | str):
        return f"{value!r} of type {name}"
    if hasattr(value, "shape"):
        kind = "NumPy array" if isinstance(value, np.ndarray) else "tensor"
        return f"a {kind} of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list | Mapping):
        return f"a {name} of length {len(value)}" if value else f"an empty {name}"
    return f"an object of type {type(value).__module__}.{name}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and the errors that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _shown(error: BaseException) -> str:
    """Formats a traceback from the first line of the user's own code, if it contains such code."""
    frame = _own_frame(error) if _has_own_line(error) else error.__traceback__
    return "".join(traceback.format_exception(type(error), error, frame))


def _has_own_line(error: BaseException) -> bool:
    return _own_frame(error) is not None or isinstance(error, SyntaxError)  # which names its line


def _own_frame(error: BaseException) -> TracebackType | None:
    """Returns the first frame of a traceback outside this package."""
    frame = error.__traceback__
    while frame is not None and _in_package(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return frame


def _in_package(file: str) -> bool:
    return file.startswith("<frozen") or Path(file).is_relative_to(PACKAGE)
