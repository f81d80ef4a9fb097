"""Where the layers of a parameter are, which is found out once."""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from novograd.layers import Rows, Split, Stacked, layers_of, second_moment_shape, step_scale
from novograd.torch import sharding
from novograd.torch.parts import Cuts
from novograd.torch.scalars import compute_dtype
from novograd.torch.sharding import Sharding
from novograd.variants import Variant

# Our own state dicts hold no layers, but those of torch's ZeroRedundancyOptimizer do.
torch.serialization.add_safe_globals([Stacked, Split, Rows, Variant])


class Layout(NamedTuple):
    """The layers of a parameter.

    Attributes:
        v_shape: Shape of its second moment.
        scale: What its normalised gradient is multiplied by.
        cuts: Where what is here of it is split into parts, if it is.
        sharding: Where the layers are, if it is a DTensor.
    """

    v_shape: torch.Size
    scale: float
    cuts: Cuts | None
    sharding: Sharding | None

    def new_second_moment(self, param: Tensor) -> Tensor:
        """Returns the second moment before the first step, as it is stored."""
        dtype, device = compute_dtype(param.dtype), sharding.local(param).device
        if self.sharding is None:
            return torch.zeros(self.v_shape, dtype=dtype, device=device)
        v = torch.zeros(self.sharding.v_shape, dtype=dtype, device=device)
        return sharding.as_stored(v, param, self.v_shape, self.sharding)


def layout_of(layers: Any, name: str | None, param: Tensor) -> Layout:
    """Returns the layout of a parameter.

    Args:
        layers: What the user gave: layers, or a function of name and parameter.
        name: Of the parameter, if it has one.
        param: The parameter.

    Raises:
        TypeError: If the function returns something else than layers.
        ValueError: If these do not fit the shape of the parameter.

    Example:
        >>> layout_of(Split((2, 3)), None, torch.zeros(5, 7))[:3]
        (torch.Size([2, 1]), 1.0, (0, ((0, 2), (2, 3))))
    """
    chosen = layers_of(layers, (name, param), param.shape, rows=0)
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
    return Layout(v_shape, step_scale(chosen, param.shape), cuts, sharded)


def _cuts(sizes: tuple[int, ...], start: int, length: int) -> tuple[tuple[int, int], ...]:
    """Returns where parts begin in a piece of an axis, and how much of each is in it."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    bounds = [min(max(x - start, 0), length) for x in (0, *ends)]
    return tuple((a, b - a) for a, b in pairwise(bounds))
