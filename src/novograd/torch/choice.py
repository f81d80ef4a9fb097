"""The choice of the backend that updates a part."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from novograd.native import require
from novograd.torch.backends import Backend, eager, foreach, native, triton
from novograd.torch.groups import Group
from novograd.torch.options import Options
from novograd.torch.parts import Part, parts
from novograd.torch.rounding import rounds_weights

# The parts that each backend updates.
Assignment = Mapping[Backend, Sequence[Part]]


def assign(group: Group, rows: Iterable[tuple[Any, ...]]) -> Assignment:
    """Chooses the backend for each part of the given parameters of a group.

    Args:
        group: The parameter group.
        rows: For each parameter, the fields of a ``Part`` and the cuts.

    Raises:
        RuntimeError: If ``fused`` is True and the kernels do not support a part.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w, v = torch.zeros(4), torch.zeros(2)
        >>> (group,) = NovoGrad([w], foreach=True).param_groups
        >>> row = *Part(w, w, w, v), (0, ((0, 1), (1, 3)))
        >>> [part.param.shape for part in assign(group, [row])[foreach]]
        [torch.Size([1]), torch.Size([3])]
    """
    assigned: dict[Backend, list[Part]] = defaultdict(list)
    for *whole, cuts in rows:
        for part in parts(Part(*whole), cuts):
            assigned[_backend(group, part)].append(part)
    return dict(assigned)


def wants_kernels(group: Group) -> bool:
    """Whether kernels update each part of a group that they support.

    Example:
        >>> wants_kernels({"fused": None, "foreach": None})
        True
        >>> wants_kernels({"fused": None, "foreach": True})
        False
    """
    return group["foreach"] is None if group["fused"] is None else group["fused"]


def kernels_for(device: torch.device) -> Backend:
    """Returns the backend of the kernels for a device.

    Example:
        >>> kernels_for(torch.device("cpu")) is native
        True
    """
    return triton if triton.supports_device(device) else native


def require_kernels(fused: bool | None, params: Iterable[Tensor]) -> None:
    """Raises RuntimeError if ``fused`` is True and the kernels are not installed.

    Example:
        >>> require_kernels(None, [torch.zeros(2)])
    """
    if fused and not all(triton.supports_device(param.device) for param in params):
        require()


def compiles(groups: Iterable[Group]) -> bool:
    """Whether torch.compile can compile the step of groups.

    It does not support Triton kernels, which a group may demand. Inductor makes wrong code of
    momentum buffers in 8 bits: it changes the weights of shorter blocks (seen in torch 2.13). And
    it has not been tried for weights that are rounded at random.

    Example:
        >>> group = {"params": [torch.zeros(2)], "fused": True, "moment_dtype": None}
        >>> compiles([group]), compiles([group | {"moment_dtype": torch.int8}])
        (True, False)
    """
    return not any(
        group.get("moment_dtype") == torch.int8
        or any(rounds_weights(group, param) for param in group["params"])
        or (group["fused"] and any(triton.supports_device(x.device) for x in group["params"]))
        for group in groups
    )


def _backend(group: Group, part: Part) -> Backend:
    """Returns the backend that updates a part."""
    candidates = _candidates(group, part.param.device)
    problem = None
    for backend in candidates:
        problem = backend.problem(part, cast(Options, group))
        if problem is None:
            return backend
    if group["fused"]:  # only under torch.compile; otherwise check_gradients raises before
        raise RuntimeError(f"fused=True is not possible: {problem}")
    return candidates[-1]


def _candidates(group: Group, device: torch.device) -> list[Backend]:
    """Returns the backends that the options of a group allow, the best first."""
    if group["fused"]:
        return [kernels_for(device)]
    if group["foreach"] is not None:
        return [foreach if group["foreach"] else eager]
    others: list[Backend] = [foreach, eager]
    return [kernels_for(device), *others] if group["fused"] is None else others
