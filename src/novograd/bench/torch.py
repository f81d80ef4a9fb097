"""PyTorch: its own optimizers, the published NovoGrads and ours."""

from collections.abc import Callable
from functools import partial
from math import prod

import torch

from novograd.bench import peers
from novograd.bench.shapes import Shapes
from novograd.bench.timing import BOUND, BOUND_BYTES, Step, bound
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
    "NovoGrad, foreach": partial(OURS, foreach=True),
    **{name: partial(peer, lr=LR, betas=BETAS) for name, peer in PEERS.classes.items()},
}
# What each moves for a float32 weight, if no cache helps.
BYTES: dict[str, int] = {
    REFERENCE: 28,
    AGAIN: 28,
    "AdamW, foreach": 80,
    "SGD with momentum, fused": 20,
    "NovoGrad": 24,
    "NovoGrad, foreach": 36,
    **dict.fromkeys(PEERS.classes, 52),
    BOUND: BOUND_BYTES,
}
VERSIONS = {"torch": torch.__version__, **PEERS.versions}
# Too many weights for the temporary tensors of AdamW's foreach.
MANY = 100_000_000


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


def threads() -> int:
    """Returns how many threads take a step."""
    return torch.get_num_threads()


def steps(shapes: Shapes) -> tuple[dict[str, Step], dict[str, str]]:
    """Makes the step of each optimizer.

    Args:
        shapes: Those of the weights; in which order their axes are matters to none.

    Returns:
        The steps, and of the optimizers that are left out, why.
    """
    torch.manual_seed(0)
    size = sum(map(prod, shapes))
    left_out = dict(PEERS.left_out)
    if size > MANY:
        left_out["AdamW, foreach"] = "left out, for want of memory"
    gradients = Gradients(shapes)
    made = {
        name: step(make, gradients) for name, make in CANDIDATES.items() if name not in left_out
    }
    arrays = [torch.ones(size) for _ in range(3)]
    made |= bound(arrays, torch.Tensor.data_ptr, size, threads(), gradients.write)
    return made, left_out
