"""Flat pieces of parameters, which some programs put in the place of the parameters."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def shapes_of(params: Iterable[Tensor]) -> Counter[torch.Size]:
    """Returns how many parameters there are of each shape, without those that have none yet.

    Example:
        >>> shapes_of([torch.zeros(2, 3), torch.zeros(2, 3), torch.nn.UninitializedParameter()])
        Counter({torch.Size([2, 3]): 2})
    """
    return Counter(param.shape for param in params if not is_lazy(param))


def refuse_pieces(before: Counter[torch.Size], now: Counter[torch.Size]) -> None:
    """Refuses parameters that seem to be flat pieces of others, whose layers they hide.

    Some programs that shard an optimizer put them in the place of the parameters. A piece has one
    dimension, and another size than each tensor that is gone.

    Args:
        before: The shapes of the parameters when they were last looked at.
        now: Their shapes now.

    Raises:
        RuntimeError: If there are such pieces.

    Example:
        >>> refuse_pieces(shapes_of([torch.zeros(4, 3)]), shapes_of([torch.zeros(8, 3)]))
        >>> refuse_pieces(shapes_of([torch.zeros(4, 3)]), shapes_of([torch.zeros(6)]))
        Traceback (most recent call last):
            ...
        RuntimeError: NovoGrad cannot train tensors of shapes (6,), which have taken the place of \
parameters of shapes (4, 3): they hide the layers of these. Shard the model by \
torch.distributed.fsdp.fully_shard instead, or give layers= if each tensor is meant as it is.
    """
    gone, new = before - now, now - before
    sizes = {shape.numel() for shape in gone}
    flat = all(len(shape) == 1 for shape in new)
    pieces = [tuple(shape) for shape in new if shape.numel() not in sizes]
    if flat and pieces and any(len(shape) > 1 for shape in gone):
        raise RuntimeError(
            f"NovoGrad cannot train tensors of {_shown(pieces)}, which have taken the place of "
            f"parameters of {_shown([tuple(shape) for shape in gone])}: they hide the layers of "
            "these. Shard the model by torch.distributed.fsdp.fully_shard instead, or give "
            "layers= if each tensor is meant as it is."
        )


def _shown(shapes: list[tuple[int, ...]]) -> str:
    """Returns shapes for a message, a few of many."""
    few = ", ".join(map(str, shapes[:3]))
    return f"shapes {few}" + f" and {len(shapes) - 3} more" * (len(shapes) > 3)
