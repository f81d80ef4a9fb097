"""Where the layers of a parameter are."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from novograd import quantized
from novograd.layers import KINDS, Kind, Split, layers_of, second_moment_shape, step_scale
from novograd.torch import sharding
from novograd.torch.norms import compute_dtype
from novograd.torch.parts import Cuts, Position
from novograd.torch.sharding import Sharding
from novograd.variants import Variant

# State dicts of torch's ZeroRedundancyOptimizer contain layers. Ours do not.
torch.serialization.add_safe_globals([*KINDS.values(), Variant])


class Blocks(NamedTuple):
    """The blocks of a quantised momentum buffer.

    Attributes:
        shape: Shape of the scales of the whole tensor.
        here: Shape of the scales of the local piece.
        placements: The placements of the scales, if the parameter is a DTensor; else None.
    """

    shape: torch.Size
    here: torch.Size
    placements: tuple[Any, ...] | None

    def as_stored(self, scales: Tensor, param: Tensor) -> Tensor:
        """Returns the scales of the local piece in the form in which they are stored."""
        if self.placements is None:
            return scales
        return sharding.distributed(scales, param, self.placements, self.shape)


class ParameterLayout(NamedTuple):
    """The layers of a parameter.

    Attributes:
        v_shape: Shape of the second moment.
        scale: Factor of the normalised gradient.
        cuts: Where the local piece is split into parts; None if it is not split.
        sharding: Where the layers are, if the parameter is a DTensor; else None.
        position: Where the local piece is in the whole tensor.
        blocks: The blocks of the momentum buffer, if it is quantised; else None.
    """

    v_shape: torch.Size
    scale: float
    cuts: Cuts | None
    sharding: Sharding | None
    position: Position
    blocks: Blocks | None = None

    def new_second_moment(self, param: Tensor) -> Tensor:
        """Returns the second moment before the first step, in the form in which it is stored."""
        dtype, device = compute_dtype(param.dtype), sharding.local(param).device
        if self.sharding is None:
            return torch.zeros(self.v_shape, dtype=dtype, device=device)
        v = torch.zeros(self.sharding.v_shape, dtype=dtype, device=device)
        return sharding.as_stored(v, param, self.v_shape, self.sharding)


def layout_of(
    layers: Any, name: str | None, param: Tensor, *, quantised: bool = False
) -> ParameterLayout:
    """Returns the layout of a parameter.

    Args:
        layers: The user's argument: layers, or a function of name and parameter.
        name: The name of the parameter, if it has one.
        param: The parameter.
        quantised: Whether the momentum buffer is quantised, unless the parameter is too small.

    Raises:
        TypeError: If the function does not return layers, or needs a name and the parameter does
            not have one.
        ValueError: If the layers do not fit the shape of the parameter; or if ``quantised`` is
            True, and a shard or a part begins inside a block.
        RuntimeError: If ``FullyShardedDataParallel`` has flattened the parameter.

    Example:
        >>> layout_of(Split((2, 3)), None, torch.zeros(5, 7))[:3]
        (torch.Size([2, 1]), 1.0, (0, ((0, 2), (2, 3))))
    """
    if sharding.is_flattened(param):
        raise RuntimeError(
            "NovoGrad cannot train a parameter that FullyShardedDataParallel has flattened: its "
            "shards do not show to which layers they belong. Shard the model by "
            "torch.distributed.fsdp.fully_shard instead."
        )
    given = layers if isinstance(layers, Kind) else partial(_call, layers)
    chosen = layers_of(given, (name, param), param.shape, rows=0)
    v_shape = torch.Size(second_moment_shape(chosen, param.shape))
    sharded = None
    if sharding.is_sharded(param):
        by_index = not isinstance(chosen, Split)
        sharded = sharding.sharding_of(param, v_shape, by_index=by_index)
    cuts = None
    if isinstance(chosen, Split):
        axis = chosen.axis % param.ndim
        here = (0, param.shape[axis])
        if sharded is not None:
            here = sharded.offset[axis], sharded.shape[axis]
        cuts = axis, _cuts(chosen.sizes, *here)
    blocks = None
    if quantised and quantized.is_quantised(param.shape):
        blocks = _blocks(param, chosen, sharded)
    scale, position = step_scale(chosen, param.shape), _position(param, sharded)
    return ParameterLayout(v_shape, scale, cuts, sharded, position, blocks)


def _position(param: Tensor, sharded: Sharding | None) -> Position:
    """Returns where the local piece of a parameter is in the whole tensor."""
    strides = torch.empty(real_shape(param), device="meta").stride()
    offset = () if sharded is None else sharded.offset
    # The axis of the real pairs is not sharded.
    first = sum(start * stride for start, stride in zip(offset, strides, strict=False))
    return Position(first, strides)


def _blocks(param: Tensor, layers: Kind, sharded: Sharding | None) -> Blocks:
    """Returns the blocks of a quantised momentum buffer, after checking where they begin."""
    shape = real_shape(param)
    axis = quantized.row_axis(shape)
    row = shape[axis:]
    if isinstance(layers, Split):
        _check_split(layers, param, axis)
    scales = torch.Size(quantized.scale_shape(shape))
    if sharded is None:
        return Blocks(scales, scales, None)
    placements = sharding.scale_placements(param, axis, row, quantized.BLOCK)
    local = real_shape(sharding.local(param))
    here = *local[:axis], -(-math.prod(local[axis:]) // quantized.BLOCK)
    return Blocks(scales, torch.Size(here), placements)


def _check_split(layers: Split, param: Tensor, axis: int) -> None:
    """Raises ValueError if ``Split`` cuts a block; ``axis`` is the first axis of a row."""
    cut = layers.axis % param.ndim
    inner = math.prod(real_shape(param)[cut + 1 :])
    starts = [sum(layers.sizes[:i]) * inner for i in range(len(layers.sizes))]
    if cut > axis or (cut == axis and any(start % quantized.BLOCK for start in starts)):
        raise ValueError(
            f"moment_dtype=torch.int8 has blocks of {quantized.BLOCK} elements along the last "
            f"axes, but {layers} cuts a block of shape {tuple(param.shape)}; give moment_dtype=None"
        )


def real_shape(param: Tensor) -> torch.Size:
    """Returns the shape of a tensor whose complex numbers are pairs of real numbers.

    Example:
        >>> real_shape(torch.zeros(3, 5, dtype=torch.complex64))
        torch.Size([3, 5, 2])
    """
    return torch.Size((*param.shape, 2)) if param.is_complex() else param.shape


class Layouts:
    """A cache of the layouts of an optimizer's parameters.

    A layout depends on the layers, the name, the shape and the sharding of a parameter. If one of
    these has changed, the layout is computed again. The cache does not keep parameters alive.

    Example:
        >>> from novograd.layers import Rows
        >>> layouts, w = Layouts(), torch.zeros(2, 3)
        >>> layouts.of(Rows(), None, w) is layouts.of(Rows(), None, w)
        True
        >>> w.resize_(4, 3).shape, layouts.of(Rows(), None, w).v_shape
        (torch.Size([4, 3]), torch.Size([4, 1]))
    """

    def __init__(self) -> None:
        """Creates an empty cache."""
        self._found: dict[int, tuple[tuple[Any, ...], ParameterLayout]] = {}

    def of(
        self, layers: Any, name: str | None, param: Tensor, *, quantised: bool = False
    ) -> ParameterLayout:
        """Returns the layout of a parameter; arguments and errors are like in ``layout_of``."""
        key = (layers, name, param.shape, param.is_complex(), quantised, *sharding.placed(param))
        known = self._found.get(id(param))
        if known is None or known[0] != key:
            found = layout_of(layers, name, param, quantised=quantised)
            known = self._found[id(param)] = key, found
        return known[1]

    def forget_others(self, params: Iterable[Tensor]) -> None:
        """Removes the layouts of all other parameters."""
        ids = set(map(id, params))
        self._found = {i: known for i, known in self._found.items() if i in ids}


def _call(layers: Callable[..., Any], name: str | None, param: Tensor) -> Any:
    """Calls a function that returns layers; explains an error if the parameter has no name."""
    try:
        return layers(name, param)
    except (TypeError, AttributeError) as error:
        if name is not None:
            raise
        raise TypeError(
            f"layers= was called with name=None and failed: {error}. To give parameters names, "
            "pass model.named_parameters() to the optimizer."
        ) from error


def _cuts(sizes: tuple[int, ...], start: int, length: int) -> tuple[tuple[int, int], ...]:
    """Returns the start and the length of each part within a piece of an axis."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    bounds = [min(max(x - start, 0), length) for x in (0, *ends)]
    return tuple((a, b - a) for a, b in pairwise(bounds))
