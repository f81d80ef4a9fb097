"""How long one optimizer step takes in PyTorch on a CPU, against torch's own and a published one.

Run it as ``make bench-torch``. Every candidate has its own weights and state; all read the same
gradients (MONAI's, which writes to them, has its own), and all are measured in turn in one
process. Figures are medians; a ratio is the median of the ratios within each round. The second
AdamW shows what a ratio of one looks like here. "24 bytes a weight" moves as much memory as a step
of NovoGrad has to, by the plainest loops: it is the limit.

The result is printed and written to ``benchmarks/results/torch_step.json``.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monai  # pyright: ignore[reportMissingImports]  # of the extra "bench" alone
import torch
from monai.optimizers.novograd import (  # pyright: ignore[reportMissingImports]
    Novograd as MonaiNovograd,
)
from timing import machine, measure, resnet50, show, summary

from novograd.torch import NovoGrad

RESULT = Path(__file__).parent / "results" / "torch_step.json"
ROUNDS, WARM_UP = 15, 4
LR, DECAY = 1e-3, 1e-3
REFERENCE, RATIO = "AdamW, foreach", "ratio_to_adamw_foreach"


def gpt2() -> Iterator[tuple[int, ...]]:
    """The shapes of GPT-2 small's 148 parameters, 124 million weights."""
    width = 768
    yield from ((50257, width), (1024, width))
    for _ in range(12):
        for out, into in ((3 * width, width), (width, width), (4 * width, width)):
            yield from ((out, into), (out,))
        yield from ((width, 4 * width), (width,))
        yield from ((width,),) * 4
    yield from ((width,),) * 2


SHAPES = {
    "ResNet-50": [shape[::-1] for shape in resnet50()],  # torch's layout is the reverse
    "GPT-2 small": list(gpt2()),
    "1,000 x 64": [(64,)] * 1000,
}
# Bytes moved for each float32 weight, if no cache helps.
CANDIDATES: dict[str, tuple[int, Callable[[Any], Any]]] = {
    REFERENCE: (80, lambda p: torch.optim.AdamW(p, LR, foreach=True)),
    "AdamW, foreach again": (80, lambda p: torch.optim.AdamW(p, LR, foreach=True)),
    "AdamW, fused": (28, lambda p: torch.optim.AdamW(p, LR, fused=True)),
    "SGD with momentum, foreach": (32, lambda p: torch.optim.SGD(p, LR, 0.9, foreach=True)),
    "NovoGrad, foreach": (36, lambda p: NovoGrad(p, LR, foreach=True)),
    "NovoGrad, foreach, decay": (48, lambda p: NovoGrad(p, LR, weight_decay=DECAY, foreach=True)),
    "NovoGrad, single tensor": (96, lambda p: NovoGrad(p, LR, foreach=False)),
    "MONAI's Novograd": (52, lambda p: MonaiNovograd(p, LR, betas=(0.95, 0.98))),
}
LIMIT = "24 bytes a weight"


def steps(shapes: list[tuple[int, ...]]) -> Iterator[Callable[[int], Any]]:
    """Yields a step of each candidate, and last one of the limit."""
    gradients = [torch.randn(shape) for shape in shapes]
    for _, make in CANDIDATES.values():
        params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        optimizer = make(params)
        own = isinstance(optimizer, MonaiNovograd)
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient.clone() if own else gradient
        yield lambda _, optimizer=optimizer: optimizer.step()
    x, y = (torch.randn(sum(gradient.numel() for gradient in gradients)) for _ in range(2))

    def move(_: int) -> None:
        for _ in range(2):
            x.add_(y)  # reads two numbers of 4 bytes and writes one

    yield move


def main() -> None:
    """Measures everything, prints it and writes the result file."""
    torch.manual_seed(0)
    traffic = {name: bytes_ for name, (bytes_, _) in CANDIDATES.items()} | {LIMIT: 24}
    results: dict[str, Any] = {
        **machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "rounds": ROUNDS,
        "results": {},
    }
    for title, shapes in SHAPES.items():
        seconds = measure(list(steps(shapes)), ROUNDS, WARM_UP)
        results["results"][title] = summary(seconds, traffic, REFERENCE, RATIO)
        show(title, results["results"][title], RATIO)
    RESULT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
