"""The part of ``step_time.py`` that takes steps in bfloat16, and NovoGrad's in float32 beside."""

from typing import Any

import torch
from tables import show

from novograd.bench.shapes import gpt2
from novograd.bench.timing import measure, summary
from novograd.bench.torch import BYTES, CANDIDATES, OURS, REFERENCE, WARM_UP, Gradients, step

MODEL = "GPT-2 small, bfloat16"
NAMES = (REFERENCE, "NovoGrad", "NovoGrad, foreach")
FLOAT32 = "NovoGrad, float32"
RATIOS = {"ratio_to_adamw_fused": REFERENCE, "ratio_to_novograd_float32": FLOAT32}


def measured(rounds: int) -> dict[str, Any]:
    """Measures the steps, with weights, gradients and state of one dtype, and prints the table."""
    torch.manual_seed(0)
    half = Gradients(gpt2(), torch.bfloat16)
    steps = {name: step(CANDIDATES[name], half) for name in NAMES}
    steps[FLOAT32] = step(OURS, Gradients(gpt2()))
    figures = summary(measure(list(steps.values()), rounds, WARM_UP), steps, RATIOS)
    for name in NAMES:
        figures[name]["bytes_per_weight"] = BYTES[name] // 2
    figures[FLOAT32]["bytes_per_weight"] = BYTES["NovoGrad"]
    show(MODEL, figures)
    return {"rounds": rounds, "results": {MODEL: figures}}
