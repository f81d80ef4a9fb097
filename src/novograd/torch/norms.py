"""The norms of the layers, and the scalars of the rule."""

import math
from typing import Any

import torch
from torch import Tensor

from novograd import rule, variants
from novograd.torch.options import Options, changed


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype of ``v`` and of the arithmetic for weights of the given dtype.

    Example:
        >>> compute_dtype(torch.bfloat16), compute_dtype(torch.complex128)
        (torch.float32, torch.float64)
    """
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def layer_norms(grad: Tensor, shape: torch.Size, dtype: torch.dtype, options: Options) -> Tensor:
    """Returns the values that ``v`` averages: squared norms, or the largest elements of layers.

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
    """Returns the squared norms of the layers of a real gradient, in ``dtype``.

    On a CPU, a norm of the whole tensor is added up in a few long chains. This costs 3 digits for a
    large float32 tensor: an error of 3e-3 for 25 million elements. Norms of the rows have short
    chains and are as fast, in any memory format. A plain sum, which is pairwise, then adds the
    squares of these norms.

    Args:
        grad: The gradient.
        shape: The shape of the result, which is the shape of the second moment: 0-d, or with length
            1 for the axes to sum.
        dtype: The dtype of the result.

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
    """Returns the numbers of the rule for the given hyperparameters.

    Args:
        options: The hyperparameters.
        count: Number of steps before this one; a Python number or a float64 tensor.
        floor: Added to ``v`` to avoid 0/0 if epsilon is 0.

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
    """Returns the new ``v`` and the scalars of the linear pass, on the device of ``v``.

    Args:
        s: The values that ``v`` averages, in any shape.
        v: Second moments before the step, in the same shape, in the dtype of the arithmetic.
        options: The hyperparameters.
        scale: Factor of the normalised gradients.
        maximum: The largest second moments so far, for variants with amsgrad.
        step: Numbers of steps before this one, for variants that count steps.

    Returns:
        The new values. If an ``s`` is not finite, its ``v`` and ``maximum`` do not change.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> options = NovoGrad([torch.zeros(1)], lr=0.5).param_groups[0]
        >>> v, _, scalars = advance(torch.tensor([4.0, 0.0]), torch.zeros(2), options)
        >>> v.tolist(), scalars.a[0].item(), scalars.b
        ([4.0, 0.0], 0.25, 0.0)
    """
    lr = options["lr"]
    if isinstance(lr, Tensor):
        # A 0-d CPU tensor can be multiplied with a tensor on any device, without a copy.
        lr = lr.squeeze() if lr.device.type == "cpu" else lr.squeeze().to(v.device)
        options = changed(options, lr=(lr * torch.ones_like(v)).to(v.dtype))
    # With eps 0, a gradient of zeros would give 0/0.
    floor = torch.finfo(v.dtype).tiny
    numbers = numbers_of(options, 0.0 if step is None else step.double(), floor=floor)
    each: list[Any] = [x.to(v.dtype) if isinstance(x, Tensor) and x.ndim else x for x in numbers]
    numbers = rule.Numbers(*each)
    return rule.advance(s, v, numbers, scale, maximum, xp=torch)
