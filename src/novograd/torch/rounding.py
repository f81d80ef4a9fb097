"""Rounding at random: the random bits of the elements of a part, and new bfloat16 weights.

``novograd.rounding`` describes the random bits.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from novograd import rounding
from novograd.torch.parts import Part


def rounds_weights(options: Mapping[str, Any], param: Tensor) -> bool:
    """Whether a step rounds the weights of a parameter at random.

    Example:
        >>> options = {"stochastic_rounding": True}
        >>> w = torch.zeros(2)
        >>> rounds_weights(options, w), rounds_weights(options, w.bfloat16())
        (False, True)
    """
    return options.get("stochastic_rounding", False) and param.dtype == torch.bfloat16


def store_weights(part: Part, weights: Tensor, options: Mapping[str, Any]) -> None:
    """Rounds new weights into a real part.

    Args:
        part: The part. Its ``step`` has not been counted yet.
        weights: The new weights, in the dtype of the arithmetic.
        options: The hyperparameters.

    Example:
        >>> w, v = torch.zeros(2, dtype=torch.bfloat16), torch.tensor(0.0)
        >>> store_weights(Part(w, w, w, v), torch.tensor([1.001, 2.0]), {})
        >>> w
        tensor([1., 2.], dtype=torch.bfloat16)
    """
    if rounds_weights(options, part.param):
        bits = random_bits(rounding.FOR_WEIGHTS, part)
        weights = rounding.to_bfloat16(weights, bits, xp=torch)
    part.param.copy_(weights)


def random_bits(purpose: int, part: Part) -> Tensor:
    """Returns the random bits for the elements of a part.

    Args:
        purpose: The purpose of the bits, see ``novograd.rounding``.
        part: The part, whose ``step`` and ``position`` are not None.

    Example:
        >>> from novograd.torch.parts import Position
        >>> w, v = torch.zeros(4), torch.tensor(0.0)
        >>> part = Part(w, w, w, v, step=torch.tensor(7.0), position=Position(0, (1,)))
        >>> random_bits(rounding.FOR_MOMENT, part)
        tensor([43240, 43665, 14055, 65066], dtype=torch.int32)
    """
    shape, position, step = part.exp_avg.shape, part.position, part.step
    assert position is not None
    assert step is not None
    numbers = torch.full((), position.first, dtype=torch.int64, device=step.device)
    for axis, (length, stride) in enumerate(zip(shape, position.strides, strict=True)):
        along = torch.arange(length, device=step.device) * stride
        numbers = numbers + along.view(-1, *(1,) * (len(shape) - axis - 1))
    low, high, odd = numbers >> 1, numbers >> 33, numbers & 1
    words = (x.to(torch.int32) for x in (step, low, high, odd))
    return rounding.random_bits(purpose, *words)
