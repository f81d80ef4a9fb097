"""What each layer's step needs besides its tensors: the norm and the scalars of the rule."""

from typing import TypedDict

import torch
from torch import Tensor

from novograd import rule


class Options(TypedDict):
    """The hyperparameters of a step, in the words of a parameter group."""

    lr: float | Tensor
    betas: tuple[float | Tensor, float | Tensor]
    eps: float
    weight_decay: float | Tensor
    grad_averaging: bool
    nesterov: bool
    maximize: bool
    skip_nonfinite: bool


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype of v and of the arithmetic for weights of a dtype.

    Example:
        >>> compute_dtype(torch.bfloat16), compute_dtype(torch.complex128)
        (torch.float32, torch.float64)
    """
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


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


def advance(
    s: Tensor, v: Tensor, options: Options, scale: float | Tensor = 1.0
) -> tuple[Tensor, rule.Coefficients]:
    """Returns the v to be stored and the scalars of the linear pass, on the device of ``v``.

    Args:
        s: Squared norms of the gradients of layers, of any shape.
        v: Second moments before the step, of the same shape, in compute precision.
        options: The hyperparameters.
        scale: What the normalised gradients are multiplied by.

    Returns:
        ``(v, scalars)``. With an ``s`` that is not finite, ``v`` is what it was.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> options = NovoGrad([torch.zeros(1)], lr=0.5).param_groups[0]
        >>> v, scalars = advance(torch.tensor([4.0, 0.0]), torch.zeros(2), options)
        >>> v.tolist(), scalars.a[0].item(), scalars.b
        ([4.0, 0.0], 0.25, 0.0)
    """
    beta1, beta2 = options["betas"]
    lr = options["lr"]
    if isinstance(lr, Tensor):
        # A 0-d tensor of the CPU enters a product on any device as a number, without a copy.
        lr = lr.squeeze() if lr.device.type == "cpu" else lr.squeeze().to(v.device)
        lr = (lr * torch.ones_like(v)).to(v.dtype)
    # Without history beta2 counts as 0, that is, v is s.
    new = torch.where(v == 0, s, rule.second_moment(s, v, beta2))
    scalars = rule.coefficients(
        new,
        lr=lr,
        beta1=beta1,
        # With eps 0 a gradient that is zero throughout would be 0/0.
        epsilon=max(options["eps"], torch.finfo(v.dtype).tiny),
        weight_decay=options["weight_decay"],
        grad_averaging=options["grad_averaging"],
        scale=scale,
    )
    if options["maximize"]:
        scalars = scalars._replace(a=-scalars.a)
    # An s beyond the dtype's range makes a = 0 and must not stay in v for ever.
    return torch.where(new.isfinite(), new, v), scalars
