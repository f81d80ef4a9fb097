"""Where the layers of a parameter are."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from novograd.layers import Layers, Rows, Split, Stacked, layers_of, second_moment_shape, step_scale
from novograd.torch import sharding
from novograd.torch.norms import compute_dtype
from novograd.torch.parts import Cuts
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
        TypeError: If the function returns something else than layers, or needs a name and there is
            none.
        ValueError: If these do not fit the shape of the parameter.
        RuntimeError: If ``FullyShardedDataParallel`` has flattened the parameter.

    Example:
        >>> layout_of(Split((2, 3)), None, torch.zeros(5, 7))[:3]
        (torch.Size([2, 1]), 1.0, (0, ((0, 2), (2, 3))))
    """
    if sharding.is_flattened(param):
        raise RuntimeError(
            "NovoGrad cannot train what FullyShardedDataParallel has flattened: its shards do not "
            "say to which layers they belong. Shard the model by "
            "torch.distributed.fsdp.fully_shard instead."
        )
    given = layers if isinstance(layers, Layers) else partial(_call, layers)
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
    return Layout(v_shape, step_scale(chosen, param.shape), cuts, sharded)


class Layouts:
    """The layouts of the parameters of an optimizer, each found anew when it may have changed.

    A layout follows from the layers, the name, the shape and the sharding of a parameter. No
    parameter is kept alive.

    Example:
        >>> layouts, w = Layouts(), torch.zeros(2, 3)
        >>> layouts.of(Rows(), None, w) is layouts.of(Rows(), None, w)
        True
        >>> w.resize_(4, 3).shape, layouts.of(Rows(), None, w).v_shape
        (torch.Size([4, 3]), torch.Size([4, 1]))
    """

    def __init__(self) -> None:
        """Knows none yet."""
        self._found: dict[int, tuple[tuple[Any, ...], Layout]] = {}

    def of(self, layers: Any, name: str | None, param: Tensor) -> Layout:
        """Returns the layout of a parameter; arguments and errors are those of ``layout_of``."""
        about = (layers, name, param.shape, *sharding.placed(param))
        known = self._found.get(id(param))
        if known is None or known[0] != about:
            known = self._found[id(param)] = about, layout_of(layers, name, param)
        return known[1]

    def forget_others(self, params: Iterable[Tensor]) -> None:
        """Forgets all parameters but these."""
        ids = set(map(id, params))
        self._found = {key: known for key, known in self._found.items() if key in ids}


def _call(layers: Callable[..., Any], name: str | None, param: Tensor) -> Any:
    """Calls a function that returns layers; if it needs a name and there is none, says why."""
    try:
        return layers(name, param)
    except (TypeError, AttributeError) as error:
        if name is not None:
            raise
        raise TypeError(
            f"layers= was called with name=None, and failed: {error}. Parameters have names if the "
            "optimizer is given model.named_parameters()."
        ) from error


def _cuts(sizes: tuple[int, ...], start: int, length: int) -> tuple[tuple[int, int], ...]:
    """Returns where parts begin in a piece of an axis, and how much of each is in it."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    bounds = [min(max(x - start, 0), length) for x in (0, *ends)]
    return tuple((a, b - a) for a, b in pairwise(bounds))
