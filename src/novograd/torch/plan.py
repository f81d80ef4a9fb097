"""The plan of a group: remembers the last assignment, and checks whether it still holds."""

import weakref
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import repeat
from operator import attrgetter, call, is_, itemgetter
from typing import Any

from torch import Tensor

from novograd.torch.choice import Assignment
from novograd.torch.groups import Group
from novograd.torch.parts import Part
from novograd.torch.steps import Memos

# The tensors that the state of some parameters has, and their fields in a part.
_OPTIONAL = {"max_exp_avg_sq": "maximum", "step": "step", "exp_avg_scale": "exp_avg_scale"}
# The state, and the choice of a backend, depend on these options.
_PLANNED_OPTIONS = ("variant", "foreach", "fused", "stochastic_rounding", "moment_dtype")

# These functions of C are several times faster than their equivalents in Python.
_GRAD, _DTYPE, _SHAPE = map(attrgetter, ("grad", "dtype", "shape"))
_EXP_AVG, _EXP_AVG_SQ = map(itemgetter, ("exp_avg", "exp_avg_sq"))
_new_part = partial(tuple.__new__, Part)


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
        self._facts = _facts(trained, grads)
        self._chosen = chosen  # positions in the list of parameters with a gradient
        parts = [part for mine in assigned.values() for part in mine]
        parts.sort(key=lambda part: position[id(part.param)])
        self._scales = [part.scale for part in parts]
        self._where = [part.position for part in parts]
        # References to the state are weak, so that it is freed when the optimizer drops it. The
        # parameters do not have even weak references: torch swaps the contents of two tensors only
        # if no weak reference to them exists. Module.to swaps the contents of DTensors.
        self._exp_avgs = [weakref.ref(part.exp_avg) for part in parts]
        self._exp_avg_sqs = [weakref.ref(part.exp_avg_sq) for part in parts]
        state_of = [states[param] for param in trained]
        self._others = {
            name: [weakref.ref(state[name]) if name in state else _nothing for state in state_of]
            for name in _OPTIONAL
            if any(name in state for state in state_of)
        }

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
        columns: dict[str, Iterable[Any]] = {
            "param": trained,
            "grad": grads,
            "exp_avg": exp_avgs,
            "exp_avg_sq": exp_avg_sqs,
            "scale": self._scales,
            "position": self._where,
        }
        for name, references in self._others.items():
            found = [state.get(name) for state in mine]
            if not _same(found, references):
                return None
            columns[_OPTIONAL[name]] = found
            if name == "step":
                columns["history"] = [
                    None if step is None else v for step, v in zip(found, exp_avg_sqs, strict=True)
                ]
        each = [columns.get(name, repeat(None)) for name in Part._fields]
        parts = list(map(_new_part, zip(*each, strict=False)))
        if len(self._chosen) == 1:
            return dict.fromkeys(self._chosen, parts)
        return {backend: [parts[i] for i in mine] for backend, mine in self._chosen.items()}

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
    """Returns the facts on which a plan depends. Raises RuntimeError for gradients not dense.

    torch checks that a gradient has the shape of its parameter.
    """
    both = [*params, *grads]
    contiguous = list(map(Tensor.is_contiguous, both))  # faster than strides
    return (
        list(map(_SHAPE, params)),
        list(map(_DTYPE, both)),
        list(map(Tensor.get_device, both)),
        contiguous,
        [] if all(contiguous) else list(map(Tensor.stride, both)),
        list(map(type, grads)),
    )


def _nothing() -> None:
    """Returns None, like a reference to a tensor that the state of a parameter does not have."""


def _same(tensors: list[Any], references: list[Any]) -> bool:
    """Whether weak references refer to the given tensors."""
    return len(tensors) == len(references) and all(map(is_, tensors, map(call, references)))
