"""The steps of a group, one for each backend."""

from collections import defaultdict
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from novograd import variants
from novograd.torch.backends import Backend, PreparedStep, Scaling
from novograd.torch.choice import Assignment
from novograd.torch.groups import Group
from novograd.torch.options import Options
from novograd.torch.parts import column
from novograd.torch.state import count

# For each backend, the facts that it keeps for the next step: see ``Backend.prepare``.
Memos = defaultdict[Backend, dict[str, Any]]


def steps_of(
    group: Group, assigned: Assignment, scaling: Scaling | None, memos: Memos | None = None
) -> list[PreparedStep]:
    """Prepares the steps of the given parts of a group, one for each backend.

    Args:
        group: The parameter group.
        assigned: The parts of each backend.
        scaling: The attributes that a ``GradScaler`` has set for this step.
        memos: The facts that the backends have kept for these parts, if a plan has recalled them.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> from novograd.torch.backends import eager
        >>> from novograd.torch.parts import Part
        >>> w, m, v = torch.zeros(2), torch.zeros(2), torch.tensor(0.0)
        >>> part = Part(w, torch.tensor([3.0, 4.0]), m, v)
        >>> (group,) = NovoGrad([w], lr=0.5).param_groups
        >>> (step,) = steps_of(group, {eager: [part]}, None)
        >>> step.take()
        >>> w
        tensor([-0.3000, -0.4000])
    """
    if not assigned:
        return []
    compiling = torch.compiler.is_compiling()
    options = _for_compiler(group) if compiling else cast(Options, group)
    memos = defaultdict(dict) if memos is None else memos
    ready = [
        backend.prepare(parts, options, scaling, memos[backend])
        for backend, parts in assigned.items()
    ]
    counts = {
        id(step): parts[i]
        for parts in assigned.values()
        for i, step in enumerate(column(parts, "step"))
        if step is not None
    }
    if counts:
        # After all updates, and only once for all parts of a parameter.
        found_inf = scaling.found_inf if scaling else None
        lr = options["lr"] if variants.get(options["variant"]).counts else None
        take = partial(count, list(counts.values()), lr, found_inf)
        ready.append(PreparedStep(lambda: None, take))
    return ready


def _for_compiler(group: Group) -> Options:
    """Converts the numbers of a group that may change from step to step to 0-d tensors.

    A number that has changed once becomes an input of the compiled step. But if the number is an
    argument of an operation, such as alpha of add, Inductor makes it a constant everywhere, without
    a guard (seen in torch 2.13). float64 keeps 1 - beta2 as exact as with Python numbers.
    """
    one = torch.ones((), dtype=torch.float64, device=group["params"][0].device)
    beta1, beta2 = group["betas"]
    numbers = {
        "lr": group["lr"] if isinstance(group["lr"], Tensor) else group["lr"] * one,
        "betas": (beta1 * one, beta2 * one),
        # With the number 0, the step skips the decay.
        "weight_decay": group["weight_decay"] * one if group["weight_decay"] else 0.0,
    }
    return cast(Options, group | numbers)
