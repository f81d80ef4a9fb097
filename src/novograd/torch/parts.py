"""What an implementation updates as one tensor: a parameter, or a view of a part of it."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from novograd.native import grid


class Part(NamedTuple):
    """Plain tensors, of which each layer has one element of ``exp_avg_sq``.

    Attributes:
        param: Weights.
        grad: Their gradient, which is only read.
        exp_avg: Their moment.
        exp_avg_sq: Second moments: 0-d, or with as many axes as the weights, each of its length or
            1. The squares are summed over those of length 1.
        scale: What the normalised gradient is multiplied by.
        square: The squared norms, in the shape of ``exp_avg_sq``, where they are known: of layers
            of which other processes have pieces. In float64.
        maximum: The largest second moments so far, in the same shape, for amsgrad.
        step: How many steps were taken before, 0-d, for variants that count them.
        history: The second moments of the whole parameter as they are stored, for these variants.
    """

    param: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    scale: float = 1.0
    square: Tensor | None = None
    maximum: Tensor | None = None
    step: Tensor | None = None
    history: Tensor | None = None


# Runs, layers, run and stride, as of novograd.native.grid.
Grid = tuple[int, int, int, int]
_cached_grid = functools.lru_cache(maxsize=4096)(grid)

# An axis, and where along it each part begins and how long it is.
Cuts = tuple[int, tuple[tuple[int, int], ...]]


def parts(whole: Part, cuts: Cuts | None) -> Iterator[Part]:
    """Yields a parameter as what is updated as one tensor, which is a part where it is split.

    Example:
        >>> w, v = torch.zeros(5, 2), torch.zeros(2, 1)
        >>> [part.param.shape for part in parts(Part(w, w, w, v), (0, ((0, 2), (2, 3))))]
        [torch.Size([2, 2]), torch.Size([3, 2])]
    """
    if cuts is None:
        yield whole
        return
    axis, pieces = cuts
    for i, (start, length) in enumerate(pieces):
        yield Part(
            whole.param.narrow(axis, start, length),
            whole.grad.narrow(axis, start, length),
            whole.exp_avg.narrow(axis, start, length),
            whole.exp_avg_sq.narrow(axis, i, 1),
            whole.scale,
            None if whole.square is None else whole.square.narrow(axis, i, 1),
            None if whole.maximum is None else whole.maximum.narrow(axis, i, 1),
            whole.step,
            whole.history,
        )


def as_real(part: Part) -> Part:
    """Views complex tensors as their real pairs.

    Example:
        >>> w = torch.zeros(3, dtype=torch.complex64)
        >>> as_real(Part(w, w, w, torch.tensor(0.0))).grad.shape
        torch.Size([3, 2])
    """
    if not part.param.is_complex():
        return part
    return part._replace(
        param=torch.view_as_real(part.param),
        grad=torch.view_as_real(part.grad.resolve_conj()),
        exp_avg=torch.view_as_real(part.exp_avg),
        exp_avg_sq=_with_pairs(part.exp_avg_sq),
        square=None if part.square is None else _with_pairs(part.square),
        maximum=None if part.maximum is None else _with_pairs(part.maximum),
    )


def in_memory(part: Part) -> Part:
    """Returns a part whose gradient is in memory as it is, not to be conjugated or negated yet.

    Example:
        >>> w, g, v = torch.zeros(1), torch.tensor([1 + 2j]).conj().imag, torch.tensor(0.0)
        >>> g.is_neg(), in_memory(Part(w, g, w, v)).grad
        (True, tensor([-2.]))
    """
    grad = part.grad
    if grad.is_conj() or grad.is_neg():
        return part._replace(grad=grad.resolve_conj().resolve_neg())
    return part


def _with_pairs(of_layers: Tensor) -> Tensor:
    """Returns what there is for each layer with an axis for the real pairs."""
    return of_layers.unsqueeze(-1) if of_layers.ndim else of_layers


def grid_of(part: Part) -> Grid | None:
    """Returns how kernels find the layers of a part in memory, or None if they cannot.

    Complex numbers are pairs of real ones.

    Example:
        >>> w = torch.zeros(4, 6)
        >>> grid_of(Part(w, w, w, torch.zeros(4, 1))), grid_of(Part(w, w.T, w, torch.zeros(4, 1)))
        ((1, 4, 6, 24), None)
    """
    param, grad, exp_avg, v, *_ = part
    numbers = 1 + param.is_complex()
    if param.is_contiguous() and grad.is_contiguous() and exp_avg.is_contiguous():
        if not v.ndim:
            size = numbers * param.numel()
            return 1, 1, size, size
    elif not param.stride() == grad.stride() == exp_avg.stride():
        return None
    find = grid if torch.compiler.is_compiling() else _cached_grid
    found = find(param.shape, param.stride(), v.shape)
    if found is None:
        return None
    runs, layers, run, stride = found
    return runs, layers, numbers * run, numbers * stride
