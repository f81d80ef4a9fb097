"""PyTorch: its own optimizers, the published NovoGrads and ours."""

from collections.abc import Callable
from functools import partial
from math import prod

import torch

from novograd.bench import peers
from novograd.bench.shapes import Shapes
from novograd.bench.timing import BOUND, BOUND_BYTES, MakeStep, TimedStep, bound
from novograd.torch import NovoGrad

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]

WARM_UP = 4
REFERENCE, AGAIN = "AdamW, fused", "AdamW, fused, again"
REMARKS: tuple[str, ...] = ()
LR, BETAS = 1e-3, (0.95, 0.98)
ADAMW = partial(torch.optim.AdamW, lr=LR, betas=BETAS, weight_decay=0.0)
OURS = partial(NovoGrad, lr=LR, betas=BETAS)
PEERS = peers.find()

CANDIDATES: dict[str, Make] = {
    REFERENCE: partial(ADAMW, fused=True),
    AGAIN: partial(ADAMW, fused=True),
    "AdamW, foreach": partial(ADAMW, foreach=True),
    "SGD with momentum, fused": partial(torch.optim.SGD, lr=LR, momentum=BETAS[0], fused=True),
    "NovoGrad": OURS,
    "NovoGrad, int8": partial(OURS, moment_dtype=torch.int8),
    "NovoGrad, rows": partial(NovoGrad, lr=LR, variant="rows"),
    "NovoGrad, rows, int8": partial(NovoGrad, lr=LR, variant="rows", moment_dtype=torch.int8),
    "NovoGrad, foreach": partial(OURS, foreach=True),
    **{name: partial(peer, lr=LR, betas=BETAS) for name, peer in PEERS.classes.items()},
}
# Bytes that each step moves for a float32 weight, if no cache holds more than a row.
BYTES: dict[str, int] = {
    REFERENCE: 28,
    AGAIN: 28,
    "AdamW, foreach": 80,
    "SGD with momentum, fused": 20,
    "NovoGrad": 24,
    "NovoGrad, int8": 18,
    "NovoGrad, rows": 20,
    "NovoGrad, rows, int8": 14,
    "NovoGrad, foreach": 36,
    **dict.fromkeys(PEERS.classes, 52),
    BOUND: BOUND_BYTES,
}
VERSIONS = {"torch": torch.__version__, **PEERS.versions}


class Gradients:
    """Gradients that all optimizers of a table share.

    Before every step the gradients are written again, outside the measured time. Some optimizers
    change them; and in training too, PyTorch's threads have just worked when a step begins.

    Attributes:
        given: The tensors.
    """

    def __init__(self, shapes: Shapes, dtype: torch.dtype = torch.float32):
        """Draws random gradients."""
        self._drawn = [torch.randn(shape, dtype=dtype) for shape in shapes]
        self.given = [gradient.clone() for gradient in self._drawn]

    def write(self, _: int) -> None:
        """Writes the gradients again."""
        for gradient, drawn in zip(self.given, self._drawn, strict=True):
            gradient.copy_(drawn)


def step(make: Make, gradients: Gradients) -> TimedStep:
    """Returns the step of an optimizer with its own weights."""
    optimizer = with_weights(make, gradients)
    return TimedStep(lambda _: optimizer.step(), gradients.write)


def with_weights(make: Make, gradients: Gradients) -> torch.optim.Optimizer:
    """Makes an optimizer with its own weights."""
    params = []
    for gradient in gradients.given:
        params.append(torch.nn.Parameter(gradient.clone()))
        params[-1].grad = gradient
    return make(params)


def in_torch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a weight in PyTorch's layout: convolutions have their outputs first.

    Example:
        >>> in_torch((3, 5, 64, 256)), in_torch((64,))
        ((256, 64, 3, 5), (64,))
    """
    return (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape


def threads() -> int:
    """Returns the number of threads of a step."""
    return torch.get_num_threads()


def steps(shapes: Shapes) -> tuple[dict[str, MakeStep], dict[str, str]]:
    """Returns a function for each optimizer that makes its step.

    Args:
        shapes: The shapes of the weights.

    Returns:
        The functions by name, and for each optimizer that is left out, the reason.
    """
    torch.manual_seed(0)
    size = sum(map(prod, shapes))
    gradients = Gradients([in_torch(shape) for shape in shapes])
    makers: dict[str, MakeStep] = {
        name: partial(step, make, gradients) for name, make in CANDIDATES.items()
    }
    makers |= bound(torch.ones, torch.Tensor.data_ptr, size, threads(), gradients.write)
    return makers, PEERS.left_out
