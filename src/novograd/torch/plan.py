"""Which backend updates what, found out once and noticed when it changes."""

import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from novograd.native import require
from novograd.torch.backends import Backend, Scaling, Step, eager, foreach, native, triton
from novograd.torch.options import Options
from novograd.torch.parts import Part, parts
from novograd.torch.sharding import local
from novograd.torch.state import count

# The tensors of a state that not all variants have.
_OF_SOME_VARIANTS = ("max_exp_avg_sq", "step")
# Backends, and what each is to update.
Assignment = list[tuple[Backend, Part]]


def assign(group: dict[str, Any], rows: Iterable[tuple[Any, ...]]) -> Assignment:
    """Finds the backend for each part of some parameters of a group.

    Args:
        group: The parameter group.
        rows: For each parameter the fields of a ``Part``, and where it is cut.

    Raises:
        RuntimeError: If kernels are demanded that cannot take a part.
    """
    return [
        (_backend(group, part), part) for *whole, cuts in rows for part in parts(Part(*whole), cuts)
    ]


def steps(group: dict[str, Any], assigned: Assignment, scaling: Scaling | None) -> list[Step]:
    """Prepares the step of some parts of a group, one for each backend.

    Args:
        group: The parameter group.
        assigned: Of its parameters.
        scaling: What a ``GradScaler`` says of this step.
    """
    if not assigned:
        return []
    compiling = torch.compiler.is_compiling()
    options = _for_compiler(group) if compiling else cast(Options, group)
    taken: dict[Backend, list[Part]] = {}
    for backend, part in assigned:
        taken.setdefault(backend, []).append(part)
    ready = [backend.prepare(mine, options, scaling) for backend, mine in taken.items()]
    counts = {id(part.step): part for _, part in assigned if part.step is not None}
    if counts:
        # Last, and once for all parts of a parameter.
        found_inf = scaling.found_inf if scaling else None
        take = partial(count, list(counts.values()), options["lr"], found_inf)
        ready.append(Step(lambda: None, take))
    return ready


class _Kept(NamedTuple):
    """What a plan keeps of a parameter and its part.

    Its state is referred to weakly, so that it is freed when the optimizer drops it. Of the
    parameter there is not even a weak reference, since torch exchanges the contents of tensors, as
    ``Module.to`` does with DTensors, only where there is none.
    """

    kind: tuple[Any, ...]
    backend: Backend
    scale: float
    exp_avg: Any
    exp_avg_sq: Any
    others: tuple[tuple[str, Any], ...]


class Plan:
    """What takes which part in a step of a group, to be used again in the next.

    Most steps are like the one before, but for the memory of the gradients. To see that takes a
    fraction of the time that it takes to find everything out.

    Args:
        group: The parameter group.
        layers: Its layers.
        assigned: What was assigned in it.
        states: The state of the optimizer.

    Example:
        >>> from novograd.torch import NovoGrad
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
        group: dict[str, Any],
        layers: Any,
        assigned: Assignment,
        states: Mapping[Tensor, Any],
    ) -> None:
        """Keeps an assignment, if each part is a whole parameter."""
        self._kept: list[_Kept] = []
        trained = [param for param in group["params"] if param.grad is not None]
        whole = len(assigned) == len(trained) and all(
            part.param is param for (_, part), param in zip(assigned, trained, strict=True)
        )
        if whole:
            self._layers = layers
            self._options = [group[name] for name in _DECISIVE]
            self._params = list(map(id, group["params"]))
            self._kept = [
                _Kept(
                    _kind(part.param, part.grad),
                    backend,
                    part.scale,
                    weakref.ref(part.exp_avg),
                    weakref.ref(part.exp_avg_sq),
                    tuple(
                        (name, weakref.ref(states[part.param][name]))
                        for name in _OF_SOME_VARIANTS
                        if name in states[part.param]
                    ),
                )
                for backend, part in assigned
            ]

    def recall(
        self, group: dict[str, Any], layers: Any, states: Mapping[Tensor, Any]
    ) -> Assignment | None:
        """Returns what is assigned in this step; None if it is not like the one that was kept."""
        params = group["params"]
        trained = [param for param in params if param.grad is not None]
        if (
            not trained
            or len(trained) != len(self._kept)
            or list(map(id, params)) != self._params
            or layers is not self._layers
            or any(group[name] is not x for name, x in zip(_DECISIVE, self._options, strict=True))
        ):
            return None
        assigned = []
        for param, kept in zip(trained, self._kept, strict=True):
            grad, state = cast(Tensor, param.grad), states[param]
            exp_avg, exp_avg_sq = state.get("exp_avg"), state.get("exp_avg_sq")
            if (
                exp_avg is None
                or exp_avg is not kept.exp_avg()
                or exp_avg_sq is not kept.exp_avg_sq()
                or _kind(param, grad) != kept.kind
            ):
                return None
            part = Part(param, grad, exp_avg, exp_avg_sq, kept.scale)
            if kept.others:
                if any(name not in state or state[name] is not x() for name, x in kept.others):
                    return None
                maximum, step = map(state.get, _OF_SOME_VARIANTS)
                history = None if step is None else exp_avg_sq
                part = part._replace(maximum=maximum, step=step, history=history)
            assigned.append((kept.backend, part))
        return assigned


def whole_part(
    param: Tensor, grad: Tensor, scale: float, state: dict[str, Any], square: Tensor | None = None
) -> Part:
    """Returns a parameter as a part, with what is here of it and of its state.

    Example:
        >>> w, v = torch.zeros(2), torch.tensor(0.0)
        >>> whole_part(w, torch.ones(2), 1.0, {"exp_avg": torch.zeros(2), "exp_avg_sq": v}).grad
        tensor([1., 1.])
    """
    maximum, step = state.get("max_exp_avg_sq"), state.get("step")
    return Part(
        local(param),
        grad,
        local(state["exp_avg"]),
        local(state["exp_avg_sq"]),
        scale,
        square,
        None if maximum is None else local(maximum),
        step,
        None if step is None else state["exp_avg_sq"],
    )


# The options on which it depends what updates a parameter.
_DECISIVE = ("variant", "foreach", "fused", "stochastic_rounding")


def _kind(param: Tensor, grad: Tensor) -> tuple[Any, ...]:
    """Returns what matters of a parameter and its gradient beside where in memory they are."""
    if grad.layout is not torch.strided:
        return ()
    about = param.dtype, param.device, param.shape, param.stride()
    return *about, type(grad), grad.dtype, grad.device, grad.stride()


def _backend(group: dict[str, Any], part: Part) -> Backend:
    """Returns the backend that updates a part."""
    candidates = _candidates(group, part.param.device)
    problem = None
    for backend in candidates:
        problem = backend.problem(part, cast(Options, group))
        if problem is None:
            return backend
    if group["fused"]:  # while compiled; else checked before
        raise RuntimeError(f"fused=True is not possible: {problem}")
    return candidates[-1]


def _candidates(group: dict[str, Any], device: torch.device) -> list[Backend]:
    """Returns the backends that the options of a group allow, the best first."""
    if group["fused"]:
        return [kernels_for(device)]
    if group["foreach"] is not None:
        return [foreach if group["foreach"] else eager]
    others: list[Backend] = [foreach, eager]
    return [kernels_for(device), *others] if group["fused"] is None else others


def wants_kernels(group: dict[str, Any]) -> bool:
    """Whether kernels are to update what they can of a group."""
    return group["foreach"] is None if group["fused"] is None else group["fused"]


def kernels_for(device: torch.device) -> Backend:
    """Returns the backend of the kernels for a device."""
    return triton if triton.takes(device) else native


def require_kernels(fused: bool | None, params: Iterable[Tensor]) -> None:
    """Raises RuntimeError if kernels are demanded of parameters that need those for the CPU."""
    if fused and not all(triton.takes(param.device) for param in params):
        require()


def _for_compiler(group: dict[str, Any]) -> Options:
    """Puts the numbers of a group that may change from step to step into 0-d tensors.

    A number that has changed once becomes an input of the compiled step. But where one operation
    takes it as an argument, as add does alpha, Inductor fixes its value everywhere, without a
    guard (seen in torch 2.13). float64 keeps 1 - beta2 as exact as it is between numbers.
    """
    one = torch.ones((), dtype=torch.float64, device=group["params"][0].device)
    beta1, beta2 = group["betas"]
    numbers = {
        "lr": group["lr"] if isinstance(group["lr"], Tensor) else group["lr"] * one,
        "betas": (beta1 * one, beta2 * one),
        # Without decay its part of the step is left out.
        "weight_decay": group["weight_decay"] * one if group["weight_decay"] else 0.0,
    }
    return cast(Options, group | numbers)
