"""Reads pickles without running any code that they name.

A pickle is a program: it imports functions and classes, calls them, and sets items and states of
objects. Here every such action is only recorded. So a file may contain objects of any class, even
of modules that are not installed. The values that are needed are made from the records.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

from novograd.checkpoint.neutral import CheckpointError, printable

STORAGE = "storage"
"""The path of data stored outside the pickle. It has no dot, unlike the paths of imported names."""

# PyTorch does not load files that name these modules, and no checkpoint needs them.
_REFUSED_MODULES = frozenset({"sys", "os", "posix", "nt"})
# The first three would find objects without naming them; checkpoints do not use the others.
_REFUSED_OPCODES = (
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
_HASHING = (pickle.SETITEM, pickle.SETITEMS, pickle.DICT, pickle.ADDITEMS, pickle.FROZENSET)
_DEPTH, _WIDTH = 20, 1_000_000


class Recorded:
    """The record of an object that a pickle makes. Each imported name becomes a subclass.

    Attributes:
        path: The full name of the class or function, or ``STORAGE``.
        args: The arguments of the call.
        state: The state that the pickle sets.

    Example:
        >>> import io, pathlib, sys
        >>> loaded = load(io.BytesIO(pickle.dumps(pathlib.PurePosixPath("a/b"))))
        >>> loaded.path, loaded.args
        ('pathlib.PurePosixPath', ('a', 'b'))
    """

    path: ClassVar[str] = ""
    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any, **_: Any) -> "Recorded":
        """Records a call."""
        made = super().__new__(cls)
        made.args = args
        return made

    def __call__(self, *args: Any, **_: Any) -> "Recorded":
        """Records a call of the recorded object."""
        return type(self)(self, *args)

    def __setstate__(self, state: Any) -> None:
        """Records a state."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignores an item."""

    def append(self, item: Any) -> None:
        """Ignores an item."""

    def extend(self, items: Any) -> None:
        """Ignores items."""

    add = append


class _PlainDict(dict[Any, Any]):
    """Replaces OrderedDict, and ignores attributes that a pickle sets."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Ignores attributes."""


# The unpickler written in Python. The one written in C can allocate any amount of memory for a
# short file, and looks extensions up without find_class.
_Unpickler: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


def _refusing_deep_keys(run: Callable[[Any], None]) -> Callable[[Any], None]:
    """Makes an opcode refuse keys that are nested so deep that hashing them would crash Python."""

    def checked(recorder: Any) -> None:
        nested = recorder.stack[-2:] if run is _Unpickler.load_setitem else recorder.stack
        for _ in range(_DEPTH):
            nested = [x for part in nested if type(part) in (tuple, frozenset) for x in part]
            if len(nested) > _WIDTH:
                break
            if not nested:
                return run(recorder)
        raise pickle.UnpicklingError("its keys are nested too deeply")

    return checked


class _Recorder(_Unpickler):
    def load_build(self) -> None:
        """Sets the state of a record; the inherited method would set attributes of any object."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (Recorded, _PlainDict)):
            raise pickle.UnpicklingError(f"{type(self.stack[-1]).__name__} has no state")
        self.stack[-1].__setstate__(state)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        opcode: _refusing_deep_keys(run) if bytes([opcode]) in _HASHING else run
        for opcode, run in _Unpickler.dispatch.items()
        if bytes([opcode]) not in _REFUSED_OPCODES
    } | {pickle.BUILD[0]: load_build}

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self.known: dict[str, type] = {"collections.OrderedDict": _PlainDict}
        self.stored: list[Recorded] = []

    def find_class(self, module: str, name: str) -> type:
        path = f"{module}.{name}"
        if module in _REFUSED_MODULES:
            raise CheckpointError(
                f"it contains {printable(path)}, which was not executed: no checkpoint needs it, "
                "and nothing in this file is read"
            )
        return self.known.setdefault(path, _recorded(path))

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("module", type() as container, *_):  # old files store classes of modules so
                return container
        self.stored.append(_recorded(STORAGE)(pid))
        return self.stored[-1]


def _recorded(path: str) -> type[Recorded]:
    return type("Recorded", (Recorded,), {"path": path})


def load(file: BinaryIO, stored: list[Recorded] | None = None) -> Any:
    """Reads a pickle up to its end; the file may continue after it.

    Args:
        file: The file, open for reading bytes.
        stored: A list to which the records of data outside the pickle are added.

    Returns:
        Plain data, with a ``Recorded`` for every other object.

    Raises:
        CheckpointError: If the pickle is damaged, or names a module that gives access to the
            system.

    Example:
        >>> import io, pathlib, sys
        >>> load(io.BytesIO(pickle.dumps({"step": 3, "root": pathlib.PurePosixPath("/")})))["step"]
        3
        >>> load(io.BytesIO(pickle.dumps(sys.exit)))  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
            ...
        CheckpointError: it contains sys.exit, which was not executed
    """
    recorder = _Recorder(file)
    try:
        content = recorder.load()
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # of any kind, since the file may contain anything
        raise CheckpointError(f"it is damaged, or not a pickle: {error!r}") from error
    if stored is not None:
        stored += recorder.stored
    return content


Make = Callable[[Recorded, str], Any]
"""Makes the value of a record, or raises LookupError; gets the record and its place in the file."""


class Contents(Mapping[Any, Any]):
    """A dict of a file, whose values are made when they are accessed.

    So values that nobody accesses may be of any class.

    Args:
        items: The dict as it was read.
        where: Its place in the file; empty for the file itself.
        make: Makes values from records.

    Example:
        >>> contents = Contents({"lr": 0.1, "scheduler": _recorded("my.Scheduler")}, "", {}.pop)
        >>> contents["lr"]
        0.1
        >>> contents["scheduler"]
        Traceback (most recent call last):
            ...
        novograd.checkpoint.neutral.CheckpointError: scheduler is of 'my.Scheduler', which was \
not executed: only tensors and plain data are read
    """

    def __init__(self, items: Mapping[Any, Any], where: str, make: Make) -> None:
        """Stores the dict, and makes no values yet."""
        self._items, self._where, self._make = items, where, make

    def __getitem__(self, key: Any) -> Any:
        """Returns a value; raises CheckpointError if its class is unknown."""
        where = f"{self._where}[{key!r}]" if self._where else printable(str(key))
        return made(self._items[key], where, self._make)

    def __iter__(self) -> Iterator[Any]:
        """Yields the keys."""
        return iter(self._items)

    def __len__(self) -> int:
        """Returns the number of keys."""
        return len(self._items)


def made(node: Any, where: str, make: Make) -> Any:
    """Returns a value of a file, with ``Contents`` for dicts, and ``make`` applied to records.

    Args:
        node: The value as it was read.
        where: Its place in the file; empty for the file itself.
        make: Makes values from records.

    Raises:
        CheckpointError: If the value is of a class that ``make`` does not know.

    Example:
        >>> made(({"lr": 0.1}, 3), "groups", {}.pop)[0]["lr"]
        0.1
    """
    if isinstance(node, dict):
        return Contents(node, where, make)
    if isinstance(node, (list, tuple)):
        return type(node)(made(x, f"{where}[{i}]", make) for i, x in enumerate(node))
    if isinstance(node, Recorded):
        try:
            return make(node, where)
        except LookupError:
            pass
    elif not isinstance(node, type):
        return node
    raise CheckpointError(
        f"{where or 'the content'} is of {node.path!r}, which was not executed: only tensors and "
        "plain data are read"
    )
