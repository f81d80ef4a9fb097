"""The page of a comparison."""

from pathlib import Path
from typing import Any

PAGE = "report.html"


def write(results: dict[str, Any], output: Path) -> None:
    """Writes the page."""
