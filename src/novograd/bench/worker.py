"""Measures one framework: ``python -m novograd.bench.worker MODULE ROUNDS SHAPES``.

MODULE names a module of ``novograd.bench`` with ``steps()``, ``threads()``, ``VERSIONS``,
``REFERENCE``, ``AGAIN``, ``BYTES``, ``REMARKS`` and ``WARM_UP``; SHAPES is a key of
``novograd.bench.shapes.SHAPES``. Each optimizer is measured in turn with the reference and the
lower bound; no other optimizer is in the process then. The worker prints lines of JSON: one about
the framework, one for each round, and one with the times of each optimizer. Standard output has
nothing else.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
import warnings
from functools import partial
from typing import Any

from novograd import native
from novograd.bench.shapes import SHAPES
from novograd.bench.timing import BOUND, measure


def main() -> None:
    """Measures the steps that the command line names."""
    lines = sys.stdout
    name, rounds, shapes = sys.argv[1:]

    def say(**event: Any) -> None:
        print(json.dumps(event), file=lines, flush=True)

    warnings.simplefilter("ignore")  # frameworks warn about themselves
    with contextlib.redirect_stdout(sys.stderr):
        module = importlib.import_module(f"novograd.bench.{name}")
        makers, left_out = module.steps(SHAPES[shapes]())
        if native.PROBLEM:
            left_out = {**left_out, BOUND: native.PROBLEM}
        others = [one for one in makers if one not in (module.REFERENCE, BOUND)]
        say(
            about={
                "versions": module.VERSIONS,
                "threads": module.threads(),
                "reference": module.REFERENCE,
                "reference_again": module.AGAIN,
                "remarks": module.REMARKS,
            },
            bytes_per_weight=module.BYTES,
            left_out=left_out,
            optimizers=len(others),
            warm_up=module.WARM_UP,
        )
        beside = {one: makers[one]() for one in (module.REFERENCE, BOUND) if one in makers}
        for other in others:
            steps = {**beside, other: makers[other]()}
            watch = partial(say, done=1)
            seconds = measure(list(steps.values()), int(rounds), module.WARM_UP, watch)
            say(measured=other, seconds=dict(zip(steps, seconds.T.tolist(), strict=True)))
            del steps
            gc.collect()
    os._exit(0)  # skips the framework's clean-up


if __name__ == "__main__":
    main()
