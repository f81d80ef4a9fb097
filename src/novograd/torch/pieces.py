"""Flat pieces of parameters. Some programs replace the parameters by such pieces."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def shapes_of(params: Iterable[Tensor]) -> Counter[torch.Size]:
    """Returns the number of parameters of each shape, without lazy parameters.

    Example:
        >>> shapes_of([torch.zeros(2, 3), torch.zeros(2, 3), torch.nn.UninitializedParameter()])
        Counter({torch.Size([2, 3]): 2})
    """
    return Counter(param.shape for param in params if not is_lazy(param))


def refuse_pieces(before: Counter[torch.Size], now: Counter[torch.Size]) -> None:
    """Refuses new parameters that seem to be flat pieces of the old parameters.

    Some programs that shard an optimizer replace the parameters by such pieces, and a piece does
    not show its layers. A piece has one dimension, and its size differs from the size of each
    replaced tensor.

    Args:
        before: The shapes of the parameters when they were last checked.
        now: The shapes of the parameters now.

    Raises:
        RuntimeError: If there are flat pieces.

    Example:
        >>> refuse_pieces(shapes_of([torch.zeros(4, 3)]), shapes_of([torch.zeros(8, 3)]))
        >>> refuse_pieces(shapes_of([torch.zeros(4, 3)]), shapes_of([torch.zeros(6)]))
        Traceback (most recent call last):
            ...
        RuntimeError: NovoGrad cannot train tensors of shapes (6,), which replaced parameters of \
shapes (4, 3): the tensors hide the layers of the parameters. Shard the model by \
torch.distributed.fsdp.fully_shard instead, or give layers= if each tensor is a whole parameter.
    """
    gone, new = before - now, now - before
    sizes = {shape.numel() for shape in gone}
    flat = all(len(shape) == 1 for shape in new)
    pieces = [tuple(shape) for shape in new if shape.numel() not in sizes]
    if flat and pieces and any(len(shape) > 1 for shape in gone):
        raise RuntimeError(
            f"NovoGrad cannot train tensors of {_listed(pieces)}, which replaced parameters of "
            f"{_listed([tuple(shape) for shape in gone])}: the tensors hide the layers of the "
            "parameters. Shard the model by torch.distributed.fsdp.fully_shard instead, or give "
            "layers= if each tensor is a whole parameter."
        )


def _listed(shapes: list[tuple[int, ...]]) -> str:
    """Returns text that lists the first three shapes and the number of others."""
    few = ", ".join(map(str, shapes[:3]))
    return f"shapes {few}" + f" and {len(shapes) - 3} more" * (len(shapes) > 3)
