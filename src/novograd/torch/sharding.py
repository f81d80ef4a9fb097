"""Parameters that are DTensors: their local pieces, and norms over all pieces.

A norm is always the norm of the whole layer. Each process sums the squares of its local piece.
Then these sums are added over the dimensions of the mesh along which layers are cut. This needs one
all-reduce of one small tensor for each process group, for any number of parameters. A step does not
communicate otherwise. All processes call the all-reduces in the same order, even if a shard is
empty or a gradient is missing.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Sharding(NamedTuple):
    """Where the layers of a DTensor are.

    Attributes:
        groups: The process groups over which the squared norms are added.
        placements: The placements of the second moment if it is a DTensor, because whole layers are
            spread over a mesh. None if each process has the whole second moment.
        v_shape: Shape of the local piece of the second moment.
        shape: Shape of the local piece of the weights.
        offset: Start of the local piece in the whole tensor, along each axis.
    """

    groups: tuple[Any, ...]
    placements: tuple[Any, ...] | None
    v_shape: torch.Size
    shape: tuple[int, ...]
    offset: tuple[int, ...]


class Norms:
    """The squared norms of layers that are cut across processes, in one step.

    If a gradient is missing in this process, but another process has a gradient for a piece of the
    same layers, the missing gradient counts as zero. The host waits for the device only if a
    gradient is missing.

    Attributes:
        squares: For each parameter with such layers, the squared norms, in float64 and in the shape
            of the local piece of the second moment. The caller first writes the sums of the local
            pieces. Then ``all_reduce`` adds the sums of the other processes.
    """

    def __init__(self, shardings: dict[Tensor, Sharding]) -> None:
        """Allocates the norms. All processes must pass the parameters in the same order."""
        self._groups = [sharding.groups for sharding in shardings.values()]
        sizes = [sharding.v_shape.numel() for sharding in shardings.values()]
        self._first: Any = next(iter(shardings))
        device = local(self._first).device
        # The sums, then for each parameter the number of processes that have a gradient.
        self._values = torch.zeros(sum(sizes) + len(sizes), dtype=torch.float64, device=device)
        *self._sums, self._counts = self._values.split([*sizes, len(sizes)])
        self._complete = all(param.grad is not None for param in shardings)
        if self._complete:
            self._counts.fill_(1)
        else:
            counts = [float(w.grad is not None) for w in shardings]
            self._counts.copy_(torch.tensor(counts, device="cpu"))
        self.squares = {
            param: sums.view(sharding.v_shape)
            for (param, sharding), sums in zip(shardings.items(), self._sums, strict=True)
        }

    def all_reduce(self) -> list[Tensor]:
        """Adds the sums of all processes, by one collective for each process group.

        Returns:
            The parameters that have a gradient only in other processes.
        """
        whole = len(set(self._groups)) == 1
        for group in dict.fromkeys(group for groups in self._groups for group in groups):
            mine = [i for i, groups in enumerate(self._groups) if group in groups]
            pieces = [*(self._sums[i] for i in mine), *(self._counts[i : i + 1] for i in mine)]
            values = self._values if whole else torch.cat(pieces)
            # The weights may be offloaded from the device that communicates.
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
    """Whether a tensor is a DTensor (also if each process has a full copy)."""
    return hasattr(x, "device_mesh")


def placed(x: Any) -> tuple[Any, ...]:
    """Returns the mesh and the placements of a DTensor; an empty tuple for other tensors."""
    return (x.device_mesh, x.placements) if is_sharded(x) else ()


def is_alike(x: Any, y: Any) -> bool:
    """Whether two tensors are sharded in the same way, or both are not sharded."""
    if is_sharded(x) and is_sharded(y):
        return x.device_mesh == y.device_mesh and x.placements == y.placements
    return not is_sharded(x) and not is_sharded(y)


def is_flattened(param: Tensor) -> bool:
    """Whether ``FullyShardedDataParallel`` has flattened a parameter; it marks such tensors."""
    return getattr(param, "_fsdp_flattened", False) or getattr(param, "_is_flat_param", False)


def local(x: Any) -> Tensor:
    """Returns the local piece of a DTensor, or the whole tensor if it is not a DTensor."""
    return x._local_tensor if is_sharded(x) else x


def sharding_of(param: Any, v_shape: Sequence[int], *, by_index: bool) -> Sharding:
    """Returns where the layers of a DTensor are.

    Args:
        param: The weights.
        v_shape: Shape of the whole second moment, see ``novograd.layers``.
        by_index: Whether indices of the weights distinguish the layers; False for ``Split``.
    """
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, shape = param.device_mesh, param.shape
    groups, placements = [], []
    for dim, placement in enumerate(param.placements):
        axis = getattr(placement, "dim", None)  # all kinds of shards have it
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
    """Returns the local piece of a second moment in the form in which it is stored."""
    if sharding.placements is None:
        return v
    return distributed(v, param, sharding.placements, torch.Size(v_shape))


def distributed(piece: Tensor, param: Any, placements: Any, shape: torch.Size) -> Tensor:
    """Returns a contiguous DTensor of the given local piece, on the mesh of a parameter."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        piece,
        param.device_mesh,
        placements,
        run_check=False,
        shape=shape,
        stride=torch.empty(shape, device="meta").stride(),
    )


def scale_placements(param: Any, axis: int, row: Sequence[int], block: int) -> tuple[Any, ...]:
    """Returns the placements of the scales of a quantised momentum buffer.

    Args:
        param: The weights.
        axis: The first axis of a row. The scales have the axes before it, and one for the blocks.
        row: The lengths of the axes of a row of the whole real tensor.
        block: The number of elements of a block.

    Raises:
        ValueError: If a shard does not begin at the first element of a block.
    """
    from torch.distributed.tensor import Replicate, Shard

    inner = math.prod(row[1:])
    placements = []
    for dim, placement in enumerate(param.placements):
        sharded, parts = getattr(placement, "dim", -1), param.device_mesh.size(dim)
        if sharded < axis or parts == 1:
            placements.append(placement if sharded < axis else Replicate())
            continue
        size = -(-row[0] // parts) * inner
        blocks = -(-row[0] * inner // block)
        fits = size % block == 0 and -(-blocks // parts) * block == size
        if sharded > axis or type(placement) is not Shard or placement in placements or not fits:
            raise ValueError(
                f"moment_dtype=torch.int8 has blocks of {block} elements along the last axes, but "
                f"axis {sharded} of shape {tuple(param.shape)} is sharded over {parts} processes "
                "inside a block; shard another axis, or give moment_dtype=None"
            )
        placements.append(placement)
    return tuple(placements)


def local_gradient(param: Any) -> Tensor:
    """Returns the piece of a gradient that belongs to the local piece of the weights."""
    grad = param.grad
    if not is_sharded(param):
        return grad
    if grad.placements != param.placements:
        # For example, partial sums for replicated weights.
        grad = grad.redistribute(param.device_mesh, param.placements)
    piece = grad._local_tensor
    return piece if type(piece) is Tensor else _completed(piece)


def _completed(piece: Tensor) -> Tensor:
    """Returns the result of a collective, and waits if it is still running."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    return piece.wait() if isinstance(piece, AsyncCollectiveTensor) else piece
