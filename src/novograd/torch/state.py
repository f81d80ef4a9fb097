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
from novograd.torch.moments import convert, moment_dtype, moment_shape, new_moment, new_scales
from novograd.torch.norms import compute_dtype
from novograd.torch.options import number_on
from novograd.torch.parts import Part
from novograd.torch.rounding import rounds_weights

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
    shapes = {"exp_avg": moment_shape(group, param), "exp_avg_sq": layout.v_shape}
    if variant.amsgrad:
        shapes["max_exp_avg_sq"] = layout.v_shape
    if layout.blocks is not None:
        shapes["exp_avg_scale"] = layout.blocks.shape
    if variant.counts or _needs_random_bits(group, param):
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
            state[name] = _count(0.0, param)
        elif name == "exp_avg_scale":
            state[name] = new_scales(param, layout)
        else:
            state[name] = new_moment(group, param)
    return state


def match_dtypes(
    state: dict[str, Any], group: Group, param: Tensor, layout: ParameterLayout
) -> None:
    """Converts the state of a parameter to the dtypes for its weights and its group.

    The dtype of weights changes by ``Module.double()``, for example. The dtype of the momentum
    buffer changes by an edit of the group, or if a file has another one. A count of steps may have
    been loaded as a Python number. If the count is only needed for random bits, it begins with 0.
    If it is not needed, it is removed.

    Example:
        >>> from novograd.torch.layout import layout_of
        >>> state = {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.tensor(1.0), "step": 3}
        >>> w = torch.zeros(2, dtype=torch.float64)
        >>> match_dtypes(state, {"variant": "apex"}, w, layout_of(None, None, w))
        >>> state["exp_avg_sq"], state["step"]
        (tensor(1., dtype=torch.float64), tensor(3.))
    """
    wide = compute_dtype(param.dtype)
    for name in SECOND_MOMENTS:
        if isinstance(state.get(name), Tensor) and state[name].dtype != wide:
            state[name] = state[name].to(wide)
    if isinstance(state.get("exp_avg"), Tensor) and "exp_avg_sq" in state:
        convert(state, group, param, layout)
    if _needs_random_bits(group, param):
        state.setdefault("step", 0.0)
    elif not variants.get(group["variant"]).counts:
        state.pop("step", None)
    if "step" in state:
        state["step"] = _count(state["step"], param)


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
    return dtype_problem(state["exp_avg"], group, param)


def dtype_problem(moment: Tensor, group: Group, param: Tensor) -> str | None:
    """Returns why the dtype of a momentum buffer is wrong, or None if it can be used.

    Example:
        >>> q = torch.zeros(64, 64, dtype=torch.int8)
        >>> dtype_problem(q, {"moment_dtype": torch.bfloat16}, torch.zeros(64, 64))
        "'exp_avg' must have dtype torch.bfloat16, got torch.int8"
    """
    wanted = moment_dtype(group, param)
    if moment.dtype != wanted and torch.int8 in (moment.dtype, wanted):
        return f"'exp_avg' must have dtype {wanted}, got {moment.dtype}"
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
        match_dtypes(state, member.group, member.param, layout)
        found = problem(state, member.group, member.param, layout)
        if found:
            raise RuntimeError(f"NovoGrad cannot use the state of parameter {member}: {found}")
    return state


def whole_part(
    member: Member,
    grad: Tensor,
    layout: ParameterLayout,
    state: dict[str, Any],
    square: Tensor | None = None,
) -> Part:
    """Returns the local piece of a parameter and of its state as a part.

    Example:
        >>> from novograd.torch.layout import layout_of
        >>> w, v = torch.zeros(2), torch.tensor(0.0)
        >>> member = Member(w, {"params": [w], "variant": "nvidia"}, 0, 0)
        >>> state = {"exp_avg": torch.zeros(2), "exp_avg_sq": v}
        >>> whole_part(member, torch.ones(2), layout_of(None, None, w), state).grad
        tensor([1., 1.])
    """
    local, param = sharding.local, member.param
    maximum, step = state.get("max_exp_avg_sq"), state.get("step")
    return Part(
        local(param),
        grad,
        local(state["exp_avg"]),
        local(state["exp_avg_sq"]),
        layout.scale,
        square,
        None if maximum is None else local(maximum),
        step,
        None if step is None else state["exp_avg_sq"],
        None if layout.blocks is None else local(state["exp_avg_scale"]),
        layout.position if _needs_random_bits(member.group, param) else None,
    )


def count(
    parts: Sequence[Part], lr: float | Tensor | None, found_inf: Tensor | None = None
) -> None:
    """Adds 1 to the ``step`` of each part, or 0 if ``found_inf`` is not 0.

    If the rule depends on the count, a first step with learning rate 0 and zero gradients does not
    count either: programs take such a step to create the state before they load or save it.

    Args:
        parts: One part of each parameter.
        lr: The learning rate; None if the rule does not depend on the count.
        found_inf: The attribute that a ``GradScaler`` has set for this step.

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
    if isinstance(lr, Tensor) or (lr is not None and lr == 0):
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


def _count(steps: float | Tensor, param: Tensor) -> Tensor:
    """Returns a number of steps as a tensor on the device of a parameter."""
    return number_on(sharding.local(param).device, steps, torch.float32)


def _needs_random_bits(group: Group, param: Tensor) -> bool:
    """Whether the steps of a parameter round at random."""
    return moment_dtype(group, param) == torch.int8 or rounds_weights(group, param)
