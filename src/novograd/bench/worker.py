"""Measures one framework: ``python -m novograd.bench.worker MODULE ROUNDS SHAPES...``.

MODULE names a module of ``novograd.bench`` with ``steps()``, ``threads()``, ``VERSIONS``,
``REFERENCE``, ``AGAIN``, ``BYTES``, ``REMARKS`` and ``WARM_UP``; SHAPES are names of
``novograd.bench.shapes``. The worker prints lines of JSON: one about the framework, one for each
round, and one with the figures of each of SHAPES. Standard output has nothing else.
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
        module: The module of a framework.
        shapes: A key of ``SHAPES``.
        rounds: Measured rounds, after the warm-up.
        watch: Called after each round.

    Returns:
        The figures of each optimizer, and for each that is left out, the reason.
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
    """Measures the steps that the command line names."""
    lines = sys.stdout
    name, rounds, *names = sys.argv[1:]

    def say(**event: Any) -> None:
        print(json.dumps(event), file=lines, flush=True)

    warnings.simplefilter("ignore")  # frameworks warn about themselves
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
    os._exit(0)  # skips the framework's clean-up


if __name__ == "__main__":
    main()
