"""Parts: a backend updates a part as one tensor. It is a parameter, or a view of a piece of one."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from novograd.native import grid
from novograd.quantized import BLOCK


class Position(NamedTuple):
    """Where a part is in the whole tensor, whose elements are numbered in row-major order.

    The element ``(i, j, ...)`` of the part, as a real tensor, has the number
    ``first + i*strides[0] + j*strides[1] + ...``. If the whole tensor is sharded, it has the
    elements of all processes. The memory format has no influence.

    Attributes:
        first: The number of the part's first element.
        strides: The distance of the numbers of neighbours, for each axis.

    Example:
        >>> Position(0, (3, 1)).after(0, 2)
        Position(first=6, strides=(3, 1))
    """

    first: int
    strides: tuple[int, ...]

    def after(self, axis: int, start: int) -> "Position":
        """Returns the position of the piece that begins at an index of an axis."""
        return self._replace(first=self.first + start * self.strides[axis])


class Part(NamedTuple):
    """The plain tensors of a part. Each layer has one element of ``exp_avg_sq``.

    Attributes:
        param: The weights.
        grad: The gradient, which is only read.
        exp_avg: The momentum buffer.
        exp_avg_sq: The second moments: 0-d, or with as many axes as the weights. Each axis has the
            length of the weights' axis, or length 1. The squares are summed over the axes of length
            1.
        scale: Factor of the normalised gradient.
        square: The squared norms, in float64 and in the shape of ``exp_avg_sq``, if other processes
            also have pieces of the layers; else None.
        maximum: The largest second moments so far, in the same shape, for variants with amsgrad.
        step: Number of steps before this one, 0-d, for variants that count steps, and if the step
            rounds at random.
        history: The stored second moments of the whole parameter, if ``step`` is given.
        exp_avg_scale: The scales of the blocks if ``exp_avg`` is quantised, see
            ``novograd.quantized``; else None. Then ``exp_avg`` is int8, with a last axis of length
            2 for the real pairs of complex weights.
        position: Where the part is in the whole tensor, if the step rounds at random: to a
            quantised ``exp_avg``, or to bfloat16 weights; else None.
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
    exp_avg_scale: Tensor | None = None
    position: Position | None = None


class Columns(Sequence[Part]):
    """Parts whose fields are in lists. A part is made only when it is read.

    Args:
        fields: The lists by field; those without a default must be there.

    Example:
        >>> w, g = torch.zeros(2), torch.ones(2)
        >>> parts = Columns({"param": [w], "grad": [g], "exp_avg": [w], "exp_avg_sq": [w]})
        >>> len(parts), parts[0].grad is g, parts[0].scale
        (1, True, 1.0)
    """

    def __init__(self, fields: Mapping[str, list[Any]]) -> None:
        """Keeps the lists."""
        self.fields = fields

    def __len__(self) -> int:
        """Returns the number of parts."""
        return len(self.fields["param"])

    def __getitem__(self, index: Any) -> Any:
        """Returns a part."""
        return Part(**{name: values[index] for name, values in self.fields.items()})


def column(parts: Sequence[Part], name: str) -> list[Any]:
    """Returns a field of each part.

    Example:
        >>> w = torch.zeros(2)
        >>> column([Part(w, w, w, w), Part(w, w, w, w, scale=2.0)], "scale")
        [1.0, 2.0]
    """
    if isinstance(parts, Columns):
        return parts.fields.get(name) or [Part._field_defaults.get(name)] * len(parts)
    return [getattr(part, name) for part in parts]


# The result of novograd.native.grid: runs, layers, run and stride.
Grid = tuple[int, int, int, int]
_cached_grid = functools.lru_cache(maxsize=4096)(grid)

# An axis, and the start and the length of each part along this axis.
Cuts = tuple[int, tuple[tuple[int, int], ...]]


def parts(whole: Part, cuts: Cuts | None) -> Iterator[Part]:
    """Yields the parts of a parameter. Without cuts, the whole parameter is one part.

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
            _cut_scales(whole, axis, start, length),
            None if whole.position is None else whole.position.after(axis, start),
        )


def _cut_scales(whole: Part, axis: int, start: int, length: int) -> Tensor | None:
    """Returns the scales of a piece of a part. Pieces begin at the first element of a block."""
    scales = whole.exp_avg_scale
    if scales is None or axis < scales.ndim - 1:
        return None if scales is None else scales.narrow(axis, start, length)
    inner = math.prod(whole.exp_avg.shape[axis + 1 :])
    return scales.narrow(-1, start * inner // BLOCK, -(-length * inner // BLOCK))


class Rows(NamedTuple):
    """The rows of a part that is rounded at random: neighbours in memory and in the whole tensor.

    The element at a place in the part's memory, from 0, has the number ``first + place +
    place // length * (pitch - length)`` in the whole tensor. If the momentum buffer is quantised, a
    row consists of blocks, and the part is contiguous.

    Attributes:
        rows: The number of rows.
        length: The distance of the first elements of two neighbouring rows in memory.
        first: The number of the part's first element in the whole tensor (see ``Position``).
        pitch: The distance of the numbers of the first elements of two neighbouring rows; if there
            is only one row, the same as ``length``.
    """

    rows: int
    length: int
    first: int
    pitch: int


def rows_of(part: Part) -> Rows | None:
    """Returns the rows of a part that is rounded at random, or None if kernels do not support them.

    Without a quantised buffer the rows are as long as possible. Complex numbers count as pairs of
    real numbers.

    Example:
        >>> w, m, scales = torch.zeros(2, 5, 200), torch.zeros(2, 5, 200), torch.zeros(2, 5, 2)
        >>> part = Part(w, w, m, torch.tensor(0.0), exp_avg_scale=scales)
        >>> rows_of(part._replace(position=Position(600, (1000, 200, 1))))
        Rows(rows=10, length=200, first=600, pitch=200)
        >>> rows_of(part._replace(position=Position(600, (3000, 200, 1))))
        >>> weights = part._replace(exp_avg_scale=None)
        >>> rows_of(weights._replace(position=Position(600, (3000, 200, 1))))
        Rows(rows=2, length=1000, first=600, pitch=3000)
    """
    scales, position, moment = part.exp_avg_scale, part.position, part.exp_avg
    assert position is not None
    if not moment.numel():
        return Rows(0, 1, position.first, 1)
    if scales is not None:
        contiguous = map(Tensor.is_contiguous, (part.param, part.grad, moment, scales))
        if not all(contiguous):
            return None
    # The length, and the distances of neighbours in memory and of their numbers, along each axis.
    axes = list(zip(moment.shape, moment.stride(), position.strides, strict=True))
    before = _axes_with_gaps(axes) if scales is None else scales.ndim - 1
    used = [(place, number) for n, place, number in axes if n > 1]
    outer = [(place, number) for n, place, number in axes[:before] if n > 1]
    rows = math.prod(moment.shape[:before])
    length, pitch = outer[-1] if outer else (moment.numel() // rows,) * 2
    in_memory_order = all(one >= other for (one, _), (other, _) in pairwise(used))
    if in_memory_order and all(place * pitch == number * length for place, number in outer):
        return Rows(rows, length, position.first, pitch)
    return None


def _axes_with_gaps(axes: list[tuple[int, int, int]]) -> int:
    """Returns the number of axes up to the last one along which numbers differ from memory."""
    gaps = [i for i, (n, place, number) in enumerate(axes, 1) if n > 1 and place != number]
    return max(gaps, default=0)


def as_real(part: Part) -> Part:
    """Views complex tensors as pairs of real numbers.

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
        exp_avg=torch.view_as_real(part.exp_avg) if part.exp_avg.is_complex() else part.exp_avg,
        exp_avg_sq=_with_pairs(part.exp_avg_sq),
        square=None if part.square is None else _with_pairs(part.square),
        maximum=None if part.maximum is None else _with_pairs(part.maximum),
    )


def in_memory(part: Part) -> Part:
    """Applies a pending conjugation or negation of the gradient, because kernels read its memory.

    Example:
        >>> w, g, v = torch.zeros(1), torch.tensor([1 + 2j]).conj().imag, torch.tensor(0.0)
        >>> g.is_neg(), in_memory(Part(w, g, w, v)).grad
        (True, tensor([-2.]))
    """
    grad = part.grad
    if grad.is_conj() or grad.is_neg():
        return part._replace(grad=grad.resolve_conj().resolve_neg())
    return part


def _with_pairs(values: Tensor) -> Tensor:
    """Adds an axis of length 1 for the real pairs to a tensor with one number per layer."""
    return values.unsqueeze(-1) if values.ndim else values


def grid_of(part: Part, *, columns: bool = False) -> Grid | None:
    """Returns where the layers of a part are in memory, or None if kernels do not support it.

    Complex numbers count as pairs of real numbers.

    Args:
        part: The part.
        columns: Whether the kernels support layers that are the columns of a real matrix.

    Example:
        >>> w = torch.zeros(4, 6)
        >>> grid_of(Part(w, w, w, torch.zeros(4, 1))), grid_of(Part(w, w.T, w, torch.zeros(4, 1)))
        ((1, 4, 6, 24), None)
        >>> w = torch.zeros(4, 20)
        >>> grid_of(Part(w, w, w, torch.zeros(1, 20)), columns=True)
        (4, 20, 1, 20)
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
    columns &= not param.is_complex()
    found = find(param.shape, param.stride(), v.shape, columns=columns)
    if found is None:
        return None
    runs, layers, run, stride = found
    return runs, layers, numbers * run, numbers * stride
