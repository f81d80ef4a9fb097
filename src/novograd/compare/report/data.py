"""The data of a comparison as text, to download from the page."""

import csv
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

LONG = {"loss", "evaluations", "traceback"}  # fields that do not fit into one cell


def runs_csv(runs: Sequence[Mapping[str, Any]]) -> str:
    """Writes one line for each run.

    Args:
        runs: The runs of ``results.json``.

    Returns:
        CSV with a heading. A field inside another one, such as a metric, has a name with a dot.

    Example:
        >>> print(runs_csv([{"seed": 3, "loss": [2.0], "metrics": {"accuracy": 0.5}}]), end="")
        seed,metrics.accuracy
        3,0.5
    """
    rows = [_flat(run) for run in runs]
    file = StringIO()
    writer = csv.DictWriter(
        file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def url(text: str, kind: str) -> str:
    """Returns a URL that contains a text.

    Args:
        text: The text.
        kind: Its media type.

    Example:
        >>> url("a", "text/csv")
        'data:text/csv;base64,YQ=='
    """
    return f"data:{kind};base64,{b64encode(text.encode()).decode()}"


def _flat(run: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces each field that is an object by the fields of this object."""
    flat: dict[str, Any] = {}
    for name, value in run.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name not in LONG:
            flat[name] = value
    return flat
