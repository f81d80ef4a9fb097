"""Checks that a step can use the gradients."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from novograd import variants
from novograd.torch.backends import Backend
from novograd.torch.choice import kernels_for
from novograd.torch.groups import Groups, Member
from novograd.torch.options import Options
from novograd.torch.parts import parts
from novograd.torch.sharding import is_sharded, local
from novograd.torch.state import new_state, state_of, whole_part


def check_gradients(chosen: Iterable[Member], groups: Groups, states: Mapping[Tensor, Any]) -> None:
    """Checks that a step can use the gradients of the given parameters.

    Args:
        chosen: The parameters, which have gradients.
        groups: The facts about all groups.
        states: The state of the optimizer.

    Raises:
        RuntimeError: If a gradient cannot be used. The message names the parameter.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> from novograd.torch.groups import trained
        >>> w = torch.zeros(2)
        >>> w.grad = torch.ones(2).to_sparse()
        >>> check_gradients(trained(0, NovoGrad([w]).param_groups[0]), Groups(), {})
        Traceback (most recent call last):
            ...
        RuntimeError: NovoGrad cannot use the gradient of parameter 0 of param_groups[0]: it must \
be dense, got torch.sparse_coo
    """
    for member in chosen:
        problem = _problem(member, groups, states)
        if problem:
            with_kernels = "with fused=True " if member.group["fused"] else ""
            raise RuntimeError(
                f"NovoGrad cannot use {with_kernels}the gradient of parameter {member}: {problem}"
            )


def _problem(member: Member, groups: Groups, states: Mapping[Tensor, Any]) -> str | None:
    """Returns why the gradient of a parameter cannot be used, or None if it can."""
    param, group = member.param, member.group
    grad = cast(Tensor, param.grad)
    if grad.layout is not torch.strided:
        return f"it must be dense, got {grad.layout}"
    if groups.sharded and is_sharded(param) and not is_sharded(grad):
        return "it must be a DTensor, because the parameter is a DTensor"
    if group["fused"] and not torch.compiler.is_compiling():
        problem = kernels_problem(kernels_for(param.device), member, groups, states)
        if problem:
            return problem
    if groups.sharded and variants.get(group["variant"]).norm != "l2":
        return f"the norm of variant {group['variant']!r} does not support DTensors"
    return None


def kernels_problem(
    kernels: Backend, member: Member, groups: Groups, states: Mapping[Tensor, Any]
) -> str | None:
    """Returns why kernels cannot update a parameter, or None if they can.

    Args:
        kernels: The backend.
        member: The parameter, which has a gradient.
        groups: The facts about all groups.
        states: The state of the optimizer.

    Raises:
        RuntimeError: If the step cannot use the state of the parameter.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> from novograd.torch.groups import trained
        >>> from novograd.torch.backends import native
        >>> w = torch.zeros(4, 6)[:, ::2]
        >>> w.grad = torch.zeros(4, 3)
        >>> (member,) = trained(0, NovoGrad([w]).param_groups[0])
        >>> kernels_problem(native, member, Groups(), {})
        'it is not contiguous, or its memory layout differs from that of its gradient or state'
    """
    param, layout = member.param, groups.layout(member)
    state = state_of(member, layout, states) or new_state(member.group, param, layout)
    whole = whole_part(member, local(param.grad), layout, state)
    options = cast(Options, member.group)
    problems = (kernels.problem(part, options) for part in parts(whole, layout.cuts))
    return next(filter(None, problems), None)
