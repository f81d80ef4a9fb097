"""Prepares the step of all groups. Reuses the plans of the last step that still hold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from novograd.torch.backends import PreparedStep, Scaling
from novograd.torch.choice import Assignment, assign, kernels_for, wants_kernels
from novograd.torch.gradients import check_gradients, kernels_problem
from novograd.torch.groups import Group, Groups, Member, members, trained
from novograd.torch.plan import Plan
from novograd.torch.sharding import Norms, is_sharded, local, local_gradient
from novograd.torch.state import new_state, state_of, whole_part
from novograd.torch.steps import steps_of

States = Mapping[Tensor, Any]


def rows(
    chosen: Iterable[Member], groups: Groups, states: States, norms: Norms | None = None
) -> Iterator[tuple[Any, ...]]:
    """Yields a row for each given parameter: the fields of a ``Part``, and the cuts.

    Args:
        chosen: The parameters. A missing gradient counts as zero.
        groups: The facts about all groups.
        states: The state of the optimizer. Missing state is created.
        norms: The norms of the layers that are cut across processes.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w = torch.zeros(2)
        >>> w.grad = torch.ones(2)
        >>> optimizer = NovoGrad([w, torch.zeros(3)])
        >>> chosen = trained(0, optimizer.param_groups[0])
        >>> (row,) = rows(chosen, Groups(), optimizer.state)
        >>> row[0] is w, list(optimizer.state[w])
        (True, ['exp_avg', 'exp_avg_sq'])
    """
    for member in chosen:
        param, layout = member.param, groups.layout(member)
        state = state_of(member, layout, states)
        if not state:
            state = states[param]
            state.update(new_state(member.group, param, layout))
        grad = torch.zeros_like(local(param)) if param.grad is None else local_gradient(param)
        square = norms.squares.get(param) if norms else None
        yield *whole_part(member, grad, layout, state, square), layout.cuts


class Planner:
    """Prepares the steps of an optimizer, and remembers the plans of the last step.

    Args:
        groups: The facts about the parameter groups.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w = torch.zeros(2)
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> optimizer = NovoGrad([w], lr=0.5)
        >>> (step,) = Planner(Groups()).prepare(optimizer.param_groups, optimizer.state, None)
        >>> step.take()
        >>> w
        tensor([-0.3000, -0.4000])
    """

    def __init__(self, groups: Groups) -> None:
        """Creates a planner without plans."""
        self._groups = groups
        self._plans: dict[int, Plan] = {}

    def prepare(
        self, param_groups: Sequence[Group], states: States, scaling: Scaling | None
    ) -> list[PreparedStep]:
        """Returns the steps, after all checks.

        Creates missing state, and computes the norms that need several processes.

        Args:
            param_groups: The current groups.
            states: The state of the optimizer.
            scaling: The attributes that a ``GradScaler`` has set for this step.

        Raises:
            RuntimeError: If the step is not possible.
        """
        recalled = [self._recall(*place, states) for place in enumerate(param_groups)]
        new = {i: trained(i, param_groups[i]) for i, known in enumerate(recalled) if known is None}
        if new:
            self._groups.refresh(param_groups)
        for chosen in new.values():
            check_gradients(chosen, self._groups, states)
        norms = self._norms(param_groups) if self._groups.sharded else None
        ready: list[PreparedStep] = []
        for number, (group, assigned) in enumerate(zip(param_groups, recalled, strict=True)):
            if assigned is None:
                assigned = self._assign(number, group, new[number], states, norms)
            memos = None if self._groups.sharded else self._plans[number].memos
            ready += steps_of(group, assigned, scaling, memos)
        if norms is not None:
            for step in ready:
                step.square_sums()
            missing = norms.all_reduce()
            if missing:
                ready += self._steps_of_missing(missing, param_groups, states, norms, scaling)
        return ready

    def unscales(self, param_groups: Sequence[Group], states: States) -> bool:
        """Whether all backends of the next step unscale gradients themselves."""
        return all(self._unscales(*place, states) for place in enumerate(param_groups))

    def _recall(self, number: int, group: Group, states: States) -> Assignment | None:
        """Returns the assignment of the last step if it still holds; else None."""
        plan = self._plans.get(number)
        if plan is None or self._groups.sharded:
            return None
        return plan.recall(group, self._groups.layers_of(number, group), states)

    def _assign(
        self, number: int, group: Group, chosen: list[Member], states: States, norms: Norms | None
    ) -> Assignment:
        """Assigns the given parameters of a group, and keeps the plan for the next step."""
        assigned = assign(group, rows(chosen, self._groups, states, norms))
        if not self._groups.sharded:
            layers = self._groups.layers_of(number, group)
            self._plans[number] = Plan(group, layers, assigned, states)
        return assigned

    def _steps_of_missing(
        self,
        missing: list[Tensor],
        param_groups: Sequence[Group],
        states: States,
        norms: Norms,
        scaling: Scaling | None,
    ) -> list[PreparedStep]:
        """Returns the steps of parameters that have a gradient only in other processes."""
        ids, ready = set(map(id, missing)), []
        for number, group in enumerate(param_groups):
            chosen = [member for member in members(number, group) if id(member.param) in ids]
            assigned = assign(group, rows(chosen, self._groups, states, norms))
            ready += steps_of(group, assigned, scaling)
        return ready

    def _norms(self, param_groups: Sequence[Group]) -> Norms | None:
        """Allocates the norms of layers that are cut across processes; None if there are none."""
        shardings = {}
        for number, group in enumerate(param_groups):
            for member in members(number, group):
                if member.param.requires_grad and is_sharded(member.param):
                    found = self._groups.layout(member).sharding
                    if found is not None and found.groups:
                        shardings[member.param] = found
        return Norms(shardings) if shardings else None

    def _unscales(self, number: int, group: Group, states: States) -> bool:
        """Whether all backends of a group in the next step unscale gradients themselves."""
        recalled = self._recall(number, group, states)
        if recalled is not None:
            return all(backend.UNSCALES for backend in recalled)
        return wants_kernels(group) and all(
            self._unscales_parameter(member, states) for member in trained(number, group)
        )

    def _unscales_parameter(self, member: Member, states: States) -> bool:
        """Whether kernels that unscale gradients themselves can update a parameter."""
        kernels = kernels_for(member.param.device)
        return kernels.UNSCALES and kernels_problem(kernels, member, self._groups, states) is None
