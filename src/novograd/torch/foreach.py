"""A step of many tensors at once, with torch's foreach operations: few launches, little memory.

The scalars of all layers are computed together by the rule. The linear pass is a second writing of
``novograd.rule.linear_pass`` (with c = d = 1), in place. It makes no temporary; but half-precision
weights, ``nesterov`` and ``skip_nonfinite`` take one as large as the gradients.
"""

from collections import defaultdict

# torch keeps its foreach operations private and stable: its own optimizers are made of them.
# pyright: reportPrivateImportUsage=false
import torch
from torch import Tensor

from novograd.rule import Coefficients
from novograd.torch.scalars import Options, advance, squared_norm


def step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    options: Options,
) -> None:
    """Updates real parameters and their state in place, in the precision of ``exp_avg_sqs``.

    The arguments are those of ``novograd.torch.single_tensor.step``.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w, m, v = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor(0.0)
        >>> step([w], [torch.tensor([3.0, 4.0])], [m], [v], NovoGrad([w], lr=0.5).param_groups[0])
        >>> w, v
        (tensor([0.7000, 1.6000]), tensor(25.))
    """
    alike = defaultdict(lambda: ([], [], [], []))
    for w, g, m, v in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        ws, gs, ms, vs = alike[w.device, w.dtype, g.dtype, v.dtype]
        ws.append(w)
        gs.append(g)
        ms.append(m)
        vs.append(v)
    for layers in alike.values():
        _step_alike(*layers, options)


def _step_alike(
    ws: list[Tensor], gs: list[Tensor], ms: list[Tensor], vs: list[Tensor], options: Options
) -> None:
    """Takes the step of layers that agree in device and dtypes."""
    s = _squared_norms(gs, vs[0].dtype)
    v, scalars = advance(s, torch.stack(vs), options)
    torch._foreach_copy_(vs, list(v.unbind()))
    keep = s.isfinite() if options["skip_nonfinite"] else None
    whole = ws[0].dtype == gs[0].dtype == vs[0].dtype
    if whole and keep is None and not options["nesterov"]:
        torch._foreach_mul_(ms, options["betas"][0])
        _add_(ms, gs, scalars.a)
        if _decays(options):
            _add_(ms, ws, scalars.b)
        torch._foreach_sub_(ws, ms)
    else:
        _step_with_temporary(ws, gs, ms, scalars, keep, vs[0].dtype, options)


def _step_with_temporary(
    ws: list[Tensor],
    gs: list[Tensor],
    ms: list[Tensor],
    scalars: Coefficients,
    keep: Tensor | None,
    dtype: torch.dtype,
    options: Options,
) -> None:
    """Takes the linear pass by way of ``push = a*g + b*w``, which is then turned into the moment.

    ``keep`` says for each layer whether its gradient may be used: if not, nothing changes.
    """
    beta1 = options["betas"][0]
    kept = [None] * len(ws) if keep is None else keep.unbind()
    a = scalars.a if keep is None else torch.where(keep, scalars.a, 0.0)
    push = [_scaled(g, x, k, dtype) for g, x, k in zip(gs, a.unbind(), kept, strict=True)]
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
        for m, new, k in zip(ms, push, keep.unbind(), strict=True):
            m.copy_(torch.where(k, new, m))


def _scaled(g: Tensor, a: Tensor, keep: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Returns ``a*g``, or zeros if ``g`` may not be used, as a new tensor of ``dtype``."""
    if keep is not None:
        return torch.where(keep, g, 0.0).to(dtype).mul_(a)
    return g * a if g.dtype == dtype else g.to(dtype).mul_(a)


def _decays(options: Options) -> bool:
    """Whether the weights enter the moment; True for whatever is not known to be 0."""
    decay = options["weight_decay"]
    return isinstance(decay, Tensor) or decay != 0


def _squared_norms(gs: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Returns the squared norms of gradients on one device, 1-d."""
    if gs[0].device.type == "cpu":
        return torch.stack([squared_norm(g, dtype) for g in gs])
    return torch.stack(torch._foreach_norm(gs, 2, dtype)).square()


def _add_(targets: list[Tensor], tensors: list[Tensor], scale: float | Tensor) -> None:
    """Adds ``scale`` times the tensors; a 1-d scale has an element for each of them."""
    if isinstance(scale, Tensor):
        scales = list(scale.expand(len(targets)).unbind())
        torch._foreach_addcmul_(targets, tensors, scales)
    else:
        torch._foreach_add_(targets, tensors, alpha=scale)


def _subtract_(targets: list[Tensor], tensors: list[Tensor], keep: Tensor | None) -> None:
    """Subtracts the tensors, from those targets only that ``keep`` names."""
    if keep is None:
        torch._foreach_sub_(targets, tensors)
    else:
        _add_(targets, tensors, torch.where(keep, -1.0, 0.0).to(tensors[0].dtype))
