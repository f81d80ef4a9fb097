"""The part of ``step_time.py`` that shows what memory a step needs.

Each optimizer takes its steps in a process of its own, where Linux counts the peak of the memory
in use. What a step takes and gives back is the peak during the third step, less what was in use
before it; weights, gradients and state are all there by then.
"""

import ctypes
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from own_processes import in_own_processes
from tables import show

from novograd.bench.shapes import gpt2
from novograd.bench.timing import Figures
from novograd.bench.torch import CANDIDATES, OURS, Gradients, Make, with_weights

MODEL, SHAPES = "GPT-2 small", gpt2()
NAMES = ("AdamW, fused", "NovoGrad", "NovoGrad, foreach", "MONAI's Novograd")
MAKERS: dict[str, Make] = {
    **{name: CANDIDATES[name] for name in NAMES if name in CANDIDATES},
    "NovoGrad, foreach, nesterov": partial(OURS, foreach=True, nesterov=True),
}


def needed(name: str) -> dict[str, float]:
    """Returns the bytes for each weight of an optimizer's state, and of a step beside that."""
    optimizer = with_weights(MAKERS[name], Gradients(SHAPES))
    for _ in range(2):
        optimizer.step()
    ctypes.CDLL(None).malloc_trim(0)  # or the step might use what the one before gave back
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts from here
    before = in_use("VmRSS")
    optimizer.step()
    extra = in_use("VmHWM") - before
    state = sum(
        value.nbytes
        for of_param in optimizer.state.values()
        for value in of_param.values()
        if isinstance(value, torch.Tensor)
    )
    weights = sum(map(prod, SHAPES))
    return {
        "state_bytes_per_weight": round(state / weights, 3),
        "extra_bytes_per_weight": round(extra / weights, 3),
        "extra_mib": round(extra / 2**20, 1),
    }


def in_use(key: str) -> int:
    """Returns a number of bytes from what Linux says about this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


def measured(_: int) -> dict[str, Any]:
    """Measures and prints the table; what it counts does not vary, so that it takes no rounds."""
    figures: Figures = dict(zip(MAKERS, in_own_processes(needed, MAKERS), strict=True))
    show(f"{MODEL}, memory", figures)
    return {"results": {MODEL: figures}}
