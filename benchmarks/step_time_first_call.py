"""The part of ``step_time.py`` that shows what the first call takes in JAX, which compiles."""

import statistics
import time
from typing import Any

from own_processes import in_own_processes
from tables import show

from novograd.bench.jax import AGAIN, CANDIDATES, Training, drawn
from novograd.bench.shapes import resnet50
from novograd.bench.timing import Figures

MODEL, CALLS = "ResNet-50", 3


def first_call(name: str) -> float:
    """Returns the seconds that tracing, compiling and taking the first step take."""
    training = Training(*CANDIDATES[name], drawn(resnet50()))
    start = time.perf_counter()
    training.step()
    return time.perf_counter() - start


def measured(_: int) -> dict[str, Any]:
    """Measures the first calls, as many in every case, and prints the table."""
    names = [name for name in CANDIDATES if name != AGAIN]
    calls = in_own_processes(first_call, names * CALLS)
    figures: Figures = {
        name: {"first_call_s": round(statistics.median(calls[i :: len(names)]), 3)}
        for i, name in enumerate(names)
    }
    show(f"{MODEL}, JAX", figures)
    return {"results": {MODEL: figures}}
