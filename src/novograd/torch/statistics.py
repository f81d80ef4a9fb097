"""Statistics of the last step, for each parameter."""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from novograd import statistics, variants
from novograd.statistics import LayerStatistics, Sums, of_parameter
from novograd.torch.groups import Member, members
from novograd.torch.layout import layout_of
from novograd.torch.moments import dequantised
from novograd.torch.norms import layer_norms, numbers_of
from novograd.torch.options import Options, changed, number_on
from novograd.torch.parts import Part, as_real, parts

if TYPE_CHECKING:
    from novograd.torch.optimizer import NovoGrad


@torch.no_grad()
def layer_statistics(optimizer: "NovoGrad") -> dict[str, LayerStatistics]:
    """Returns statistics of the last step, for each parameter that has taken a step.

    Call it after ``step``, before ``zero_grad``. If a gradient is not there any more, the share of
    clipped layers is NaN, and an update with Nesterov momentum counts without the gradient. A
    gradient must be unscaled: with a ``GradScaler``, call its ``unscale_`` before the step.

    It costs nothing while it is not called. A call reads the parameters, their gradients and their
    state once, and then waits for the device once. If parameters are DTensors, all processes must
    call it: the pieces of one parameter after the other are gathered.

    Args:
        optimizer: The optimizer.

    Returns:
        The statistics by the names of the parameters. Parameters without names are called ``0.1``:
        the numbers of the parameter group and of the parameter in it.

    Raises:
        TypeError: If ``optimizer`` is not a ``novograd.torch.NovoGrad``.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = NovoGrad([("w", w)], lr=0.5)
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> optimizer.step()
        >>> found = layer_statistics(optimizer)["w"]
        >>> found.root_v, round(found.weight_norm, 4), round(found.update_ratio, 4)
        (5.0, 1.7464, 0.2863)
    """
    groups: Any = getattr(optimizer, "_groups", None)
    if groups is None:
        raise TypeError(
            "optimizer must be a novograd.torch.NovoGrad, got an object of type "
            f"{type(optimizer).__name__}"
        )
    groups.refresh(optimizer.param_groups)
    found: dict[str, Sums] = {}
    for number, group in enumerate(optimizer.param_groups):
        for member in members(number, group):
            state = optimizer.state.get(member.param)
            if state:
                name = member.name or f"{number}.{member.position}"
                found[name] = _sums(member, state, groups.layers_of(number, group))
    if not found:
        return {}
    device = next(iter(found.values())).v.device
    # The host waits for the device only here.
    totals = torch.stack([torch.stack(sums[:5]).double().to(device) for sums in found.values()])
    return {
        name: of_parameter(of_each, found[name].layers)
        for name, of_each in zip(found, totals.tolist(), strict=True)
    }


def _sums(member: Member, state: dict[str, Any], layers: Any) -> Sums:
    """Returns the sums of a parameter that has a state."""
    variant = variants.get(member.group["variant"])
    layers = variant.layers if layers is None else layers
    w, m, v = map(_whole, (member.param, state["exp_avg"], state["exp_avg_sq"]))
    if "exp_avg_scale" in state:
        m = dequantised(m, _whole(state["exp_avg_scale"]), v.dtype)
    g = w if member.param.grad is None else _whole(member.param.grad)
    largest = state.get("max_exp_avg_sq")
    layout = layout_of(layers, member.name, w)
    whole = Part(w, g, m, v, layout.scale, maximum=None if largest is None else _whole(largest))
    lr = number_on(v.device, member.group["lr"], v.dtype).reshape(())
    options = changed(cast(Options, member.group), lr=lr)
    before = number_on(v.device, state.get("step", 1), v.dtype) - 1
    numbers = numbers_of(options, before, floor=torch.finfo(v.dtype).tiny)
    has_gradient = member.param.grad is not None

    def of_part(part: Part) -> Sums:
        g = part.grad.to(v.dtype) if has_gradient else None
        return statistics.sums(
            part.param.to(v.dtype),
            part.exp_avg.to(v.dtype),
            g,
            None if g is None else layer_norms(g, part.exp_avg_sq.shape, v.dtype, options),
            part.exp_avg_sq,
            part.maximum,
            numbers,
            scale=part.scale,
            nesterov=options["nesterov"],
            xp=torch,
        )

    return statistics.added(of_part(as_real(part)) for part in parts(whole, layout.cuts))


def _whole(x: Tensor) -> Tensor:
    """Returns the whole tensor; the pieces of a DTensor are gathered."""
    return x.full_tensor() if isinstance(x, DTensor) else x
