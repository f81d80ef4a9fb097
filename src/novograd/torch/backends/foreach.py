"""A step of many tensors at once, with torch's foreach operations: few launches, little memory.

The scalars of all layers are computed together by the rule. The linear pass is a second writing of
``novograd.rule.linear_pass``, in place. It makes no temporary; but half-precision weights,
``nesterov`` and ``skip_nonfinite`` take one as large as the gradients.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

# torch keeps its foreach operations private and stable: its own optimizers are made of them.
# pyright: reportPrivateImportUsage=false
import torch
from torch import Tensor
from torch.nn import Parameter

from novograd import variants
from novograd.rule import Coefficients
from novograd.torch.backends import Scaling, Step
from novograd.torch.backends.eager import square_sums
from novograd.torch.norms import advance, layer_norms
from novograd.torch.options import Options
from novograd.torch.parts import Part, as_real

UNSCALES = False


def problem(part: Part, _options: Options) -> str | None:
    """Returns why the operations are no good for a part, or None if they are."""
    plain = type(part.param) in (Tensor, Parameter)
    return None if plain else "it is a tensor subclass"


def prepare(parts: Sequence[Part], options: Options, _scaling: Scaling | None = None) -> Step:
    """Returns the step of parts without a problem, as ``novograd.torch.backends`` has it."""
    real = list(map(as_real, parts))
    return Step(partial(square_sums, real), partial(step, real, options))


def step(parts: Sequence[Part], options: Options) -> None:
    """Updates real parameters and their state in place, in the precision of ``exp_avg_sq``.

    The arguments are those of ``novograd.torch.backends.eager.step``.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w, m, v = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor(0.0)
        >>> options = NovoGrad([w], lr=0.5).param_groups[0]
        >>> step([Part(w, torch.tensor([3.0, 4.0]), m, v)], options)
        >>> w, v
        (tensor([0.7000, 1.6000]), tensor(25.))
    """
    alike = defaultdict(list)
    for part in parts:
        w, g, _, v, *_ = part
        alike[w.device, w.dtype, g.dtype, v.dtype].append(part)
    for group in alike.values():
        _step_alike(group, options)


def _step_alike(parts: Sequence[Part], options: Options) -> None:
    """Takes the step of tensors that agree in device and dtypes."""
    ws, gs, ms, vs = (list(column) for column in list(zip(*parts, strict=True))[:4])
    # The scalars of all layers are computed in one piece.
    s = torch.cat([x.reshape(-1) for x in _layer_norms(parts, options)])
    maxima = [part.maximum for part in parts if part.maximum is not None]
    v, largest, scalars = advance(
        s,
        torch.cat([x.reshape(-1) for x in vs]),
        options,
        _scales(parts),
        torch.cat([x.reshape(-1) for x in maxima]) if maxima else None,
        _steps(parts),
    )
    torch._foreach_copy_(vs, _for_each(v, vs))
    if largest is not None:
        torch._foreach_copy_(maxima, _for_each(largest, vs))
    each = Coefficients(*(_for_each(x, vs) if isinstance(x, Tensor) else x for x in scalars))
    keep = _for_each(s.isfinite(), vs) if options["skip_nonfinite"] else None
    whole = ws[0].dtype == gs[0].dtype == vs[0].dtype
    if whole and keep is None and not options["nesterov"]:
        torch._foreach_mul_(ms, options["betas"][0])
        _add_(ms, gs, each.a)
        if _is_used(each.b):
            _add_(ms, ws, each.b)
        _subtract_(ws, ms, each)
    else:
        _step_with_temporary(ws, gs, ms, each, keep, vs[0].dtype, options)


def _step_with_temporary(
    ws: list[Tensor],
    gs: list[Tensor],
    ms: list[Tensor],
    scalars: Coefficients,
    keep: list[Tensor] | None,
    dtype: torch.dtype,
    options: Options,
) -> None:
    """Takes the linear pass by way of ``push = a*g + b*w``, which is then turned into the moment.

    ``keep`` says for each layer whether its gradient may be used: if not, nothing changes.
    """
    beta1 = options["betas"][0]
    kept = keep or [None] * len(ws)
    factors = scalars.a if isinstance(scalars.a, list) else [scalars.a] * len(ws)
    push = [_scaled(g, a, k, dtype) for g, a, k in zip(gs, factors, kept, strict=True)]
    if _is_used(scalars.b):
        _add_(push, ws, scalars.b)
    if options["nesterov"]:
        # beta1*(beta1*m + push) + push for the weights, and from it back to beta1*m + push.
        torch._foreach_mul_(push, 1 + beta1)
        _add_(push, ms, beta1**2)
        _subtract_(ws, push, scalars, keep)
        _add_(push, ms, beta1)
        torch._foreach_div_(push, 1 + beta1)
    else:
        _add_(push, ms, beta1)
        _subtract_(ws, push, scalars, keep)
    if keep is None:
        torch._foreach_copy_(ms, push)
    else:
        for m, new, k in zip(ms, push, keep, strict=True):
            m.copy_(torch.where(k, new, m))


def _scaled(g: Tensor, a: float | Tensor, keep: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Returns ``a*g``, or zeros where ``g`` may not be used, as a new tensor of ``dtype``."""
    if keep is not None:
        return torch.where(keep, g, 0.0).to(dtype).mul_(torch.where(keep, a, 0.0))
    return g * a if g.dtype == dtype else g.to(dtype).mul_(a)


def _is_used(scalar: float | list) -> bool:
    """Whether a scalar may be other than 0."""
    return isinstance(scalar, list) or scalar != 0


def _layer_norms(parts: Sequence[Part], options: Options) -> list[Tensor]:
    """Returns what the v of the layers average, in their shapes and dtype."""
    dtype = parts[0].exp_avg_sq.dtype
    gs = [part.grad for part in parts]
    if (
        gs[0].device.type != "cpu"
        and variants.get(options["variant"]).norm == "l2"
        and all(p.square is None and not p.exp_avg_sq.ndim for p in parts)
    ):
        return [norm.square() for norm in torch._foreach_norm(gs, 2, dtype)]
    return [
        layer_norms(part.grad, part.exp_avg_sq.shape, dtype, options)
        if part.square is None
        else part.square.to(dtype)
        for part in parts
    ]


def _scales(parts: Sequence[Part]) -> float | Tensor:
    """Returns the scales of the steps of all layers, as one number where it is one."""
    scales = [part.scale for part in parts]
    if len(set(scales)) == 1:
        return scales[0]
    vs = [part.exp_avg_sq for part in parts]
    return torch.cat([x.new_full((x.numel(),), scale) for x, scale in zip(vs, scales, strict=True)])


def _steps(parts: Sequence[Part]) -> Tensor | None:
    """Returns how many steps each layer has taken, where that is counted."""
    counts = [part.step.expand(part.exp_avg_sq.numel()) for part in parts if part.step is not None]
    return torch.cat(counts) if counts else None


def _for_each(values: Tensor, vs: Sequence[Tensor]) -> list[Tensor]:
    """Cuts the values of all layers, or one for all, into pieces in the shapes of ``vs``."""
    if not values.ndim:
        return [values] * len(vs)
    pieces = values.split([v.numel() for v in vs])
    return [piece.view(v.shape) for piece, v in zip(pieces, vs, strict=True)]


def _add_(targets: list[Tensor], tensors: list[Tensor], scale: float | Tensor | list) -> None:
    """Adds ``scale`` times the tensors; a list has one for each of them, for its layers."""
    if isinstance(scale, Tensor):
        scale = [scale] * len(targets)
    if isinstance(scale, list):
        torch._foreach_addcmul_(targets, tensors, scale)
    else:
        torch._foreach_add_(targets, tensors, alpha=scale)


def _subtract_(
    targets: list[Tensor],
    tensors: list[Tensor],
    scalars: Coefficients,
    keep: list[Tensor] | None = None,
) -> None:
    """Makes ``c*target - d*tensor`` of the targets, or of those only that ``keep`` names."""
    c, d = scalars.c, scalars.d
    if keep is not None:
        c = c if _is_one(c) else _where(keep, c, 1.0, tensors)
        d = _where(keep, d, 0.0, tensors)
    if _is_one(c) and _is_one(d):
        torch._foreach_sub_(targets, tensors)
        return
    minus_d = [-x for x in d] if isinstance(d, list) else -d
    if _is_one(c):
        _add_(targets, tensors, minus_d)
        return
    # Half-precision weights are rounded once.
    half = targets[0].dtype != tensors[0].dtype
    new = [x.to(tensors[0].dtype) for x in targets] if half else targets
    torch._foreach_mul_(new, c)
    _add_(new, tensors, minus_d)
    if half:
        torch._foreach_copy_(targets, new)


def _is_one(scalar: float | list) -> bool:
    """Whether a scalar is known to be 1."""
    return not isinstance(scalar, list) and scalar == 1


def _where(keep: list[Tensor], scalar: Any, other: float, like: list[Tensor]) -> list[Tensor]:
    """Returns the scalar where it is kept, for each tensor."""
    each = scalar if isinstance(scalar, list) else [scalar] * len(keep)
    return [torch.where(k, x, other).to(y.dtype) for k, x, y in zip(keep, each, like, strict=True)]
