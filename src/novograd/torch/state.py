"""The state of a parameter: how it is made, follows its weights, and is checked and loaded."""

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, cast

# torch keeps its foreach operations private and stable: its own optimizers are made of them.
# pyright: reportPrivateImportUsage=false
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from novograd import variants
from novograd.torch import sharding
from novograd.torch.layout import Layout
from novograd.torch.norms import compute_dtype
from novograd.torch.parts import Part

# Second moments, which are in the precision of the arithmetic.
_SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq")


def new_state(group: dict[str, Any], param: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Returns the state of a parameter of a group before its first step.

    Example:
        >>> from novograd.torch.layout import layout_of
        >>> w = torch.zeros(2, 3)
        >>> list(new_state({"variant": "apex"}, w, layout_of(None, None, w)))
        ['exp_avg', 'exp_avg_sq', 'step']
    """
    variant, v = variants.get(group["variant"]), layout.new_second_moment(param)
    state = {
        "exp_avg": torch.zeros_like(param, memory_format=torch.preserve_format),
        "exp_avg_sq": v,
    }
    if variant.amsgrad:
        state["max_exp_avg_sq"] = layout.new_second_moment(param)
    if variant.counts:
        state["step"] = torch.zeros((), dtype=torch.float32, device=sharding.local(v).device)
    return state


def follow(state: dict[str, Any], param: Tensor) -> None:
    """Brings the state of a parameter into the dtypes that its weights ask for, if they changed.

    Weights change their dtype by ``Module.double()`` and the like. A count of steps may have been
    loaded as a Python number.

    Example:
        >>> state = {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.tensor(1.0), "step": 3}
        >>> follow(state, torch.zeros(2, dtype=torch.float64))
        >>> state["exp_avg_sq"], state["step"]
        (tensor(1., dtype=torch.float64), tensor(3.))
    """
    v, wide = state.get("exp_avg_sq"), compute_dtype(param.dtype)
    if isinstance(v, Tensor) and v.dtype != wide:
        state["exp_avg"] = state["exp_avg"].to(param.dtype)
        for name in _SECOND_MOMENTS:
            if name in state:
                state[name] = state[name].to(wide)
    if not isinstance(state.get("step"), Tensor | None):
        device = sharding.local(param).device
        state["step"] = torch.tensor(float(state["step"]), dtype=torch.float32, device=device)


def problem(
    state: dict[str, Any], group: dict[str, Any], param: Tensor, layout: Layout
) -> str | None:
    """Returns why the state of a parameter cannot be used, or None if it can.

    Example:
        >>> from novograd.torch.layout import layout_of
        >>> w = torch.zeros(2, 3)
        >>> problem({"exp_avg": w}, {"variant": "nvidia"}, w, layout_of(None, None, w))
        "it has no 'exp_avg_sq'"
    """
    variant = variants.get(group["variant"])
    shapes = [("exp_avg", param.shape), ("exp_avg_sq", layout.v_shape)]
    if variant.amsgrad:
        shapes.append(("max_exp_avg_sq", layout.v_shape))
    if variant.counts:
        shapes.append(("step", torch.Size()))
    for name, shape in shapes:
        value = state.get(name)
        if value is None:
            return f"it has no {name!r}"
        if value.shape != shape:
            return f"{name!r} must have shape {tuple(shape)}, got {tuple(value.shape)}"
        if name != "step" and value.device != param.device:
            return f"{name!r} must be on {param.device}, as the parameter, got {value.device}"
    return None


def check_loaded(
    state_dict: dict[str, Any], param_groups: list[dict[str, Any]], layout: Any
) -> None:
    """Checks that the state in a state dict fits the parameters.

    Args:
        state_dict: The state dict, of which the groups have been checked.
        param_groups: The groups that it is to be loaded into.
        layout: ``layout(group, index)`` of a parameter of these.

    Raises:
        ValueError: If it does not.
    """
    for theirs, key, ours, index in _paired(state_dict, param_groups):
        param, state = ours["params"][index], state_dict["state"].get(key, {})
        if not state or is_lazy(param):
            continue
        for name, like in new_state(theirs, param, layout(ours, index)).items():
            if name not in state:
                raise ValueError(
                    f"state_dict is not one of NovoGrad: no {name!r} for parameter {key!r}"
                )
            value = state[name]
            if name == "step" and isinstance(value, Real):
                continue
            if value.shape != like.shape:
                raise ValueError(
                    f"state_dict does not fit: {name!r} of parameter {key!r} must have "
                    f"shape {tuple(like.shape)}, got {tuple(value.shape)}"
                )
            if not sharding.is_alike(value, like):
                raise ValueError(
                    f"state_dict does not fit: {name!r} of parameter {key!r} is not sharded "
                    "as it is here; torch.distributed.checkpoint loads it"
                )


def restore(
    states: dict[Tensor, Any], state_dict: dict[str, Any], param_groups: list[dict[str, Any]]
) -> None:
    """Loads second moments anew: the base class has cast them to the dtype of the weights."""
    for _, key, ours, index in _paired(state_dict, param_groups):
        param, given = ours["params"][index], state_dict["state"].get(key, {})
        for name in _SECOND_MOMENTS:
            if name in given:
                states[param][name] = given[name].to(param.device, compute_dtype(param.dtype))
        if given:
            follow(states[param], param)


def _paired(
    state_dict: dict[str, Any], param_groups: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Any, dict[str, Any], int]]:
    """Pairs parameters of a state dict with those here, by position as the base class does.

    Yields a group of the state dict, a key in it, the group here, and an index in that.
    """
    for theirs, ours in zip(state_dict["param_groups"], param_groups, strict=False):
        for index, key in enumerate(theirs["params"][: len(ours["params"])]):
            yield theirs, key, ours, index  # the base class refuses other numbers of parameters


def count(parts: Sequence[Part], lr: float | Tensor, found_inf: Tensor | None = None) -> None:
    """Adds 1 to the ``step`` of each part, or nothing where ``found_inf`` is not 0.

    A first step with a learning rate of 0 and zero gradients does not count either: programs take
    it to make the state that they load or save.

    Example:
        >>> w, v, step = torch.zeros(2), torch.tensor(0.0), torch.tensor(0.0)
        >>> part = Part(w, w, w, v, step=step, history=v)
        >>> count([part], 0.0), step
        (None, tensor(0.))
        >>> count([part], 0.1), step
        (None, tensor(1.))
    """
    steps: list[Any] = [part.step for part in parts]
    taken: list[Any] = [1.0] * len(parts)
    if isinstance(lr, Tensor) or lr == 0:
        taken = [~_is_fresh(part, lr) for part in parts]
    if found_inf is not None:
        taken = [(found_inf == 0).to(step.device) * x for step, x in zip(steps, taken, strict=True)]
    if all(isinstance(x, float) for x in taken):
        torch._foreach_add_(steps, 1)
    else:
        torch._foreach_add_(steps, [x.to(s.dtype) for s, x in zip(steps, taken, strict=True)])


def _is_fresh(part: Part, lr: float | Tensor) -> Tensor:
    """Whether a parameter is, after a step, as it was before its first: 0-d, on its device."""
    history, step = cast(Any, part.history), cast(Tensor, part.step)
    largest = history.amax() if history.numel() else history.sum()
    if sharding.is_sharded(largest):
        largest = largest.full_tensor()
    lr = lr.squeeze().to(step.device) if isinstance(lr, Tensor) else lr
    return (step == 0) & (largest.to(step.device) == 0) & (lr == 0)
