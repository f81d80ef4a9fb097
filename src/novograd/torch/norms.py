"""What each layer's step needs besides its tensors: the norm and the scalars of the rule."""

import math
from typing import Any

import torch
from torch import Tensor

from novograd import rule, variants
from novograd.torch.options import Options, changed


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype of v and of the arithmetic for weights of a dtype.

    Example:
        >>> compute_dtype(torch.bfloat16), compute_dtype(torch.complex128)
        (torch.float32, torch.float64)
    """
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def layer_norms(grad: Tensor, shape: torch.Size, dtype: torch.dtype, options: Options) -> Tensor:
    """Returns what ``v`` averages: squared norms, or the largest elements of the layers.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> options = NovoGrad([torch.zeros(1)], variant="apex-inf").param_groups[0]
        >>> layer_norms(torch.tensor([3.0, -4.0]), torch.Size(), torch.float32, options)
        tensor(4.)
    """
    if variants.get(options["variant"]).norm == "l2":
        return squared_norms(grad, shape, dtype)
    if not grad.numel():
        return grad.new_zeros(shape, dtype=dtype)
    axes = [i for i in range(grad.ndim) if not shape or shape[i] == 1]
    largest = grad.abs()
    return (largest.amax(axes, keepdim=bool(shape)) if axes else largest).to(dtype)


def squared_norms(grad: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Returns the sums of the squares of the layers of a real gradient, in ``dtype``.

    On a CPU a norm over everything adds up in a few long chains, which costs 3 digits of a large
    float32 tensor: 3e-3 of 25 million elements. Norms of the rows are short chains and as fast,
    whatever the memory format, and a plain sum, which is pairwise, adds those.

    Args:
        grad: The gradient.
        shape: Of the result, that is, of the second moment: 0-d, or with 1 for the axes to sum.
        dtype: Of the result.

    Example:
        >>> g = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
        >>> squared_norms(g, torch.Size(), torch.float64).item()
        50.0
        >>> squared_norms(g, torch.Size([2, 1]), torch.float32)
        tensor([[25.],
                [25.]])
    """
    axes = [i for i in range(grad.ndim) if not shape or shape[i] == 1]
    if len(axes) > 1:
        grad = torch.linalg.vector_norm(grad, dim=axes[1:], keepdim=True, dtype=dtype)
    squares = grad.to(dtype).square()
    return squares.sum(axes, keepdim=bool(shape)) if axes else squares


def numbers_of(options: Options, count: Any = 0.0, *, floor: float = 0.0) -> rule.Numbers:
    """Returns the numbers of the rule for some hyperparameters.

    Args:
        options: The hyperparameters.
        count: Number of steps taken before, a Python number or in float64.
        floor: Added to ``v`` so that without an epsilon 0/0 is 0.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> numbers_of(NovoGrad([torch.zeros(1)], lr=0.5).param_groups[0]).a
        0.5
    """
    beta1, beta2 = options["betas"]
    return rule.numbers(
        variants.get(options["variant"]),
        lr=options["lr"],
        beta1=beta1,
        beta2=beta2,
        epsilon=options["eps"],
        weight_decay=options["weight_decay"],
        grad_averaging=options["grad_averaging"],
        maximize=options["maximize"],
        floor=floor,
        count=count,
        xp=torch if isinstance(count, Tensor) else math,
    )


def advance(
    s: Tensor,
    v: Tensor,
    options: Options,
    scale: float | Tensor = 1.0,
    maximum: Tensor | None = None,
    step: Tensor | None = None,
) -> rule.Advanced:
    """Returns the v to be stored and the scalars of the linear pass, on the device of ``v``.

    Args:
        s: What the gradients of layers add to their second moments, of any shape.
        v: Second moments before the step, of the same shape, in compute precision.
        options: The hyperparameters.
        scale: What the normalised gradients are multiplied by.
        maximum: The largest second moments so far, for amsgrad.
        step: The numbers of steps taken before, for variants that count them.

    Returns:
        With an ``s`` that is not finite, ``v`` and ``maximum`` are what they were.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> options = NovoGrad([torch.zeros(1)], lr=0.5).param_groups[0]
        >>> v, _, scalars = advance(torch.tensor([4.0, 0.0]), torch.zeros(2), options)
        >>> v.tolist(), scalars.a[0].item(), scalars.b
        ([4.0, 0.0], 0.25, 0.0)
    """
    lr = options["lr"]
    if isinstance(lr, Tensor):
        # A 0-d tensor of the CPU enters a product on any device as a number, without a copy.
        lr = lr.squeeze() if lr.device.type == "cpu" else lr.squeeze().to(v.device)
        options = changed(options, lr=(lr * torch.ones_like(v)).to(v.dtype))
    # With eps 0 a gradient that is zero throughout would be 0/0.
    floor = torch.finfo(v.dtype).tiny
    numbers = numbers_of(options, 0.0 if step is None else step.double(), floor=floor)
    each: list[Any] = [x.to(v.dtype) if isinstance(x, Tensor) and x.ndim else x for x in numbers]
    numbers = rule.Numbers(*each)
    return rule.advance(s, v, numbers, scale, maximum, xp=torch)
