"""The state of a parameter: creates it, adapts its dtypes to the weights, and checks it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

# torch keeps its foreach operations private and stable: its own optimizers are made of them.
# pyright: reportPrivateImportUsage=false
import torch
from torch import Tensor

from novograd import variants
from novograd.torch import sharding
from novograd.torch.groups import Group, Member
from novograd.torch.layout import ParameterLayout
from novograd.torch.norms import compute_dtype
from novograd.torch.parts import Part

# The second moments, which have the dtype of the arithmetic.
SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq")


def state_shapes(group: Group, param: Tensor, layout: ParameterLayout) -> dict[str, torch.Size]:
    """Returns the names of the tensors in the state of a parameter, and their shapes.

    Example:
        >>> from novograd.torch.layout import layout_of
        >>> w = torch.zeros(2, 3)
        >>> list(state_shapes({"variant": "apex"}, w, layout_of(None, None, w)))
        ['exp_avg', 'exp_avg_sq', 'step']
    """
    variant = variants.get(group["variant"])
    shapes = {"exp_avg": param.shape, "exp_avg_sq": layout.v_shape}
    if variant.amsgrad:
        shapes["max_exp_avg_sq"] = layout.v_shape
    if variant.counts:
        shapes["step"] = torch.Size()
    return shapes


def new_state(group: Group, param: Tensor, layout: ParameterLayout) -> dict[str, Tensor]:
    """Returns the state of a parameter of a group before its first step.

    Example:
        >>> from novograd.torch.layout import layout_of
        >>> w = torch.ones(2)
        >>> new_state({"variant": "nvidia"}, w, layout_of(None, None, w))
        {'exp_avg': tensor([0., 0.]), 'exp_avg_sq': tensor(0.)}
    """
    state = {}
    for name in state_shapes(group, param, layout):
        if name in SECOND_MOMENTS:
            state[name] = layout.new_second_moment(param)
        elif name == "step":
            state[name] = _new_count(0.0, param)
        else:
            state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
    return state


def match_dtypes(state: dict[str, Any], param: Tensor) -> None:
    """Converts the state of a parameter to the dtypes for its weights.

    The dtype of weights changes by ``Module.double()``, for example. A count of steps may have been
    loaded as a Python number.

    Example:
        >>> state = {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.tensor(1.0), "step": 3}
        >>> match_dtypes(state, torch.zeros(2, dtype=torch.float64))
        >>> state["exp_avg_sq"], state["step"]
        (tensor(1., dtype=torch.float64), tensor(3.))
    """
    v, wide = state.get("exp_avg_sq"), compute_dtype(param.dtype)
    if isinstance(v, Tensor) and v.dtype != wide:
        state["exp_avg"] = state["exp_avg"].to(param.dtype)
        for name in SECOND_MOMENTS:
            if name in state:
                state[name] = state[name].to(wide)
    if not isinstance(state.get("step"), Tensor | None):
        state["step"] = _new_count(float(state["step"]), param)


def problem(
    state: dict[str, Any], group: Group, param: Tensor, layout: ParameterLayout
) -> str | None:
    """Returns why the state of a parameter cannot be used, or None if it can.

    Example:
        >>> from novograd.torch.layout import layout_of
        >>> w = torch.zeros(2, 3)
        >>> problem({"exp_avg": w}, {"variant": "nvidia"}, w, layout_of(None, None, w))
        "it has no 'exp_avg_sq'"
    """
    for name, shape in state_shapes(group, param, layout).items():
        value = state.get(name)
        if value is None:
            return f"it has no {name!r}"
        if value.shape != shape:
            return f"{name!r} must have shape {tuple(shape)}, got {tuple(value.shape)}"
        if name != "step" and value.device != param.device:
            return f"{name!r} must be on {param.device} like the parameter, got {value.device}"
    return None


def state_of(
    member: Member, layout: ParameterLayout, states: Mapping[Tensor, Any]
) -> dict[str, Any]:
    """Returns the state of a parameter, in the right dtypes. Before the first step it is empty.

    Args:
        member: The parameter.
        layout: Where the layers of the parameter are.
        states: The state of the optimizer.

    Raises:
        RuntimeError: If the state cannot be used.

    Example:
        >>> from novograd.torch.layout import layout_of
        >>> w = torch.zeros(2)
        >>> member = Member(w, {"params": [w], "variant": "nvidia"}, 0, 0)
        >>> state_of(member, layout_of(None, None, w), {w: {"exp_avg": w}})
        Traceback (most recent call last):
            ...
        RuntimeError: NovoGrad cannot use the state of parameter 0 of param_groups[0]: it has no \
'exp_avg_sq'
    """
    state = states.get(member.param, {})
    if state:
        match_dtypes(state, member.param)
        found = problem(state, member.group, member.param, layout)
        if found:
            raise RuntimeError(f"NovoGrad cannot use the state of parameter {member}: {found}")
    return state


def whole_part(
    param: Tensor, grad: Tensor, scale: float, state: dict[str, Any], square: Tensor | None = None
) -> Part:
    """Returns the local piece of a parameter and of its state as a part.

    Example:
        >>> w, v = torch.zeros(2), torch.tensor(0.0)
        >>> whole_part(w, torch.ones(2), 1.0, {"exp_avg": torch.zeros(2), "exp_avg_sq": v}).grad
        tensor([1., 1.])
    """
    local = sharding.local
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


def count(parts: Sequence[Part], lr: float | Tensor, found_inf: Tensor | None = None) -> None:
    """Adds 1 to the ``step`` of each part, or 0 if ``found_inf`` is not 0.

    A first step with learning rate 0 and zero gradients does not count either: programs take such
    a step to create the state before they load or save it.

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
        taken = [~_is_unchanged(part, lr) for part in parts]
    if found_inf is not None:
        taken = [(found_inf == 0).to(step.device) * x for step, x in zip(steps, taken, strict=True)]
    if all(isinstance(x, float) for x in taken):
        torch._foreach_add_(steps, 1)
    else:
        torch._foreach_add_(steps, [x.to(s.dtype) for s, x in zip(steps, taken, strict=True)])


def _is_unchanged(part: Part, lr: float | Tensor) -> Tensor:
    """Whether a step was a first step that changed nothing: 0-d, on the device of ``step``."""
    history, step = cast(Any, part.history), cast(Tensor, part.step)
    largest = history.amax() if history.numel() else history.sum()
    if sharding.is_sharded(largest):
        largest = largest.full_tensor()
    lr = lr.squeeze().to(step.device) if isinstance(lr, Tensor) else lr
    return (step == 0) & (largest.to(step.device) == 0) & (lr == 0)


def _new_count(steps: float, param: Tensor) -> Tensor:
    """Returns a number of steps as a tensor on the device of a parameter."""
    return torch.full((), steps, dtype=torch.float32, device=sharding.local(param).device)
