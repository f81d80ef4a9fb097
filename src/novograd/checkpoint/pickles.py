"""Pickles, read without running anything that they name.

A pickle is a program: it imports what it names, calls it, and gives it items and a state. Here all
of that is written down and none of it happens. So a file may hold objects of any class, also of
modules that are not there, and what is wanted of it is made from the record.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

from novograd.checkpoint.neutral import CheckpointError, printable

STORAGE = "storage"
"""The path of what is not in the pickle, but beside it; that of a name has a dot."""

# PyTorch reads no file that names these, and nobody's settings do.
_REFUSED_MODULES = frozenset({"sys", "os", "posix", "nt"})
# Of these, the first three find objects without their names; no file here has the others.
_REFUSED_OPCODES = (
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
_HASHING = (pickle.SETITEM, pickle.SETITEMS, pickle.DICT, pickle.ADDITEMS, pickle.FROZENSET)
_DEPTH, _WIDTH = 20, 1_000_000


class Recorded:
    """What a pickle would have made, by which call; a subclass is what it would have imported.

    Attributes:
        path: The full name of the class or function, or ``STORAGE``.
        args: What it would have been called with.
        state: What the object would have been given as its state.

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
        """Records a call of what a call would have returned."""
        return type(self)(self, *args)

    def __setstate__(self, state: Any) -> None:
        """Records a state."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Leaves out an item."""

    def append(self, item: Any) -> None:
        """Leaves out an item."""

    def extend(self, items: Any) -> None:
        """Leaves out items."""

    add = append


class _Items(dict[Any, Any]):
    """An OrderedDict, without the attributes that a pickle may give it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Leaves out attributes."""


# The one written in Python: the other takes any amount of memory for a short file, and looks
# extensions up past find_class.
_Unpickler: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


def _hashing(run: Callable[[Any], None]) -> Callable[[Any], None]:
    """Has an opcode refuse keys that are nested so deep that Python would crash on their hash."""

    def checked(recorder: Any) -> None:
        nested = recorder.stack[-2:] if run is _Unpickler.load_setitem else recorder.stack
        for _ in range(_DEPTH):
            nested = [x for part in nested if type(part) in (tuple, frozenset) for x in part]
            if len(nested) > _WIDTH:
                break
            if not nested:
                return run(recorder)
        raise pickle.UnpicklingError("its keys are nested too deep")

    return checked


class _Recorder(_Unpickler):
    def load_build(self) -> None:
        """Gives an object its state; the inherited one would also set attributes of others."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (Recorded, _Items)):
            raise pickle.UnpicklingError(f"{type(self.stack[-1]).__name__} has no state")
        self.stack[-1].__setstate__(state)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        opcode: _hashing(run) if bytes([opcode]) in _HASHING else run
        for opcode, run in _Unpickler.dispatch.items()
        if bytes([opcode]) not in _REFUSED_OPCODES
    } | {pickle.BUILD[0]: load_build}

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self.known: dict[str, type] = {"collections.OrderedDict": _Items}
        self.stored: list[Recorded] = []

    def find_class(self, module: str, name: str) -> type:
        path = f"{module}.{name}"
        if module in _REFUSED_MODULES:
            raise CheckpointError(
                f"it holds {printable(path)}, which was not executed: no checkpoint needs it, and "
                "nothing of this file is read"
            )
        return self.known.setdefault(path, _recorded(path))

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("module", type() as container, *_):  # old files have classes of modules as such
                return container
        self.stored.append(_recorded(STORAGE)(pid))
        return self.stored[-1]


def _recorded(path: str) -> type[Recorded]:
    return type("Recorded", (Recorded,), {"path": path})


def load(file: BinaryIO, stored: list[Recorded] | None = None) -> Any:
    """Reads a pickle up to its end, behind which the file may go on.

    Args:
        file: The file, open for reading bytes.
        stored: To this the records of what is beside the pickle are added.

    Returns:
        Plain data, in which ``Recorded`` stands for everything else.

    Raises:
        CheckpointError: If it is damaged, or names what gives access to the system.

    Example:
        >>> import io, pathlib, sys
        >>> load(io.BytesIO(pickle.dumps({"step": 3, "root": pathlib.PurePosixPath("/")})))["step"]
        3
        >>> load(io.BytesIO(pickle.dumps(sys.exit)))  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
            ...
        CheckpointError: it holds sys.exit, which was not executed
    """
    recorder = _Recorder(file)
    try:
        content = recorder.load()
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # of any kind, since the file may hold anything
        raise CheckpointError(f"it is damaged, or no pickle: {error!r}") from error
    if stored is not None:
        stored += recorder.stored
    return content


Make = Callable[[Recorded, str], Any]
"""Makes what a record says, or raises LookupError; gets the record, and where it is."""


class Contents(Mapping[Any, Any]):
    """A dict of a file, whose values are made when they are asked for.

    So what nobody asks for may be of any class.

    Args:
        items: The dict as it was read.
        where: Where it is in the file; nothing for the file itself.
        make: Makes what is no plain data.

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
        """Takes the dict, and makes nothing yet."""
        self._items, self._where, self._make = items, where, make

    def __getitem__(self, key: Any) -> Any:
        """Returns a value; raises CheckpointError if it is of a class that is not known."""
        where = f"{self._where}[{key!r}]" if self._where else printable(str(key))
        return made(self._items[key], where, self._make)

    def __iter__(self) -> Iterator[Any]:
        """Yields the keys."""
        return iter(self._items)

    def __len__(self) -> int:
        """Returns the number of keys."""
        return len(self._items)


def made(node: Any, where: str, make: Make) -> Any:
    """Returns a value of a file: dicts as ``Contents``, and what is recorded by ``make``.

    Args:
        node: The value as it was read.
        where: Where it is in the file; nothing for the file itself.
        make: Makes what is no plain data.

    Raises:
        CheckpointError: If it is of a class that ``make`` does not know.

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
        f"{where or 'all of it'} is of {node.path!r}, which was not executed: only tensors and "
        "plain data are read"
    )
