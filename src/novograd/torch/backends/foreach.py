"""The foreach backend: updates many tensors at once with few launches and little memory.

The rule computes the scalars of all layers together. The linear pass implements
``novograd.rule.linear_pass`` again, in place, with torch's foreach operations. It needs no
temporary memory, except with half-precision weights, ``nesterov``, ``skip_nonfinite`` or a momentum
buffer in bfloat16: then it needs as much as the gradients. With a momentum buffer in 8 bits, or
weights that are rounded at random, it needs several times as much, while it rounds the largest
parameter.
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
from novograd.torch import moments
from novograd.torch.backends import PreparedStep, Scaling
from novograd.torch.backends.eager import square_sums
from novograd.torch.norms import advance, layer_norms
from novograd.torch.options import Options
from novograd.torch.parts import Part, as_real
from novograd.torch.rounding import rounds_weights, store_weights

UNSCALES = False


def problem(part: Part, _options: Options) -> str | None:
    """Returns why foreach operations do not support a part, or None if they do."""
    plain = type(part.param) in (Tensor, Parameter)
    return None if plain else "it is a tensor subclass"


def prepare(
    parts: Sequence[Part],
    options: Options,
    _scaling: Scaling | None = None,
    _memo: dict[str, Any] | None = None,
) -> PreparedStep:
    """Returns the step of parts that have no ``problem`` (see ``Backend``)."""
    real = list(map(as_real, parts))
    return PreparedStep(partial(square_sums, real), partial(step, real, options))


def step(parts: Sequence[Part], options: Options) -> None:
    """Updates real parameters and their state in place; computes in the dtype of ``exp_avg_sq``.

    The arguments are the same as in ``novograd.torch.backends.eager.step``.

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
        w, g, m, v, *_ = part
        alike[w.device, w.dtype, g.dtype, m.dtype, v.dtype].append(part)
    for group in alike.values():
        _step_alike(group, options)


def _step_alike(parts: Sequence[Part], options: Options) -> None:
    """Takes the step of parts with the same device and dtypes."""
    ws, gs, ms, vs = (list(column) for column in list(zip(*parts, strict=True))[:4])
    quantised = parts[0].exp_avg_scale is not None
    if quantised:
        ms = list(map(moments.wide, parts))
    rounds = rounds_weights(options, ws[0])
    if rounds:
        ws = [w.to(vs[0].dtype) for w in ws]
    # The rule computes the scalars of all layers as one tensor.
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
    whole = ws[0].dtype == gs[0].dtype == ms[0].dtype == vs[0].dtype
    if whole and keep is None and not options["nesterov"]:
        torch._foreach_mul_(ms, options["betas"][0])
        _add_(ms, gs, each.a)
        if _is_used(each.b):
            _add_(ms, ws, each.b)
        _subtract_(ws, ms, each)
    else:
        _step_with_temporary(ws, gs, ms, each, keep, vs[0].dtype, options)
    if quantised:
        for part, m, k in zip(parts, ms, keep or [None] * len(ms), strict=True):
            moments.store(part, m, k)
    if rounds:
        for part, w in zip(parts, ws, strict=True):
            store_weights(part, w, options)


def _step_with_temporary(
    ws: list[Tensor],
    gs: list[Tensor],
    ms: list[Tensor],
    scalars: Coefficients,
    keep: list[Tensor] | None,
    dtype: torch.dtype,
    options: Options,
) -> None:
    """Takes the linear pass with the temporary ``push = a*g + b*w``, which becomes the new ``m``.

    ``keep`` is False for each layer that must not change, because its gradient is not finite.
    """
    beta1 = options["betas"][0]
    kept = keep or [None] * len(ws)
    factors = scalars.a if isinstance(scalars.a, list) else [scalars.a] * len(ws)
    push = [_scaled(g, a, k, dtype) for g, a, k in zip(gs, factors, kept, strict=True)]
    if _is_used(scalars.b):
        _add_(push, ws, scalars.b)
    if options["nesterov"]:
        # Computes beta1*(beta1*m + push) + push for the weights, then beta1*m + push for m.
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
    """Returns ``a*g``, or zeros where ``keep`` is False, as a new tensor of ``dtype``."""
    if keep is not None:
        return torch.where(keep, g, 0.0).to(dtype).mul_(torch.where(keep, a, 0.0))
    return g * a if g.dtype == dtype else g.to(dtype).mul_(a)


def _is_used(scalar: float | list) -> bool:
    """Whether a scalar may differ from 0."""
    return isinstance(scalar, list) or scalar != 0


def _layer_norms(parts: Sequence[Part], options: Options) -> list[Tensor]:
    """Returns the values that each ``v`` averages, in the shape and dtype of ``v``."""
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
    """Returns the scales of all layers; one number if all are equal."""
    scales = [part.scale for part in parts]
    if len(set(scales)) == 1:
        return scales[0]
    vs = [part.exp_avg_sq for part in parts]
    return torch.cat([x.new_full((x.numel(),), scale) for x, scale in zip(vs, scales, strict=True)])


def _steps(parts: Sequence[Part]) -> Tensor | None:
    """Returns the number of earlier steps of each layer, or None if the variant counts none."""
    counts = [part.step.expand(part.exp_avg_sq.numel()) for part in parts if part.step is not None]
    return torch.cat(counts) if counts else None


def _for_each(values: Tensor, vs: Sequence[Tensor]) -> list[Tensor]:
    """Splits the values of all layers, or one value for all, into the shapes of ``vs``."""
    if not values.ndim:
        return [values] * len(vs)
    pieces = values.split([v.numel() for v in vs])
    return [piece.view(v.shape) for piece, v in zip(pieces, vs, strict=True)]


def _add_(targets: list[Tensor], tensors: list[Tensor], scale: float | Tensor | list) -> None:
    """Adds ``scale`` times the tensors; a list has one scale for each tensor."""
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
    """Sets targets to ``c*target - d*tensor``; where ``keep`` is False, they do not change."""
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
    # The temporary ensures that half-precision weights are rounded only once.
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
    """Returns for each tensor the scalar where ``keep`` is True, else ``other``."""
    each = scalar if isinstance(scalar, list) else [scalar] * len(keep)
    return [torch.where(k, x, other).to(y.dtype) for k, x, y in zip(keep, each, like, strict=True)]
