"""The part of ``step_time.py`` that compares optimizers in PyTorch."""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import peers
import torch
from shapes import Shapes, gpt2, resnet50, unet
from timing import Figures, Step, bound, measure, show, summary

from novograd.torch import NovoGrad

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]

WARM_UP = 4
LR, BETAS = 1e-3, (0.95, 0.98)
REFERENCE, BOUND = "AdamW, fused", "the bound"
RATIOS = {"ratio_to_adamw_fused": REFERENCE, "ratio_to_bound": BOUND}

ADAMW = partial(torch.optim.AdamW, lr=LR, betas=BETAS, weight_decay=0.0)
OURS = partial(NovoGrad, lr=LR, betas=BETAS)
# For each the bytes it moves for a float32 weight, if no cache helps.
CANDIDATES: dict[str, tuple[int, Make]] = {
    REFERENCE: (28, partial(ADAMW, fused=True)),
    "AdamW, fused, again": (28, partial(ADAMW, fused=True)),
    "AdamW, foreach": (80, partial(ADAMW, foreach=True)),
    "SGD with momentum, fused": (
        20,
        partial(torch.optim.SGD, lr=LR, momentum=BETAS[0], fused=True),
    ),
    "NovoGrad": (24, OURS),
    "NovoGrad, foreach": (36, partial(OURS, foreach=True)),
    **{name: (52, partial(peer, lr=LR, betas=BETAS)) for name, peer in peers.installed().items()},
}
TABLES: dict[str, tuple[Shapes, set[str]]] = {
    "ResNet-50": ([shape[::-1] for shape in resnet50()], set()),  # torch's layout is the reverse
    # Without AdamW's foreach, which needs 3 GB with its temporary tensors, the rest need 12 GB.
    "GPT-2 small": (gpt2(), {"AdamW, foreach"}),
    "U-Net of the main job": (unet(), set()),
    "1,000 x 64": ([(64,)] * 1000, set()),
}


class Gradients:
    """What all optimizers of a table read.

    They are written anew before every step, outside its time: as in training, where PyTorch's own
    threads have just been at work, and because some optimizers change them.

    Attributes:
        given: The tensors.
    """

    def __init__(self, shapes: Shapes, dtype: torch.dtype = torch.float32):
        """Draws them."""
        self._drawn = [torch.randn(shape, dtype=dtype) for shape in shapes]
        self.given = [gradient.clone() for gradient in self._drawn]

    def write(self, _: int) -> None:
        """Writes them anew."""
        for gradient, drawn in zip(self.given, self._drawn, strict=True):
            gradient.copy_(drawn)


def step(make: Make, gradients: Gradients) -> Step:
    """Returns the step of an optimizer with weights of its own."""
    optimizer = with_weights(make, gradients)
    return Step(lambda _: optimizer.step(), gradients.write)


def with_weights(make: Make, gradients: Gradients) -> torch.optim.Optimizer:
    """Makes an optimizer with weights of its own."""
    params = []
    for gradient in gradients.given:
        params.append(torch.nn.Parameter(gradient.clone()))
        params[-1].grad = gradient
    return make(params)


def flat_bound(shapes: Shapes, gradients: Gradients) -> Step:
    """Returns the bound for as many weights; it has a gradient of its own."""
    size = sum(map(prod, shapes))
    arrays = [torch.ones(size) for _ in range(3)]
    step = bound(arrays, torch.Tensor.data_ptr, size, torch.get_num_threads())
    return step._replace(prepare=gradients.write)


def table(title: str, shapes: Shapes, left_out: set[str], rounds: int) -> Figures:
    """Measures one table in float32."""
    gradients = Gradients(shapes)
    chosen = {name: one for name, one in CANDIDATES.items() if name not in left_out}
    steps = {name: step(make, gradients) for name, (_, make) in chosen.items()}
    steps[BOUND] = flat_bound(shapes, gradients)
    figures = figures_of(steps, rounds, RATIOS)
    for name, (bytes_, _) in chosen.items():
        figures[name]["bytes_per_weight"] = bytes_
    figures[BOUND]["bytes_per_weight"] = 24
    figures |= {name: {"note": peers.NOT_INSTALLED} for name in peers.PEERS if name not in chosen}
    show(title, figures)
    return figures


def bfloat16_table(title: str, shapes: Shapes, rounds: int) -> Figures:
    """Measures one table with weights, gradients and state in bfloat16, and NovoGrad in float32."""
    half = Gradients(shapes, torch.bfloat16)
    names = (REFERENCE, "NovoGrad", "NovoGrad, foreach")
    steps = {name: step(CANDIDATES[name][1], half) for name in names}
    steps["NovoGrad, float32"] = step(OURS, Gradients(shapes))
    ratios = {"ratio_to_adamw_fused": REFERENCE, "ratio_to_novograd_float32": "NovoGrad, float32"}
    figures = figures_of(steps, rounds, ratios)
    for name in names:
        figures[name]["bytes_per_weight"] = CANDIDATES[name][0] // 2
    figures["NovoGrad, float32"]["bytes_per_weight"] = CANDIDATES["NovoGrad"][0]
    show(title, figures)
    return figures


def figures_of(steps: Mapping[str, Step], rounds: int, ratios: Mapping[str, str]) -> Figures:
    """Measures steps and sums them up."""
    return summary(measure(list(steps.values()), rounds, WARM_UP), steps, ratios)


def about() -> dict[str, Any]:
    """Returns what a result file says about the frameworks."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **peers.versions(),
    }


def measured(rounds: int) -> dict[str, Any]:
    """Measures and prints all tables."""
    torch.manual_seed(0)
    results = {name: table(name, *of, rounds=rounds) for name, of in TABLES.items()}
    title = "GPT-2 small, bfloat16"
    results[title] = bfloat16_table(title, gpt2(), rounds)
    return {**about(), "rounds": rounds, "results": results}
