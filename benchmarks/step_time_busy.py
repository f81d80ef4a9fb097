"""The part of ``step_time.py`` that shows what a busy process on one of the cores costs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tables import show

from novograd.bench.shapes import resnet50
from novograd.bench.timing import Figures, measure, summary
from novograd.bench.torch import CANDIDATES, REFERENCE, WARM_UP, Gradients, step

MODEL = "ResNet-50"
RATIOS = {"ratio_to_adamw_fused": REFERENCE}
NAMES = (REFERENCE, "SGD with momentum, fused", "NovoGrad")


@contextmanager
def busy_process(core: int) -> Iterator[None]:
    """Keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        os.sched_setaffinity(process.pid, {core})
        try:
            yield
        finally:
            process.kill()


def measured(rounds: int) -> dict[str, Any]:
    """Measures the steps without and with a busy process, and prints the table."""
    rounds *= 3  # they scatter more
    gradients = Gradients(resnet50())
    steps = [step(CANDIDATES[name], gradients) for name in NAMES]
    quiet = summary(measure(steps, rounds, WARM_UP), NAMES, {})
    with busy_process(max(os.sched_getaffinity(0))):
        busy = summary(measure(steps, rounds, WARM_UP), NAMES, RATIOS)
    figures: Figures = {
        name: {
            "quiet_ms_median": quiet[name]["ms_median"],
            "quiet_ms_90th": quiet[name]["ms_90th"],
            **busy[name],
            "slow_down": round(busy[name]["ms_median"] / quiet[name]["ms_median"], 3),
        }
        for name in NAMES
    }
    show(f"{MODEL}, another process busy on one of the cores", figures)
    return {"rounds": rounds, "results": {MODEL: figures}}
