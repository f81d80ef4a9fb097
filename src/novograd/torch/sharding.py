"""Parameters that are DTensors: what of them is here, and norms over all of their pieces.

A norm is of the whole layer, wherever its pieces are: each process sums the squares of what it
holds, and these sums are added over the dimensions of the mesh along which layers are cut. That is
one all-reduce of one small tensor for each process group, however many parameters there are, and
the only communication of a step. All processes take part in it in the same order, whatever shard
is empty and whatever gradient is missing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Sharding(NamedTuple):
    """Where the layers of a DTensor are.

    Attributes:
        groups: The process groups over which their squared norms are to be added.
        placements: Those of the second moment where it is a DTensor, as it is where whole layers
            are spread over a mesh; or None: then each process has all of it.
        v_shape: Of what is here of the second moment.
        shape: Of what is here of the weights.
        offset: Where in the whole tensor this begins, along each axis.
    """

    groups: tuple[Any, ...]
    placements: tuple[Any, ...] | None
    v_shape: torch.Size
    shape: tuple[int, ...]
    offset: tuple[int, ...]


class Norms:
    """The squared norms of layers of which several processes hold pieces, in one step.

    A gradient that is missing here, but not in all processes that hold pieces of the same layers,
    counts as zero here. Nothing waits for a device unless one is missing.

    Attributes:
        squares: For each parameter with such layers their squared norms, in the shape of what is
            here of the second moment, in float64. They are to be filled with the sums of what is
            here, and ``all_reduce`` then adds those of the others.
    """

    def __init__(self, shardings: dict[Tensor, Sharding]) -> None:
        """Makes room for the parameters, whose order has to be the same in all processes."""
        self._groups = [sharding.groups for sharding in shardings.values()]
        sizes = [sharding.v_shape.numel() for sharding in shardings.values()]
        self._first: Any = next(iter(shardings))
        device = local(self._first).device
        # Behind the sums, how many processes have a gradient of each parameter.
        self._values = torch.zeros(sum(sizes) + len(sizes), dtype=torch.float64, device=device)
        *self._sums, self._counts = self._values.split([*sizes, len(sizes)])
        self._complete = all(param.grad is not None for param in shardings)
        if self._complete:
            self._counts.fill_(1)
        else:
            self._counts.copy_(torch.tensor([float(w.grad is not None) for w in shardings]))
        self.squares = {
            param: sums.view(sharding.v_shape)
            for (param, sharding), sums in zip(shardings.items(), self._sums, strict=True)
        }

    def all_reduce(self) -> list[Tensor]:
        """Adds over processes, by one collective for each group of them.

        Returns:
            The parameters of which only others have a gradient.
        """
        whole = len(set(self._groups)) == 1
        for group in dict.fromkeys(group for groups in self._groups for group in groups):
            mine = [i for i, groups in enumerate(self._groups) if group in groups]
            pieces = [*(self._sums[i] for i in mine), *(self._counts[i : i + 1] for i in mine)]
            values = self._values if whole else torch.cat(pieces)
            # Weights may have been offloaded from the devices that communicate.
            sent = values.to(self._first.device_mesh.device_type)
            dist.all_reduce(sent, group=group)
            if sent is not self._values:
                received = sent.to(values.device).split([piece.numel() for piece in pieces])
                for piece, new in zip(pieces, received, strict=True):
                    piece.copy_(new)
        if self._complete:
            return []
        counts = zip(self.squares, self._counts.tolist(), strict=True)
        return [param for param, count in counts if count and param.grad is None]


def is_sharded(x: Tensor) -> bool:
    """Whether it is a DTensor (also one of which each process has a copy)."""
    return hasattr(x, "device_mesh")


def placed(x: Any) -> tuple[Any, ...]:
    """Returns the mesh of a DTensor and how it is spread over it; nothing of another tensor."""
    return (x.device_mesh, x.placements) if is_sharded(x) else ()


def is_alike(x: Any, y: Any) -> bool:
    """Whether two tensors are sharded alike, or neither is."""
    if is_sharded(x) and is_sharded(y):
        return x.device_mesh == y.device_mesh and x.placements == y.placements
    return not is_sharded(x) and not is_sharded(y)


def is_flattened(param: Tensor) -> bool:
    """Whether ``FullyShardedDataParallel`` has taken a parameter apart, by the marks it leaves."""
    return getattr(param, "_fsdp_flattened", False) or getattr(param, "_is_flat_param", False)


def local(x: Any) -> Tensor:
    """Returns what of a tensor is here, which is all of it unless it is a DTensor."""
    return x._local_tensor if is_sharded(x) else x


def sharding_of(param: Any, v_shape: Sequence[int], *, by_index: bool) -> Sharding:
    """Returns where the layers of a DTensor are.

    Args:
        param: The weights.
        v_shape: Of the whole second moment, as of ``novograd.layers``.
        by_index: Whether layers are told apart by indices of the weights, as parts are not.
    """
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, shape = param.device_mesh, param.shape
    groups, placements = [], []
    for dim, placement in enumerate(param.placements):
        axis = getattr(placement, "dim", None)  # of all kinds of shards
        spread = (
            by_index and bool(v_shape) and axis is not None and v_shape[axis] == shape[axis] > 1
        )
        placements.append(placement if spread else Replicate())
        if axis is not None and not spread:
            groups.append(mesh.get_group(dim))
    here, offset = compute_local_shape_and_global_offset(shape, mesh, param.placements)
    kept = {placement.dim for placement in placements if placement != Replicate()}
    return Sharding(
        tuple(groups),
        tuple(placements) if kept else None,
        torch.Size(here[i] if i in kept else size for i, size in enumerate(v_shape)),
        tuple(here),
        tuple(offset),
    )


def as_stored(v: Tensor, param: Any, v_shape: Sequence[int], sharding: Sharding) -> Tensor:
    """Returns what is here of a second moment as it is stored."""
    if sharding.placements is None:
        return v
    from torch.distributed.tensor import DTensor

    shape = torch.Size(v_shape)
    return DTensor.from_local(
        v,
        param.device_mesh,
        sharding.placements,
        run_check=False,
        shape=shape,
        stride=torch.empty(shape, device="meta").stride(),
    )


def local_gradient(param: Any) -> Tensor:
    """Returns the piece of a gradient that belongs to what is here of the weights."""
    grad = param.grad
    if not is_sharded(param):
        return grad
    if grad.placements != param.placements:
        # Such as partial sums, of weights of which there are copies.
        grad = grad.redistribute(param.device_mesh, param.placements)
    piece = grad._local_tensor
    return piece if type(piece) is Tensor else _waited_for(piece)


def _waited_for(piece: Tensor) -> Tensor:
    """Returns what a collective that may still be under way results in."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    return piece.wait() if isinstance(piece, AsyncCollectiveTensor) else piece
