"""Measures the first call of an optimizer step in JAX: tracing, compiling, and the step.

Usage, on Linux::

    python benchmarks/first_call.py

It measures the optimizers of ``novograd bench`` on two cores, each call in a separate process. It
prints the results, and writes them to ``benchmarks/results/step_time_jax-PROCESSOR.json``.
"""

import statistics
import time

from parts import in_own_processes, keep, keep_to_two_cores, result_file
from tables import show

from novograd.bench import jax as bench
from novograd.bench.shapes import resnet50
from novograd.bench.timing import Figures

RESULT = result_file("step_time_jax")
MODEL, CALLS = "ResNet-50", 3


def first_call(name: str) -> float:
    """Returns the seconds of the first call of an optimizer's step."""
    training = bench.Training(*bench.CANDIDATES[name], bench.drawn(resnet50()))
    start = time.perf_counter()
    training.step()
    return time.perf_counter() - start


def main() -> None:
    """Measures all optimizers, prints the table and writes the result file."""
    keep_to_two_cores()
    names = [name for name in bench.CANDIDATES if name != bench.AGAIN]
    calls = in_own_processes(first_call, names * CALLS)
    figures: Figures = {
        name: {"first_call_s": round(statistics.median(calls[i :: len(names)]), 3)}
        for i, name in enumerate(names)
    }
    show(f"{MODEL}, JAX", figures)
    keep(RESULT, "first_call", bench, {"results": {MODEL: figures}})


if __name__ == "__main__":
    main()
