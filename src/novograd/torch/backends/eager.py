"""The eager backend: uses the rule directly, one tensor at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from novograd import rule
from novograd.torch import moments
from novograd.torch.backends import PreparedStep, Scaling
from novograd.torch.norms import advance, layer_norms, squared_norms
from novograd.torch.options import Options
from novograd.torch.parts import Part, as_real
from novograd.torch.rounding import store_weights

UNSCALES = False


def problem(_part: Part, _options: Options) -> str | None:
    """Returns None, because this backend supports every part."""
    return None


def prepare(
    parts: Sequence[Part],
    options: Options,
    _scaling: Scaling | None = None,
    _memo: dict[str, Any] | None = None,
) -> PreparedStep:
    """Returns the step of parts (see ``Backend``)."""
    real = list(map(as_real, parts))
    return PreparedStep(partial(square_sums, real), partial(step, real, options))


def step(parts: Sequence[Part], options: Options) -> None:
    """Updates real parameters and their state in place; computes in the dtype of ``exp_avg_sq``.

    Args:
        parts: Tensors of any shapes, dtypes and devices.
        options: The hyperparameters.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w, m, v = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor(0.0)
        >>> options = NovoGrad([w], lr=0.5).param_groups[0]
        >>> step([Part(w, torch.tensor([3.0, 4.0]), m, v)], options)
        >>> w, v
        (tensor([0.7000, 1.6000]), tensor(25.))
    """
    for part in parts:
        param, grad, _, exp_avg_sq, scale, square, maximum, count, *_ = part
        w, g, m = param.to(exp_avg_sq.dtype), grad.to(exp_avg_sq.dtype), moments.wide(part)
        s = (
            layer_norms(g, exp_avg_sq.shape, g.dtype, options)
            if square is None
            else square.to(g.dtype)
        )
        v, largest, scalars = advance(s, exp_avg_sq, options, scale, maximum, count)
        new_w, new_m = rule.linear_pass(
            w, m, g, scalars, beta1=options["betas"][0], nesterov=options["nesterov"]
        )
        finite = s.isfinite() if options["skip_nonfinite"] else None
        if finite is not None:
            new_w, new_m = torch.where(finite, new_w, w), torch.where(finite, new_m, m)
        store_weights(part, new_w, options)
        moments.store(part, new_m, finite)
        exp_avg_sq.copy_(v)
        if maximum is not None and largest is not None:
            maximum.copy_(largest)


def square_sums(parts: Sequence[Part]) -> None:
    """Writes the squared norms of the local piece into ``square`` of each part that has it.

    Example:
        >>> g, v, square = torch.ones(2, 3), torch.zeros(2, 1), torch.empty(2, 1)
        >>> square_sums([Part(g, g, g, v, 1.0, square)])
        >>> square.flatten()
        tensor([3., 3.])
    """
    for part in parts:
        if part.square is not None:
            v = part.exp_avg_sq
            part.square.copy_(squared_norms(part.grad, v.shape, v.dtype))
