"""The native backend: updates all CPU tensors with one call of the native kernels.

The kernels in ``csrc/`` implement the rule again. Their numbers come from ``novograd.rule``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from operator import is_not
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from novograd import native, variants
from novograd.torch.backends import PreparedStep, Scaling
from novograd.torch.backends.eager import square_sums
from novograd.torch.memory import addresses
from novograd.torch.norms import advance, layer_norms, numbers_of
from novograd.torch.options import Options, changed
from novograd.torch.parts import Grid, Part, Rows, as_real, column, grid_of, in_memory, rows_of
from novograd.torch.rounding import rounds_weights

UNSCALES = False
# The tensors that a step changes.
_CHANGED = ("param", "exp_avg", "exp_avg_sq", "exp_avg_scale")
# Whether a value is not None, as a function of C, which is faster than one of Python.
_is_given = partial(is_not, None)
# Complex numbers are treated as pairs of real numbers.
_REAL = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}
_KINDS = (
    {tuple(getattr(torch, name) for name in kind): i for i, kind in enumerate(native.kernels.KINDS)}
    if native.kernels
    else {}
)
_KINDS |= {
    (pairs, pairs, pairs if moment is None else moment): _KINDS[real, real, moment or real]
    for pairs, real in _REAL.items()
    for moment in (None, torch.int8, torch.bfloat16)
    if _KINDS
}


def problem(part: Part, options: Options) -> str | None:
    """Returns why the kernels do not support a part, or None if they do.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w = torch.zeros(4, 6)[:, ::2]
        >>> problem(Part(w, w, w, torch.tensor(0.0)), NovoGrad([w]).param_groups[0])
        'it is not contiguous, or its memory layout differs from that of its gradient or state'
    """
    param, grad, exp_avg, *_ = part
    if native.PROBLEM:
        return native.PROBLEM
    if not param.is_cpu:
        return f"it is on {param.device}, and the kernels are for the CPU"
    if type(param) not in (Tensor, Parameter) or type(grad) is not Tensor:
        return "it or its gradient is a tensor subclass"
    if (param.dtype, grad.dtype, exp_avg.dtype) not in _KINDS:
        return (
            f"there is no kernel for {param.dtype} with a gradient of {grad.dtype} and a momentum "
            f"buffer of {exp_avg.dtype}"
        )
    if torch.compiler.is_compiling():
        variant = variants.get(options["variant"])
        if variant.counts or variant.amsgrad or variant.norm == "inf":
            return f"torch.compile does not support the kernels for variant {variant.name!r}"
        if param.is_complex():
            # Seen in torch 2.13.
            return "Inductor cannot compile custom operations on complex tensors"
    grid = grid_of(part, columns=True)
    if grid is None:
        if part.exp_avg_sq.ndim and param.is_contiguous():
            return "the elements of a layer are too far apart in memory"
        return (
            "it is not contiguous, or its memory layout differs from that of its gradient or state"
        )
    return None if part.position is None else _problem_of_rows(part, grid)


def _problem_of_rows(part: Part, grid: Grid) -> str | None:
    """Returns why the kernels do not support a part that is rounded at random."""
    rows, step = rows_of(part), cast(Tensor, part.step)
    if rows is None:
        return "it is not contiguous, or its rows are not equally far apart in the whole tensor"
    quantised = part.exp_avg_scale is not None
    if quantised and not native.kernels.has_quantised_pass(grid=grid, row=rows.length):
        return "there is no kernel for these layers, which share blocks of a buffer in 8 bits"
    if step.dtype != torch.float32 or not step.is_cpu:
        return f"'step' must be a float32 on the CPU, got {step.dtype} on {step.device}"
    return None


def prepare(
    parts: Sequence[Part],
    options: Options,
    _scaling: Scaling | None = None,
    memo: dict[str, Any] | None = None,
) -> PreparedStep:
    """Returns the step of parts that have no ``problem`` (see ``Backend``)."""
    if torch.compiler.is_compiling():
        return PreparedStep(partial(square_sums, parts), partial(step, parts, options))
    prepared = PreparedByKernels(parts, options, memo)
    return PreparedStep(prepared.square_sums, partial(prepared.step, options))


def step(parts: Sequence[Part], options: Options) -> None:
    """Updates parameters and their state in place; computes in the dtype of ``exp_avg_sq``.

    The arguments are the same as in ``novograd.torch.backends.eager.step``. They may be complex,
    but must not have a ``problem``. In a compiled program this is the operation
    ``novograd::step_``.

    Raises:
        RuntimeError: If the step would write to memory that two tensors share. Then nothing has
            changed.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w, m, v = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor(0.0)
        >>> options = NovoGrad([w], lr=0.5).param_groups[0]
        >>> step([Part(w, torch.tensor([3.0, 4.0]), m, v)], options)
        >>> w, v
        (tensor([0.7000, 1.6000]), tensor(25.))
    """
    if torch.compiler.is_compiling():
        numbers = [torch.as_tensor(x, dtype=torch.float64) for x in _arguments(options)]
        columns = list(map(list, zip(*parts, strict=True)))[:5]
        params, grads, exp_avgs, exp_avg_sqs, scales = columns
        torch.ops.novograd.step_(params, grads, exp_avgs, exp_avg_sqs, scales, torch.stack(numbers))
    else:
        PreparedByKernels(parts, options).step(options)


class PreparedByKernels:
    """Parts with checked memory, ready for a step of the native kernels.

    Args:
        parts: Parts that have no ``problem``.
        options: The hyperparameters.
        memo: Keeps what the kernels know of the parts for the next step.

    Raises:
        RuntimeError: If a step would write to memory that two tensors share.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w, g, m, v = torch.zeros(3), torch.zeros(2), torch.zeros(4), torch.zeros(2)
        >>> options = NovoGrad([w]).param_groups[0]
        >>> parts = [Part(w[:2], g, m[:2], v[0]), Part(w[1:], g, m[2:], v[1])]
        >>> PreparedByKernels(parts, options)
        Traceback (most recent call last):
            ...
        RuntimeError: NovoGrad cannot update tensors that share memory; shapes: (2,) and (2,)
    """

    def __init__(
        self, parts: Sequence[Part], options: Options, memo: dict[str, Any] | None = None
    ) -> None:
        """Passes the addresses of the parts to the kernels."""
        grads = column(parts, "grad")
        pending = any(map(Tensor.is_conj, grads)) or any(map(Tensor.is_neg, grads))
        self._parts = list(map(in_memory, parts)) if pending else parts
        memo = {} if memo is None else memo
        found = None if pending else memo.get("addresses")
        found = addresses(self._parts) if found is None else found
        self._layers = _checked_layers(self._parts, found, options, memo)

    def square_sums(self) -> None:
        """Writes the squared norms of the local piece into ``square`` of each part that has it."""
        known = [part for part in self._parts if part.square is not None]
        if known:
            layers = self._layers if len(known) == len(self._parts) else _layers(known, {})
            layers.square_sums(torch.get_num_threads())

    def step(self, options: Options) -> None:
        """Updates the parts."""
        variant, parts = variants.get(options["variant"]), self._parts
        if variant.norm == "inf":
            parts = [part._replace(square=_largest(part, options)) for part in parts]
        elif variant.amsgrad:
            parts = _with_maxima(parts, options)
            options = changed(options, variant=replace(variant, averages=False, clip=None))
        # Before the kernels, which push everything else out of the cache.
        changing = map(partial(column, self._parts), _CHANGED)
        torch.autograd.graph.increment_version(filter(_is_given, chain.from_iterable(changing)))
        for count, alike in (_by_count(parts) if variant.counts else {0.0: parts}).items():
            layers = self._layers if alike is self._parts else _layers(alike, options)
            layers.step(
                [float(x) for x in _arguments(options, count)],
                torch.get_num_threads(),
            )


def _arguments(options: Options, count: float = 0.0) -> tuple[Any, ...]:
    """Returns the arguments of the kernels for parts with ``count`` earlier steps."""
    lr = options["lr"]
    if isinstance(lr, Tensor):
        options = changed(options, lr=lr.double().squeeze())
    return native.arguments(
        numbers_of(options, count),
        nesterov=options["nesterov"],
        skip_nonfinite=options["skip_nonfinite"],
    )


def _largest(part: Part, options: Options) -> Tensor:
    """Returns the largest elements of a gradient's layers, in the form of ``square``."""
    real, v = as_real(part), part.exp_avg_sq
    norms = layer_norms(real.grad, real.exp_avg_sq.shape, v.dtype, options)
    return norms.view(v.shape).double()


def _with_maxima(parts: Sequence[Part], options: Options) -> list[Part]:
    """Updates ``v`` and its maximum; returns parts whose gradients kernels divide by the maximum.

    The kernels do not know a maximum. So the returned parts have the maximum as their known squared
    norm, or the limit of ``clip`` if that is larger. The caller selects a variant that neither
    averages nor clips. The kernels write a new ``v`` into a temporary tensor, which is discarded.
    """
    parts = [part for part in parts if part.exp_avg_sq.numel()]  # there may be no layers
    known = [part for part in parts if part.square is not None]
    unknown = [
        part._replace(square=torch.empty_like(part.exp_avg_sq, dtype=torch.float64))
        for part in parts
        if part.square is None
    ]
    if unknown:
        _layers(unknown, {}).square_sums(torch.get_num_threads())
    used = []
    for part in known + unknown:
        v, s = part.exp_avg_sq, cast(Tensor, part.square).to(part.exp_avg_sq.dtype)
        after = advance(s, v, options, maximum=part.maximum, step=part.step)
        largest = after.largest
        v.copy_(after.v)
        cast(Tensor, part.maximum).copy_(largest)
        square = torch.where(s.isfinite(), largest, s).double()
        numbers = numbers_of(options, 0.0 if part.step is None else part.step.item())
        if numbers.clip:
            square = square.maximum(numbers.clip / numbers.correction * s)
        used.append(part._replace(square=square, exp_avg_sq=torch.zeros_like(v)))
    return used


def _by_count(parts: Sequence[Part]) -> dict[float, Sequence[Part]]:
    """Groups parts by their number of earlier steps."""
    groups: dict[float, list[Part]] = {}
    for part in parts:
        groups.setdefault(cast(Tensor, part.step).item(), []).append(part)
    return {**groups}


@torch.library.custom_op(
    "novograd::step_", mutates_args=("params", "exp_avgs", "exp_avg_sqs"), device_types="cpu"
)
def _step_op(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    scales: Sequence[float],
    rule: Tensor,
) -> None:
    """Takes a step; ``rule`` is the result of ``native.arguments``. Opaque to compilers."""
    columns = (params, grads, exp_avgs, exp_avg_sqs, scales)
    parts = [Part(*part) for part in zip(*columns, strict=True)]
    layers = _checked_layers(parts, addresses(parts), {}, {})
    layers.step(rule.tolist(), torch.get_num_threads())


@_step_op.register_fake
def _(*_: Any) -> None:
    """Does nothing, because no shape changes."""


def _checked_layers(
    parts: Sequence[Part], found: np.ndarray, options: Mapping[str, Any], memo: dict[str, Any]
) -> Any:
    """Passes parts at the given addresses to the kernels; checks that they do not share memory."""
    if found.tobytes() != memo.get("checked"):
        known = memo.get("layers")
        layers = known.at(found) if known else _layers(parts, options, found)
        shared = layers.overlap()
        if shared is not None:
            shapes = " and ".join(str(tuple(parts[i].param.shape)) for i in shared)
            raise RuntimeError(
                f"NovoGrad cannot update tensors that share memory; shapes: {shapes}"
            )
        memo |= {"checked": found.tobytes(), "layers": layers}
    return memo["layers"]


def _layers(
    parts: Sequence[Part], options: Mapping[str, Any], found: np.ndarray | None = None
) -> Any:
    """Passes parts to the kernels, at addresses that may be known. They must outlive the result."""
    found = addresses(parts) if found is None else found
    names = ("weights", "gradients", "moments", "vs", "squares", "block_scales", "counts")
    of_names = zip(names, found.tolist(), strict=True)
    return native.kernels.Tensors(**_facts(parts, options), **dict(of_names))


def _facts(parts: Sequence[Part], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the kernels need to know of parts, except for addresses."""
    facts: dict[str, Any] = {
        "kinds": [_KINDS[part.param.dtype, part.grad.dtype, part.exp_avg.dtype] for part in parts],
        "grids": [grid_of(part, columns=True) for part in parts],
        "scales": [part.scale for part in parts],
    }
    if any(_is_given(part.position) for part in parts):
        facts["rows"] = list(map(_rows, parts))
        facts["stochastic"] = [rounds_weights(options, part.param) for part in parts]
    return facts


def _rows(part: Part) -> tuple[int, int, int] | None:
    """Returns what the kernels need to know of the rows of a part, if it is rounded at random."""
    if part.position is None:
        return None
    _, length, first, pitch = cast(Rows, rows_of(part))
    return length, first, pitch
