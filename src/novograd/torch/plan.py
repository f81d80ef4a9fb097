"""The plan of a group: remembers the last assignment, and checks whether it still holds."""

import weakref
from collections import defaultdict
from collections.abc import Mapping
from operator import attrgetter, call, is_, itemgetter
from typing import Any

from torch import Tensor

from novograd.torch.choice import Assignment
from novograd.torch.groups import Group
from novograd.torch.parts import Part
from novograd.torch.steps import Memos

# The tensors that the state has for some variants only.
_OPTIONAL = ("max_exp_avg_sq", "step", "exp_avg_scale")
# The state, and the choice of a backend, depend on these options.
_PLANNED_OPTIONS = ("variant", "foreach", "fused", "stochastic_rounding", "moment_dtype")


# These functions of C are several times faster than their equivalents in Python.
_GRAD, _DTYPE, _SHAPE = map(attrgetter, ("grad", "dtype", "shape"))
_EXP_AVG, _EXP_AVG_SQ = map(itemgetter, ("exp_avg", "exp_avg_sq"))


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
        >>> import torch
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
        trained, grads = _trained(group)
        self._holds = len(assigned) == len(trained) > 0 and all(
            part.param is param for (_, part), param in zip(assigned, trained, strict=True)
        )
        if not self._holds:
            return
        self._layers = layers
        self._options = [group[name] for name in _PLANNED_OPTIONS]
        self._params = list(map(id, group["params"]))
        self._places: tuple[list[int], ...] = ()
        self._positions: list[int] = []
        self._facts = _facts(trained, grads)
        self._backends = [backend for backend, _ in assigned]
        self._scales = [part.scale for _, part in assigned]
        self._where = [part.position for _, part in assigned]
        # References to the state are weak, so that it is freed when the optimizer drops it. The
        # parameters do not have even weak references: torch swaps the contents of two tensors only
        # if no weak reference to them exists. Module.to swaps the contents of DTensors.
        self._exp_avgs = [weakref.ref(part.exp_avg) for _, part in assigned]
        self._exp_avg_sqs = [weakref.ref(part.exp_avg_sq) for _, part in assigned]
        self._others = [
            [
                (name, weakref.ref(states[param][name]))
                for name in _OPTIONAL
                if name in states[param]
            ]
            for param in trained
        ]

    def recall(self, group: Group, layers: Any, states: Mapping[Tensor, Any]) -> Assignment | None:
        """Returns the assignment for this step, or None if the plan does not hold for it."""
        if (
            not self._holds
            or list(map(id, group["params"])) != self._params
            or layers is not self._layers
            or any(
                group[name] is not x
                for name, x in zip(_PLANNED_OPTIONS, self._options, strict=True)
            )
        ):
            return None
        trained, grads = _trained(group)
        try:
            mine = self._states_of(trained, states)
            exp_avgs, exp_avg_sqs = list(map(_EXP_AVG, mine)), list(map(_EXP_AVG_SQ, mine))
            facts = _facts(trained, grads)
        except (KeyError, RuntimeError):  # a missing state, or a gradient that is not dense
            return None
        if (
            facts != self._facts
            or not _same(exp_avgs, self._exp_avgs)
            or not _same(exp_avg_sqs, self._exp_avg_sqs)
        ):
            return None
        parts = list(map(Part, trained, grads, exp_avgs, exp_avg_sqs, self._scales))
        if any(self._others):
            for i, (state, others) in enumerate(zip(mine, self._others, strict=True)):
                if any(name not in state or state[name] is not x() for name, x in others):
                    return None
                maximum, step, scales = map(state.get, _OPTIONAL)
                parts[i] = parts[i]._replace(
                    maximum=maximum,
                    step=step,
                    history=None if step is None else exp_avg_sqs[i],
                    exp_avg_scale=scales,
                    position=self._where[i],
                )
        return list(zip(self._backends, parts, strict=True))

    def _states_of(self, params: list[Tensor], states: Mapping[Tensor, Any]) -> list[Any]:
        """Returns the state of each parameter.

        Remembers their positions while the keys are the same: to hash a tensor takes longer.
        """
        places = list(map(id, states)), list(map(id, params))
        if places != self._places:
            positions = {key: i for i, key in enumerate(places[0])}
            self._positions = [positions[key] for key in places[1]]
            self._places = places
        values = list(states.values())
        return [values[i] for i in self._positions]


def _trained(group: Group) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the parameters that have a gradient, and these gradients."""
    params = group["params"]
    grads = list(map(_GRAD, params))
    if type(None) in map(type, grads):
        params = [param for param, grad in zip(params, grads, strict=True) if grad is not None]
        grads = list(map(_GRAD, params))
    return params, grads


def _facts(params: list[Tensor], grads: list[Tensor]) -> tuple[list[Any], ...]:
    """Returns the facts on which a plan depends. Gradients that are not dense have no strides.

    torch checks that a gradient has the shape of its parameter.
    """
    return (
        list(map(_SHAPE, params)),
        *([list(map(_DTYPE, x)) for x in (params, grads)]),
        *([list(map(Tensor.get_device, x)) for x in (params, grads)]),
        *([list(map(Tensor.stride, x)) for x in (params, grads)]),
        list(map(type, grads)),
    )


def _same(tensors: list[Tensor], references: list[Any]) -> bool:
    """Whether weak references refer to the given tensors."""
    return len(tensors) == len(references) and all(map(is_, tensors, map(call, references)))
