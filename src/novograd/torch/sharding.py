"""Parameters that are DTensors: what of them is here, and norms over all of their pieces.

A norm is of the whole layer, wherever its pieces are: each process sums the squares of what it
holds, and these sums are added over the dimensions of the mesh along which layers are cut. That is
one all-reduce of one small tensor for each process group, however many parameters there are, and
the only communication of a step. All processes take part in it in the same order, whatever shard
is empty and whatever gradient is missing.
"""

from collections.abc import Callable, Sequence
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


class Piece(NamedTuple):
    """What a process knows of a DTensor's gradient.

    Attributes:
        grad: The piece of it that is here.
        square: The squared norms of whole layers, in the shape of what is here of the second
            moment, in float64; None where all pieces of these layers are here.
    """

    grad: Tensor
    square: Tensor | None


def is_sharded(x: Tensor) -> bool:
    """Whether it is a DTensor (also one of which each process has a copy)."""
    return hasattr(x, "device_mesh")


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


def sharding_of(param: Any, v_shape: Sequence[int]) -> Sharding:
    """Returns where the layers of a DTensor are.

    Args:
        param: The weights.
        v_shape: Of the whole second moment, as of ``novograd.layers``.
    """
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, shape = param.device_mesh, param.shape
    groups, placements = [], []
    for dim, placement in enumerate(param.placements):
        axis = getattr(placement, "dim", None)  # of all kinds of shards
        spread = axis is not None and bool(v_shape) and v_shape[axis] == shape[axis] > 1
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


def pieces(
    shardings: dict[Tensor, Sharding], square_sums: Callable[[dict[Tensor, Piece]], None]
) -> dict[Tensor, Piece]:
    """Returns the gradients of those DTensors that have one, here or elsewhere.

    A gradient that is missing here, but not in all processes that hold pieces of the same layers,
    counts as zero here. Nothing waits for a device unless one is missing.

    Args:
        shardings: The parameters, in an order that all processes share.
        square_sums: Is called once, to write into each ``square`` the sums of the piece here.
    """
    grads = {w: None if w.grad is None else _local_gradient(w) for w in shardings}
    cut = [w for w in shardings if shardings[w].groups and w.requires_grad]
    if not cut:
        return {w: Piece(g, None) for w, g in grads.items() if g is not None}
    # For each parameter its sums, and how many processes have a gradient.
    sizes = [shardings[w].v_shape.numel() + 1 for w in cut]
    sums = torch.zeros(sum(sizes), dtype=torch.float64, device=local(cut[0]).device)
    sections = dict(zip(cut, sums.split(sizes), strict=True))
    squares = {w: x[:-1].view(shardings[w].v_shape) for w, x in sections.items()}
    for w in cut:
        if grads[w] is not None:
            sections[w][-1] = 1
    known = {w: Piece(g, squares.get(w)) for w, g in grads.items() if g is not None}
    square_sums({w: piece for w, piece in known.items() if piece.square is not None})
    _all_reduce(sums, list(sections.values()), [shardings[w].groups for w in cut], cut[0])
    missing = [w for w in cut if grads[w] is None]
    if missing:
        counts = torch.stack([sections[w][-1] for w in missing]).tolist()
        for w, count in zip(missing, counts, strict=True):
            if count:
                known[w] = Piece(torch.zeros_like(local(w)), squares[w])
    return known


def _local_gradient(param: Any) -> Tensor:
    """Returns the piece of a DTensor's gradient that belongs to what is here of the weights."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    grad = param.grad
    if grad.placements != param.placements:
        # Such as partial sums, of weights of which there are copies.
        grad = grad.redistribute(param.device_mesh, param.placements)
    piece = grad._local_tensor
    return piece.wait() if isinstance(piece, AsyncCollectiveTensor) else piece


def _all_reduce(
    sums: Tensor, sections: Sequence[Tensor], groups: Sequence[tuple[Any, ...]], param: Any
) -> None:
    """Adds ``sums`` over processes, in place: each section over its process groups."""
    for group in dict.fromkeys(group for every in groups for group in every):
        mine = [x for x, every in zip(sections, groups, strict=True) if group in every]
        given = sums if len(mine) == len(sections) else torch.cat(mine)
        # Weights may have been offloaded from the devices that communicate.
        sent = given.to(param.device_mesh.device_type)
        dist.all_reduce(sent, group=group)
        if sent is not sums:
            received = sent.to(sums.device).split([x.numel() for x in mine])
            for x, y in zip(mine, received, strict=True):
                x.copy_(y)
