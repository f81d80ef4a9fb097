"""Reads the docstrings of this project: ``Example:`` begins examples, and ``::`` begins code."""

import re
from typing import Any

from griffe import Extension, Object


class Docstrings(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrites the docstring of an object."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"::\n\n", ":\n\n", text)
