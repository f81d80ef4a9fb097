"""The plan of a group: remembers the last assignment, and checks whether it still holds."""

from collections import defaultdict
from collections.abc import Mapping
from operator import attrgetter, itemgetter
from typing import Any

from torch import Tensor

from novograd.torch.backends import Backend
from novograd.torch.choice import Assignment
from novograd.torch.groups import Group
from novograd.torch.memory import described
from novograd.torch.parts import Columns
from novograd.torch.steps import Memos

# The tensors that the state of some parameters has, and their fields in a part.
_OPTIONAL = {"max_exp_avg_sq": "maximum", "step": "step", "exp_avg_scale": "exp_avg_scale"}
# The state, and the choice of a backend, depend on these options.
_PLANNED_OPTIONS = ("variant", "foreach", "fused", "stochastic_rounding", "moment_dtype")

# These functions of C are several times faster than their equivalents in Python.
_GRAD = attrgetter("grad")
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
        assigned: The assignment of the parts of the group, each backend's in the group's order.
        states: The state of the optimizer.

    Example:
        >>> import torch
        >>> from novograd.torch import NovoGrad
        >>> from novograd.torch.backends import native
        >>> from novograd.torch.parts import Part
        >>> w = torch.zeros(2)
        >>> w.grad = torch.ones(2)
        >>> optimizer = NovoGrad([w])
        >>> optimizer.step()
        >>> (group,) = optimizer.param_groups
        >>> part = Part(w, w.grad, *optimizer.state[w].values())
        >>> plan = Plan(group, None, {native: [part]}, optimizer.state)
        >>> w.grad = torch.ones(2)
        >>> plan.recall(group, None, optimizer.state)[native][0].grad is w.grad
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
        position = {id(param): i for i, param in enumerate(trained)}
        chosen = {
            backend: [position.get(id(part.param), -1) for part in parts]
            for backend, parts in assigned.items()
        }
        found = sorted(i for mine in chosen.values() for i in mine)
        self._holds = len(trained) > 0 and found == [*position.values()]
        if not self._holds:
            return
        self._layers = layers
        self._options = [group[name] for name in _PLANNED_OPTIONS]
        self._params = list(map(id, group["params"]))
        self._places: tuple[list[int], ...] = ()
        self._positions: list[int] = []
        self._chosen = chosen  # positions in the list of parameters with a gradient
        parts = [part for mine in assigned.values() for part in mine]
        parts.sort(key=lambda part: position[id(part.param)])
        self._scales = [part.scale for part in parts]
        self._where = [part.position for part in parts]
        state_of = [states[param] for param in trained]
        self._optional = [name for name in _OPTIONAL if any(name in state for state in state_of)]
        self._facts, _ = described(self._columns(trained, grads, state_of))

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
            columns = self._columns(trained, grads, self._states_of(trained, states))
            facts, addresses = described(columns)
        except (KeyError, RuntimeError):  # a missing state, or an unusual gradient
            return None
        if facts != self._facts:
            return None
        columns |= {"scale": self._scales, "position": self._where}
        if "step" in self._optional:
            columns["history"] = [
                None if step is None else v
                for step, v in zip(columns["step"], columns["exp_avg_sq"], strict=True)
            ]
        recalled: dict[Backend, Columns] = {}
        for backend, mine in self._chosen.items():
            if len(self._chosen) > 1:
                some = {name: [values[i] for i in mine] for name, values in columns.items()}
                recalled[backend] = Columns(some)
                self.memos[backend]["addresses"] = None if addresses is None else addresses[:, mine]
            else:
                recalled[backend] = Columns(columns)
                self.memos[backend]["addresses"] = addresses
        return recalled

    def _columns(
        self, params: list[Tensor], grads: list[Tensor], states: list[Any]
    ) -> dict[str, list[Any]]:
        """Returns the tensors of parts, by the fields of a part."""
        columns = {
            "param": params,
            "grad": grads,
            "exp_avg": list(map(_EXP_AVG, states)),
            "exp_avg_sq": list(map(_EXP_AVG_SQ, states)),
        }
        for name in self._optional:
            columns[_OPTIONAL[name]] = [state.get(name) for state in states]
        return columns

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
