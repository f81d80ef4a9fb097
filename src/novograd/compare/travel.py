"""The user's own files that runs on other machines need."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from novograd.compare.load import is_file


def pack(names: Iterable[str], folder: Path) -> dict[str, str]:
    """Copies the files of tasks and optimizers, and the modules beside them, into a folder.

    Modules beside a file are the Python files of its directory, and the packages there: directories
    with ``__init__.py``, which are copied as a whole. Modules of installed packages stay.

    Args:
        names: Names of tasks and optimizers on the command line. Others than files and modules of
            the user are ignored.
        folder: The folder. It is the working directory of the runs.

    Returns:
        The name in the folder, by the name of each file.

    Example:
        >>> pack(["brain", "adamw", "torch.optim.RAdam"], Path("unused"))
        {}
    """
    found: dict[str, str] = {}
    beside: dict[Path, Path] = {}
    for name in names:
        place, colon, attribute = name.partition(".py:")
        if is_file(name) or colon:
            path = Path(f"{place}.py" if colon else name).resolve()
            if path.parent not in beside:
                beside[path.parent] = Path(f"beside-{len(beside)}")
                _copy(path.parent, folder / beside[path.parent])
            found[name] = f"{beside[path.parent] / path.name}{colon and ':'}{attribute}"
        elif _is_here(name.partition(":")[0].partition(".")[0]):
            _copy(Path(), folder)
    return found


def _is_here(module: str) -> bool:
    """Returns whether a module is in the current directory, and not in an installed package."""
    return Path(f"{module}.py").is_file() or Path(module, "__init__.py").is_file()


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.suffix == ".py" and path.is_file():
            shutil.copy(path, folder)
        elif (path / "__init__.py").is_file():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / path.name, ignore=ignored, dirs_exist_ok=True)
