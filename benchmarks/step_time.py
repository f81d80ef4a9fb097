"""Measures properties of a step in PyTorch that ``novograd bench`` does not measure.

Usage, on Linux::

    python benchmarks/step_time.py              # everything, each part in a separate process
    python benchmarks/step_time.py busy         # one part
    python benchmarks/step_time.py --rounds 5   # a quick look; do not commit what it writes

The parts: a step in bfloat16, a step while another process uses one of the cores, and the memory
that a step needs in addition to its state. The program measures the optimizers of ``novograd
bench`` in the same way, on two cores. It prints the results, and writes them to
``benchmarks/results/step_time_torch-PROCESSOR.json``.
"""

import argparse
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from parts import in_own_processes, keep, keep_to_two_cores, result_file
from tables import show

from novograd.bench import torch as bench
from novograd.bench.shapes import gpt2, resnet50
from novograd.bench.timing import Figures, measure, summary
from novograd.bench.torch import CANDIDATES, OURS, REFERENCE, WARM_UP, Gradients, Make

RESULT = result_file("step_time_torch")
ROUNDS = 30
RATIOS = {"ratio_to_adamw_fused": REFERENCE}
FLOAT32 = "NovoGrad, float32"
IN_MEMORY: dict[str, Make] = {
    **{
        name: CANDIDATES[name]
        for name in (REFERENCE, "NovoGrad", "NovoGrad, foreach", "MONAI's Novograd")
        if name in CANDIDATES
    },
    "NovoGrad, foreach, nesterov": partial(OURS, foreach=True, nesterov=True),
}


def bfloat16(rounds: int) -> dict[str, Any]:
    """Measures steps with weights, gradients and state in bfloat16, and our step in float32."""
    torch.manual_seed(0)
    names = (REFERENCE, "NovoGrad", "NovoGrad, foreach")
    half = Gradients(gpt2(), torch.bfloat16)
    steps = {name: bench.step(CANDIDATES[name], half) for name in names}
    steps[FLOAT32] = bench.step(OURS, Gradients(gpt2()))
    ratios = {**RATIOS, "ratio_to_novograd_float32": FLOAT32}
    figures = summary(measure(list(steps.values()), rounds, WARM_UP), steps, ratios)
    for name in names:
        figures[name]["bytes_per_weight"] = bench.BYTES[name] // 2
    figures[FLOAT32]["bytes_per_weight"] = bench.BYTES["NovoGrad"]
    show("GPT-2 small, bfloat16", figures)
    return {"rounds": rounds, "results": {"GPT-2 small, bfloat16": figures}}


def busy(rounds: int) -> dict[str, Any]:
    """Measures steps without and with another process that keeps one of the cores busy."""
    rounds *= 3  # the times vary more
    names = (REFERENCE, "SGD with momentum, fused", "NovoGrad")
    gradients = Gradients(resnet50())
    steps = [bench.step(CANDIDATES[name], gradients) for name in names]
    quiet = summary(measure(steps, rounds, WARM_UP), names, {})
    with busy_process(max(os.sched_getaffinity(0))):
        disturbed = summary(measure(steps, rounds, WARM_UP), names, RATIOS)
    figures: Figures = {
        name: {
            "quiet_ms_median": quiet[name]["ms_median"],
            "quiet_ms_90th": quiet[name]["ms_90th"],
            **disturbed[name],
            "slow_down": round(disturbed[name]["ms_median"] / quiet[name]["ms_median"], 3),
        }
        for name in names
    }
    show("ResNet-50, another process busy on one of the cores", figures)
    return {"rounds": rounds, "results": {"ResNet-50": figures}}


@contextmanager
def busy_process(core: int) -> Iterator[None]:
    """Keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        os.sched_setaffinity(process.pid, {core})
        try:
            yield
        finally:
            process.kill()


def memory(_: int) -> dict[str, Any]:
    """Measures the memory that steps need. It does not vary, so one round is enough."""
    figures: Figures = dict(zip(IN_MEMORY, in_own_processes(needed, IN_MEMORY), strict=True))
    show("GPT-2 small, memory", figures)
    return {"results": {"GPT-2 small": figures}}


def needed(name: str) -> dict[str, float]:
    """Returns the bytes a weight of an optimizer's state, and of the extra memory of a step.

    The extra memory is the peak of this process's memory during the third step, as Linux counts it,
    minus the memory in use before: weights, gradients and state exist by then.
    """
    shapes = gpt2()
    optimizer = bench.with_weights(IN_MEMORY[name], Gradients(shapes))
    for _ in range(2):
        optimizer.step()
    ctypes.CDLL(None).malloc_trim(0)  # or the step might reuse memory that the last step freed
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    before = in_use("VmRSS")
    optimizer.step()
    extra = in_use("VmHWM") - before
    state = sum(
        value.nbytes
        for of_param in optimizer.state.values()
        for value in of_param.values()
        if isinstance(value, torch.Tensor)
    )
    weights = sum(map(prod, shapes))
    return {
        "state_bytes_per_weight": round(state / weights, 3),
        "extra_bytes_per_weight": round(extra / weights, 3),
        "extra_mib": round(extra / 2**20, 1),
    }


def in_use(key: str) -> int:
    """Returns a number of bytes from Linux's status of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


PARTS = {"bfloat16": bfloat16, "busy": busy, "memory": memory}


def measured(part: str, rounds: int) -> None:
    """Measures a part, prints its figures and writes them into the result file."""
    keep(RESULT, part, bench, PARTS[part](rounds))


def main() -> None:
    """Measures one part, or all parts."""
    parser = argparse.ArgumentParser(description="Measures optimizer steps in PyTorch.")
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    given = parser.parse_args()
    keep_to_two_cores()
    parts = [given.part] if given.part else PARTS
    in_own_processes(partial(measured, rounds=given.rounds), parts)


if __name__ == "__main__":
    main()
