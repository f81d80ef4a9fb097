"""Functions for result files: describe the machine, write a file."""

import os
import platform
from datetime import date
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Returns the description of the machine and the date for a result file.

    Example:
        >>> sorted(machine())
        ['cores', 'date', 'processor', 'python']
    """
    return {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def replace(path: Path, content: str | bytes) -> None:
    """Replaces a file as a whole: readers, also after a crash, see the old or the new content."""
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _processor() -> str:
    """Returns the processor's name, as the system reports it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
