"""The plan of a group: remembers the last assignment, and checks whether it still holds."""

import weakref
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from novograd.torch.backends import Backend
from novograd.torch.choice import Assignment
from novograd.torch.groups import Group
from novograd.torch.parts import Part
from novograd.torch.steps import Memos

# The tensors that the state has for some variants only.
_OPTIONAL_STATE = ("max_exp_avg_sq", "step")
# The choice of a backend depends on these options.
_BACKEND_OPTIONS = ("variant", "foreach", "fused", "stochastic_rounding")


class _Kept(NamedTuple):
    """The facts about a parameter and its part that a plan keeps.

    References to the state are weak, so that the state is freed when the optimizer drops it. The
    parameter does not have even a weak reference: torch swaps the contents of two tensors only if
    no weak reference to them exists. ``Module.to`` swaps the contents of DTensors.
    """

    of_param: tuple[Any, ...]
    of_grad: tuple[Any, ...]
    backend: Backend
    scale: float
    exp_avg: Any
    exp_avg_sq: Any
    others: tuple[tuple[str, Any], ...]


class Plan:
    """The assignment of one step of a group, for use in the next step.

    Most steps differ from the step before only in the memory of the gradients. The check takes a
    fraction of the time of a new assignment.

    Attributes:
        memos: The facts that the backends keep for as long as the plan holds.

    Args:
        group: The parameter group.
        layers: The layers of the group.
        assigned: The assignment of the parts of the group.
        states: The state of the optimizer.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> from novograd.torch.backends import native
        >>> w = torch.zeros(2)
        >>> w.grad = torch.ones(2)
        >>> optimizer = NovoGrad([w])
        >>> optimizer.step()
        >>> (group,) = optimizer.param_groups
        >>> row = w, w.grad, *optimizer.state[w].values()
        >>> plan = Plan(group, None, [(native, Part(*row))], optimizer.state)
        >>> w.grad = torch.ones(2)
        >>> [(_, part)] = plan.recall(group, None, optimizer.state)
        >>> part.grad is w.grad
        True
    """

    def __init__(
        self,
        group: Group,
        layers: Any,
        assigned: Assignment,
        states: Mapping[Tensor, Any],
    ) -> None:
        """Keeps an assignment, if each part is a whole parameter."""
        self.memos: Memos = defaultdict(dict)
        self._kept: list[_Kept] = []
        trained = [param for param in group["params"] if param.grad is not None]
        whole = len(assigned) == len(trained) and all(
            part.param is param for (_, part), param in zip(assigned, trained, strict=True)
        )
        if whole:
            self._layers = layers
            self._options = [group[name] for name in _BACKEND_OPTIONS]
            self._params = list(map(id, group["params"]))
            self._kept = [
                _Kept(
                    _of_param(part.param),
                    _of_grad(part.grad),
                    backend,
                    part.scale,
                    weakref.ref(part.exp_avg),
                    weakref.ref(part.exp_avg_sq),
                    tuple(
                        (name, weakref.ref(states[part.param][name]))
                        for name in _OPTIONAL_STATE
                        if name in states[part.param]
                    ),
                )
                for backend, part in assigned
            ]

    def recall(self, group: Group, layers: Any, states: Mapping[Tensor, Any]) -> Assignment | None:
        """Returns the assignment for this step, or None if the plan does not hold for it."""
        params = group["params"]
        trained = [param for param in params if param.grad is not None]
        if (
            not trained
            or len(trained) != len(self._kept)
            or list(map(id, params)) != self._params
            or layers is not self._layers
            or any(
                group[name] is not x
                for name, x in zip(_BACKEND_OPTIONS, self._options, strict=True)
            )
        ):
            return None
        assigned = []
        for param, kept in zip(trained, self._kept, strict=True):
            of_param, of_grad, backend, scale, old_exp_avg, old_exp_avg_sq, others = kept
            grad, state = cast(Tensor, param.grad), states[param]
            exp_avg, exp_avg_sq = state.get("exp_avg"), state.get("exp_avg_sq")
            if (
                exp_avg is None
                or exp_avg is not old_exp_avg()
                or exp_avg_sq is not old_exp_avg_sq()
                or of_param != _of_param(param)
                or of_grad != _of_grad(grad)
            ):
                return None
            part = Part(param, grad, exp_avg, exp_avg_sq, scale)
            if others:
                if any(name not in state or state[name] is not x() for name, x in others):
                    return None
                maximum, step = map(state.get, _OPTIONAL_STATE)
                history = None if step is None else exp_avg_sq
                part = part._replace(maximum=maximum, step=step, history=history)
            assigned.append((backend, part))
        return assigned


def _of_param(param: Tensor) -> tuple[Any, ...]:
    """Returns dtype, device, shape and strides of a parameter."""
    return param.dtype, param.get_device(), param.shape, param.stride()


def _of_grad(grad: Tensor) -> tuple[Any, ...]:
    """Returns type, dtype, device and strides of a gradient. torch checks its shape."""
    if grad.layout is not torch.strided:
        return ()
    return type(grad), grad.dtype, grad.get_device(), grad.stride()
