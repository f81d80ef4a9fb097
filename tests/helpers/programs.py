"""Programs in separate processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


def start(module: str, *arguments: Any, **environment: str) -> subprocess.Popen[str]:
    """Starts a module of the package ``tests`` as a program."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for a program, checks that it succeeds, and returns its output."""
    try:
        printed, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, printed + errors
    return printed


def run(module: str, *arguments: Any, **environment: str) -> str:
    """Runs a module of the package ``tests`` as a program, and returns its output."""
    return finish(start(module, *arguments, **environment))
