"""Momentum buffers: in the dtype of the weights, in bfloat16, or quantised.

``novograd.quantized`` describes quantised buffers. A buffer in another dtype than its weights holds
complex numbers as pairs of real numbers, along one more axis.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from novograd import quantized, rounding
from novograd.quantized import from_blocks, to_blocks
from novograd.torch import sharding
from novograd.torch.groups import Group
from novograd.torch.layout import ParameterLayout, real_shape
from novograd.torch.parts import Part
from novograd.torch.rounding import random_bits


def moment_dtype(group: Group, param: Tensor) -> torch.dtype:
    """Returns the dtype of the momentum buffer of a parameter.

    Example:
        >>> group = {"moment_dtype": torch.int8}
        >>> moment_dtype(group, torch.zeros(64, 64)), moment_dtype(group, torch.zeros(64))
        (torch.int8, torch.float32)
    """
    wanted = group.get("moment_dtype")
    return wanted if wanted and quantized.is_quantised(param.shape) else param.dtype


def moment_shape(group: Group, param: Tensor) -> torch.Size:
    """Returns the shape of the momentum buffer of a parameter.

    Example:
        >>> w = torch.zeros(64, 64, dtype=torch.complex64)
        >>> moment_shape({"moment_dtype": torch.bfloat16}, w)
        torch.Size([64, 64, 2])
    """
    return param.shape if moment_dtype(group, param).is_complex else real_shape(param)


def new_moment(group: Group, param: Tensor) -> Tensor:
    """Returns the momentum buffer of a parameter before the first step.

    Example:
        >>> new_moment({"moment_dtype": torch.int8}, torch.ones(2))
        tensor([0., 0.])
    """
    dtype = moment_dtype(group, param)
    if param.is_complex() and not dtype.is_complex:
        pairs = torch.view_as_real(sharding.local(param))
        return _like(param, torch.zeros_like(pairs, dtype=dtype))
    return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)


def new_scales(param: Tensor, layout: ParameterLayout) -> Tensor:
    """Returns the scales of a quantised momentum buffer before the first step.

    Example:
        >>> from novograd.torch.layout import layout_of
        >>> w = torch.zeros(64, 200)
        >>> new_scales(w, layout_of(None, None, w, quantised=True)).shape
        torch.Size([64, 2])
    """
    blocks = layout.blocks
    assert blocks is not None
    device = sharding.local(param).device
    return blocks.as_stored(torch.zeros(blocks.here, device=device), param)


def dequantised(q: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a quantised buffer, or a piece of one, in the dtype of the arithmetic.

    Example:
        >>> q, scales = torch.ones(2, 130, dtype=torch.int8), torch.tensor([[2.0, 4.0], [1.0, 3.0]])
        >>> dequantised(q, scales, torch.float32)[:, 127:129]
        tensor([[2., 4.],
                [1., 3.]])
    """
    blocks = _blocks(q, scales.shape).to(dtype) * scales.unsqueeze(-1)
    return from_blocks(blocks, q.shape)


def wide(part: Part) -> Tensor:
    """Returns the momentum buffer of a real part in the dtype of the arithmetic.

    Example:
        >>> w, v = torch.zeros(2), torch.tensor(0.0)
        >>> wide(Part(w, w, w.bfloat16(), v)).dtype
        torch.float32
    """
    dtype = part.exp_avg_sq.dtype
    if part.exp_avg_scale is None:
        return part.exp_avg.to(dtype)
    return dequantised(part.exp_avg, part.exp_avg_scale, dtype)


def store(part: Part, moment: Tensor, keep: Tensor | None = None) -> None:
    """Rounds a new momentum buffer into a real part.

    Args:
        part: The part. Its ``step`` has not been counted yet.
        moment: The new buffer, in the dtype of the arithmetic.
        keep: Whether each layer takes the step, in the shape of the second moment; None if all do.
            The buffer of other layers is unchanged. A block is written if one of its layers takes
            the step.

    Example:
        >>> w, m, v = torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16), torch.tensor(0.0)
        >>> store(Part(w, w, m, v), torch.tensor([1.001, 2.0]))
        >>> m
        tensor([1., 2.], dtype=torch.bfloat16)
    """
    q, scales = part.exp_avg, part.exp_avg_scale
    if scales is None:
        q.copy_(moment)
        return
    bits = random_bits(rounding.FOR_MOMENT, part)
    new_q, new_scales = _quantised(moment, scales.shape, bits)
    if keep is not None:
        written = _blocks(keep.expand(q.shape), scales.shape).any(-1, keepdim=True)
        new_q = torch.where(written, new_q, _blocks(q, scales.shape))
        new_scales = torch.where(written.squeeze(-1), new_scales, scales)
    q.copy_(from_blocks(new_q, q.shape))
    scales.copy_(new_scales)


def convert(state: dict[str, Any], group: Group, param: Tensor, layout: ParameterLayout) -> None:
    """Gives the momentum buffer in a state the dtype that its group demands.

    A buffer is quantised to the nearest values. Nothing changes if the state lacks its scales.

    Args:
        state: The state of the parameter.
        group: Its group.
        param: The parameter.
        layout: Its layout.

    Example:
        >>> state = {"exp_avg": torch.ones(2), "exp_avg_sq": torch.tensor(1.0)}
        >>> w = torch.zeros(2, dtype=torch.bfloat16)
        >>> convert(state, {"moment_dtype": None}, w, None)
        >>> state["exp_avg"]
        tensor([1., 1.], dtype=torch.bfloat16)
    """
    moment, wanted = state["exp_avg"], moment_dtype(group, param)
    if moment.dtype == wanted:
        return
    if torch.int8 not in (moment.dtype, wanted) and moment.shape == moment_shape(group, param):
        state["exp_avg"] = moment.to(wanted)
        return
    here = sharding.local(moment)
    if here.is_complex():
        here = torch.view_as_real(here)
    if moment.dtype == torch.int8:
        scales = state.pop("exp_avg_scale", None)
        if scales is None:
            return
        here = dequantised(here, sharding.local(scales), state["exp_avg_sq"].dtype)
    if wanted == torch.int8:
        scales = new_scales(param, layout)
        stored = sharding.local(scales)
        half = torch.full((), 1 << 15, device=here.device)
        q, found = _quantised(here.to(state["exp_avg_sq"].dtype), stored.shape, half)
        here = from_blocks(q, here.shape)
        stored.copy_(found)
        state["exp_avg_scale"] = scales
    new = new_moment(group, param)
    piece = sharding.local(new)
    (torch.view_as_real(piece) if piece.is_complex() else piece).copy_(here)
    state["exp_avg"] = new


def _like(param: Tensor, piece: Tensor) -> Tensor:
    """Returns a local piece with the real pairs of a parameter in the parameter's sharding."""
    if not sharding.is_sharded(param):
        return piece
    placements = cast(Any, param).placements
    return sharding.distributed(piece, param, placements, real_shape(param))


def _quantised(moment: Tensor, shape: torch.Size, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the blocks of ``q`` and the scales, for scales of the given shape."""
    bits = _blocks(bits, shape) if bits.ndim else bits
    return quantized.quantised(_blocks(moment, shape), bits, xp=torch, float32=Tensor.float)


def _blocks(x: Tensor, shape: torch.Size) -> Tensor:
    """Returns the blocks of a tensor, for scales of the given shape."""
    return to_blocks(x, shape, lambda rows, count: pad(rows, (0, count)))
