"""A step of many tensors at once, with torch's foreach operations: few launches, little memory.

The scalars of all layers are computed together by the rule. The linear pass is a second writing of
``novograd.rule.linear_pass`` (with c = d = 1), in place. It makes no temporary; but half-precision
weights, ``nesterov`` and ``skip_nonfinite`` take one as large as the gradients.
"""

from collections import defaultdict
from collections.abc import Sequence

# torch keeps its foreach operations private and stable: its own optimizers are made of them.
# pyright: reportPrivateImportUsage=false
import torch
from torch import Tensor

from novograd.rule import Coefficients
from novograd.torch.parts import Part
from novograd.torch.scalars import Options, advance, squared_norms


def step(parts: Sequence[Part], options: Options) -> None:
    """Updates real parameters and their state in place, in the precision of ``exp_avg_sq``.

    The arguments are those of ``novograd.torch.single_tensor.step``.

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
    s = torch.cat([x.reshape(-1) for x in _squared_norms(parts)])
    v, scalars = advance(s, torch.cat([x.reshape(-1) for x in vs]), options, _scales(parts))
    torch._foreach_copy_(vs, _for_each(v, vs))
    a, b = (_for_each(x, vs) if isinstance(x, Tensor) else x for x in scalars[:2])
    keep = _for_each(s.isfinite(), vs) if options["skip_nonfinite"] else None
    whole = ws[0].dtype == gs[0].dtype == vs[0].dtype
    if whole and keep is None and not options["nesterov"]:
        torch._foreach_mul_(ms, options["betas"][0])
        _add_(ms, gs, a)
        if _decays(options):
            _add_(ms, ws, b)
        torch._foreach_sub_(ws, ms)
    else:
        _step_with_temporary(ws, gs, ms, Coefficients(a, b, 1.0, 1.0), keep, vs[0].dtype, options)


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
    push = [_scaled(g, a, k, dtype) for g, a, k in zip(gs, scalars.a, kept, strict=True)]
    if _decays(options):
        _add_(push, ws, scalars.b)
    if options["nesterov"]:
        # beta1*(beta1*m + push) + push for the weights, and from it back to beta1*m + push.
        torch._foreach_mul_(push, 1 + beta1)
        _add_(push, ms, beta1**2)
        _subtract_(ws, push, keep)
        _add_(push, ms, beta1)
        torch._foreach_div_(push, 1 + beta1)
    else:
        _add_(push, ms, beta1)
        _subtract_(ws, push, keep)
    if keep is None:
        torch._foreach_copy_(ms, push)
    else:
        for m, new, k in zip(ms, push, keep, strict=True):
            m.copy_(torch.where(k, new, m))


def _scaled(g: Tensor, a: Tensor, keep: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Returns ``a*g``, or zeros where ``g`` may not be used, as a new tensor of ``dtype``."""
    if keep is not None:
        return torch.where(keep, g, 0.0).to(dtype).mul_(torch.where(keep, a, 0.0))
    return g * a if g.dtype == dtype else g.to(dtype).mul_(a)


def _decays(options: Options) -> bool:
    """Whether the weights enter the moment; True for whatever is not known to be 0."""
    decay = options["weight_decay"]
    return isinstance(decay, Tensor) or decay != 0


def _squared_norms(parts: Sequence[Part]) -> list[Tensor]:
    """Returns the squared norms of the layers, in the shapes and dtype of their v."""
    dtype = parts[0].exp_avg_sq.dtype
    gs = [part.grad for part in parts]
    if gs[0].device.type != "cpu" and all(
        p.square is None and not p.exp_avg_sq.ndim for p in parts
    ):
        return [norm.square() for norm in torch._foreach_norm(gs, 2, dtype)]
    return [
        squared_norms(part.grad, part.exp_avg_sq.shape, dtype)
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


def _subtract_(targets: list[Tensor], tensors: list[Tensor], keep: list[Tensor] | None) -> None:
    """Subtracts the tensors, from those targets only that ``keep`` names."""
    if keep is None:
        torch._foreach_sub_(targets, tensors)
    else:
        _add_(targets, tensors, [torch.where(k, -1.0, 0.0).to(tensors[0].dtype) for k in keep])
