"""One framework, one process: ``python -m novograd.bench.worker MODULE ROUNDS SHAPES...``.

MODULE names a module of ``novograd.bench`` with ``steps()``, ``threads()``, ``VERSIONS``,
``REFERENCE``, ``AGAIN``, ``BYTES``, ``REMARKS`` and ``WARM_UP``; SHAPES are names of
``novograd.bench.shapes``. On standard output comes one line of JSON about the framework, one for
each round, one with the figures after each of SHAPES, and nothing else.
"""

import contextlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from novograd import native
from novograd.bench.shapes import SHAPES
from novograd.bench.timing import BOUND, measure, summary


def measured(module: Any, shapes: str, rounds: int, watch: Callable[[], None]) -> dict[str, Any]:
    """Measures the steps of one set of shapes.

    Args:
        module: Of a framework.
        shapes: A name of ``SHAPES``.
        rounds: Rounds to keep.
        watch: Called after each round.

    Returns:
        The figures of each optimizer, and of those that are left out, why.
    """
    steps, left_out = module.steps(SHAPES[shapes]())
    seconds = measure(list(steps.values()), rounds, module.WARM_UP, watch)
    ratios = {"ratio_to_reference": module.REFERENCE, "ratio_to_bound": BOUND}
    figures = summary(seconds, steps, ratios)
    for name in figures.keys() & module.BYTES.keys():
        figures[name]["bytes_per_weight"] = module.BYTES[name]
    if native.PROBLEM:
        left_out = {**left_out, BOUND: native.PROBLEM}
    return {"figures": figures, "left_out": left_out}


def main() -> None:
    """Measures what the command line says."""
    lines = sys.stdout
    name, rounds, *names = sys.argv[1:]

    def say(**event: Any) -> None:
        print(json.dumps(event), file=lines, flush=True)

    warnings.simplefilter("ignore")  # those of frameworks about themselves
    with contextlib.redirect_stdout(sys.stderr):
        module = importlib.import_module(f"novograd.bench.{name}")
        say(
            about={
                "versions": module.VERSIONS,
                "threads": module.threads(),
                "reference": module.REFERENCE,
                "reference_again": module.AGAIN,
                "remarks": module.REMARKS,
            },
            total=len(names) * (module.WARM_UP + int(rounds)),
        )
        for shapes in names:
            say(
                shapes=shapes,
                **measured(module, shapes, int(rounds), lambda: say(done=1)),
            )
    os._exit(0)  # spares the framework's own clean-up


if __name__ == "__main__":
    main()
