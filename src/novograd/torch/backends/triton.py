"""A step of tensors on GPUs by Triton kernels: three launches, however many tensors there are.

What changes from step to step, addresses among it, goes to the device in one small table, by a copy
that nobody waits for. Everything else stays there: learning rates that are tensors, counts of
steps, and the two tensors of a ``GradScaler``.

The kernels are in ``triton_kernels.py``. Under Triton's interpreter, that is, with
``TRITON_INTERPRET=1`` in the environment, they run on the CPU, slowly, as tests do.
"""

import contextlib
import functools
import importlib.util
import os
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from novograd import variants
from novograd.rule import Numbers
from novograd.torch.backends import Scaling, Step
from novograd.torch.norms import numbers_of
from novograd.torch.options import Options, changed
from novograd.torch.parts import Grid, Part, grid_of, in_memory

UNSCALES = True
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_NUMBERS = len(Numbers._fields)
# float64 by itself, the others in any mixture.
_SMALL = (torch.float32, torch.bfloat16, torch.float16)
_DTYPES = [{torch.float64}, *(set(x) for n in (1, 2, 3) for x in combinations(_SMALL, n))]


def takes(device: torch.device) -> bool:
    """Whether tensors on a device are for these kernels, rather than for the native ones."""
    return device.type == "cuda" or (INTERPRETED and device.type == "cpu")


def problem(part: Part, options: Options) -> str | None:
    """Returns why the kernels cannot take a part, or None if they can.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w = torch.zeros(3, device="meta")
        >>> options = NovoGrad([w]).param_groups[0]
        >>> problem(Part(w, w, w, torch.tensor(0.0)), options)
        'it is on meta, and the kernels are for GPUs'
    """
    param, grad, exp_avg, *_ = part
    if not takes(param.device):
        return f"it is on {param.device}, and the kernels are for GPUs"
    if not installed():
        return "Triton is not installed"
    if torch.compiler.is_compiling():
        return "torch.compile makes kernels of its own"
    if type(param) not in (Tensor, Parameter) or type(grad) is not Tensor:
        return "it or its gradient is a tensor subclass"
    if not grad.device == exp_avg.device == param.device:
        return f"its gradient or state is not on {param.device}"
    if {x.dtype.to_real() for x in (param, grad, exp_avg)} not in _DTYPES:
        return f"there is no kernel for {param.dtype} with a gradient of {grad.dtype}"
    variant = variants.get(options["variant"])
    if variant.amsgrad or variant.norm != "l2":
        return f"there is no kernel for variant {variant.name!r}"
    if grid_of(part) is None:
        return "its elements have gaps, or another order than those of its gradient or state"
    return None


def prepare(parts: Sequence[Part], options: Options, scaling: Scaling | None = None) -> Step:
    """Returns the step of parts without a problem, as ``novograd.torch.backends`` has it."""
    prepared = Prepared(parts, scaling)
    return Step(prepared.square_sums, partial(prepared.step, options))


class Prepared:
    """Parts that are ready for a step.

    Args:
        parts: What has no ``problem``.
        scaling: What a ``GradScaler`` says of this step.

    Example:
        With Triton's interpreter:

        >>> from novograd.torch import NovoGrad
        >>> w, m, v = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor(0.0)
        >>> options = NovoGrad([w], lr=0.5).param_groups[0]
        >>> Prepared([Part(w, torch.tensor([3.0, 4.0]), m, v)]).step(options)
        >>> w, v
        (tensor([0.7000, 1.6000]), tensor(25.))
    """

    def __init__(self, parts: Sequence[Part], scaling: Scaling | None = None) -> None:
        """Sorts the parts by device and dtypes."""
        self._groups: dict[Any, list[Part]] = defaultdict(list)
        self._scaling = scaling
        for part in map(in_memory, parts):
            w, g, m, *_ = part
            self._groups[w.device, w.dtype, g.dtype, m.dtype].append(part)

    def square_sums(self) -> None:
        """Writes the sums of what is here into each ``square``."""
        for parts in self._groups.values():
            known = [part for part in parts if part.square is not None]
            if known:
                with _on(known[0].param.device):
                    _write_square_sums(known, self._scaling)

    def step(self, options: Options) -> None:
        """Updates the parts."""
        for parts in self._groups.values():
            with _on(parts[0].param.device):
                _take_step(parts, options, self._scaling)
            params, _, exp_avgs, exp_avg_sqs, *_ = zip(*parts, strict=True)
            torch.autograd.graph.increment_version([*params, *exp_avgs, *exp_avg_sqs])


def _take_step(parts: list[Part], options: Options, scaling: Scaling | None) -> None:
    """Launches the kernels of a step of parts that agree in device and dtypes."""
    # Those whose norms are known come last: no sums are launched for them.
    parts = sorted(parts, key=lambda part: part.square is not None)
    first, device, numbers = parts[0], parts[0].param.device, _numbers(parts, options)
    plan = _plan(parts)
    tables = _tables(parts, plan, numbers)
    dtype = first.exp_avg_sq.dtype
    scale, found_inf = _on_device(scaling, device)
    unknown = sum(part.square is None for part in parts)
    partial_sums = _partial_sums(plan, tables, scale, first, unknown)
    coefficients = torch.empty(plan.layers * 5, dtype=dtype, device=device)
    rules = tables.rules if numbers.each is None else numbers.each
    _launch(
        "scalars",
        plan.scalar_programs,
        *(tables.parts, tables.part_of_scalars, partial_sums, rules, tables.slopes),
        rules if numbers.lr is None else numbers.lr,
        rules if found_inf is None else found_inf,
        coefficients,
        V=_type(first.exp_avg_sq),
        HAS_LR=numbers.lr is not None,
        HAS_FOUND_INF=found_inf is not None,
        RULE_EACH=numbers.each is not None,
        SKIP_NONFINITE=options["skip_nonfinite"],
    )
    stochastic = options["stochastic_rounding"] and first.param.dtype == torch.bfloat16
    seed = torch.randint(2**62, (1,), device=device) if stochastic else rules
    _launch(
        "linear_pass",
        plan.first_programs[-1],
        *(tables.parts, tables.part_of_programs, coefficients, rules),
        rules if scale is None else scale,
        seed,
        PARAM=_type(first.param),
        GRAD=_type(first.grad),
        MOMENT=_type(first.exp_avg),
        HAS_SCALE=scale is not None,
        NESTEROV=options["nesterov"],
        STOCHASTIC=stochastic,
    )


def _write_square_sums(parts: list[Part], scaling: Scaling | None) -> None:
    """Launches the kernels that write into each ``square``."""
    plan = _plan(parts)
    tables = _tables(parts, plan, _Numbers())
    scale, _ = _on_device(scaling, parts[0].param.device)
    partial_sums = _partial_sums(plan, tables, scale, parts[0], len(parts))
    _launch("layer_sums", plan.scalar_programs, tables.parts, tables.part_of_scalars, partial_sums)


def _partial_sums(
    plan: "_Plan", tables: "_Tables", scale: Tensor | None, like: Part, count: int
) -> Tensor:
    """Launches the sums of squares of the first parts; returns where they will be."""
    v = like.exp_avg_sq
    partial_sums = torch.empty(plan.partial_sums, dtype=v.dtype, device=v.device)
    _launch(
        "square_sums",
        plan.first_programs[count],
        *(tables.parts, tables.part_of_programs, partial_sums),
        tables.rules if scale is None else scale,
        GRAD=_type(like.grad),
        HAS_SCALE=scale is not None,
    )
    return partial_sums


# -- what the kernels are given ------------------------------------------------------------------


class _Numbers(NamedTuple):
    """The numbers of a rule: ``one + lr*slopes``, or ``each``.

    Attributes:
        one: Those of all parts.
        slopes: How they depend on a learning rate that is on the device: all do so linearly.
        lr: It, in that case.
        each: On the device, of each part, for variants that count steps.
    """

    one: Sequence[float] = (0.0,) * _NUMBERS
    slopes: Sequence[float] = (0.0,) * _NUMBERS
    lr: Tensor | None = None
    each: Tensor | None = None


def _numbers(parts: Sequence[Part], options: Options) -> _Numbers:
    """Returns the numbers of the rule for some parts."""
    lr, device = options["lr"], parts[0].param.device
    numbers = partial(numbers_of, floor=torch.finfo(parts[0].exp_avg_sq.dtype).tiny)
    if isinstance(lr, Tensor):
        if lr.device.type == "cpu" != device.type:
            options = changed(options, lr=float(lr))
        elif parts[0].step is None:
            at_0, at_1 = (numbers(changed(options, lr=x)) for x in (0.0, 1.0))
            slopes = [b - a for a, b in zip(at_0, at_1, strict=True)]
            return _Numbers(at_0, slopes, lr.to(device))
        else:
            options = changed(options, lr=lr.to(device).double().squeeze())
    if parts[0].step is None:
        return _Numbers(numbers(options))
    counts = torch.stack([cast(Tensor, part.step) for part in parts]).double()
    each = numbers(options, counts)
    columns = [torch.zeros_like(counts) + x for x in each]
    return _Numbers(each=torch.stack(columns, dim=1))


class _Plan(NamedTuple):
    """How the work on some parts is shared out, which only depends on their shapes.

    Attributes:
        columns: The columns of the table that do, of shape (parts, 8).
        first_programs: Of each part in the passes over memory, and behind them their number.
        scalar_programs: Number of programs of ``scalars``.
        partial_sums: Number of partial sums.
        layers: Number of layers.
        part_of: For each program its part, first of the passes and then of ``scalars``, as 32-bit
            numbers; both are filled up to 16 bytes.
    """

    columns: np.ndarray
    first_programs: list[int]
    scalar_programs: int
    partial_sums: int
    layers: int
    part_of: tuple[np.ndarray, ...]


def _plan(parts: Sequence[Part]) -> _Plan:
    return _plan_of(tuple(cast(Grid, grid_of(part)) for part in parts))


@functools.lru_cache(maxsize=64)
def _plan_of(grids: tuple[Grid, ...]) -> _Plan:
    """Shares out the work on parts with such grids."""
    chunk, block = _kernels().CHUNK.value, _kernels().BLOCK.value
    runs, layers, run, stride = np.array(grids, dtype=np.int64).T
    pieces, segments = layers * runs, -(-run // chunk)
    each = chunk // np.maximum(run, 1)  # pieces of a program, where these are short
    programs = np.where(segments == 1, -(-pieces // np.maximum(each, 1)), pieces * segments)
    one_each = runs * segments == 1
    scalar_programs = np.where(one_each, -(-layers // block), layers)
    sizes = np.stack([programs, scalar_programs, pieces * segments, layers])
    starts = np.concatenate([np.zeros((4, 1), np.int64), sizes.cumsum(axis=1)], axis=1)
    numbers = np.arange(len(grids), dtype=np.int32)
    part_of = [np.repeat(numbers, sizes[i]) for i in (0, 1)]
    return _Plan(
        columns=np.column_stack([layers, runs, run, stride, *starts[:, :-1]]),
        first_programs=starts[0].tolist(),
        scalar_programs=int(starts[1, -1]),
        partial_sums=int(starts[2, -1]),
        layers=int(starts[3, -1]),
        part_of=tuple(np.pad(x, (0, -len(x) % 4)) for x in part_of),
    )


class _Tables(NamedTuple):
    """The tables of the kernels, on the device."""

    parts: Tensor
    rules: Tensor
    slopes: Tensor
    part_of_programs: Tensor
    part_of_scalars: Tensor


def _tables(parts: Sequence[Part], plan: _Plan, numbers: _Numbers) -> _Tables:
    """Sends the tables to the device, in one piece."""
    kernels = _kernels()
    table = np.empty((len(parts), kernels.COLUMNS.value), np.int64)
    table[:, : kernels.LAYERS.value] = [
        (w.data_ptr(), g.data_ptr(), m.data_ptr(), v.data_ptr(), 0 if s is None else s.data_ptr())
        for w, g, m, v, _, s, *_ in parts
    ]
    table[:, kernels.LAYERS.value : kernels.SCALE.value] = plan.columns
    table[:, kernels.SCALE.value].view(np.float64)[:] = [part.scale for part in parts]
    one, slopes = (np.array(x, np.float64) for x in (numbers.one, numbers.slopes))
    pieces = [x.view(np.int64).ravel() for x in (table, one, slopes, *plan.part_of)]
    sent = _to_device(np.concatenate(pieces), parts[0].param.device)
    on_device = sent.split([len(piece) for piece in pieces])
    dtypes = (torch.int64, torch.float64, torch.float64, torch.int32, torch.int32)
    return _Tables(*(x.view(dtype) for x, dtype in zip(on_device, dtypes, strict=True)))


# A captured graph reads host memory anew at each replay. So it needs a piece of its own, for as
# long as it may live; and while it is captured none can be allocated, so each size has a spare.
_spares: dict[int, Tensor] = {}
_captured: list[Tensor] = []


def _to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copies integers to a device; the host does not wait."""
    if device.type == "cpu":
        return torch.from_numpy(values)
    if torch.cuda.is_current_stream_capturing():
        pinned = _spares.pop(len(values), None)
        pinned = _pinned(len(values)) if pinned is None else pinned
        _captured.append(pinned)
    else:
        # Its memory is used again when the copy is done, which torch's allocator looks after.
        pinned = _pinned(len(values))
        if len(values) not in _spares:
            _spares[len(values)] = _pinned(len(values))
    pinned.numpy()[:] = values
    return pinned.to(device, non_blocking=True)


def _pinned(length: int) -> Tensor:
    return torch.empty(length, dtype=torch.int64, pin_memory=True)


def _on_device(
    scaling: Scaling | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the scale of gradients, and what is not 0 if infinities were found in them."""
    if scaling is None:
        return None, None
    scale, found_inf = scaling
    return None if scale is None else scale.to(device), found_inf.to(device)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes a device the current one, on which Triton launches."""
    return contextlib.nullcontext() if device.type == "cpu" else torch.cuda.device(device)


def _launch(name: str, programs: int, *arguments: Any, **constants: Any) -> None:
    """Launches a kernel, if there is something to do."""
    if programs:
        kernel = getattr(_kernels(), name)
        # As everywhere else, no product is fused with a sum.
        kernel[(programs,)](*arguments, **constants, num_warps=4, enable_fp_fusion=False)


def _type(x: Tensor) -> Any:
    """Returns Triton's type of the elements of a tensor, or of their parts if these are complex."""
    import triton.language as tl  # pyright: ignore[reportMissingImports]

    return getattr(tl, str(x.dtype.to_real()).removeprefix("torch."))


@functools.cache
def _kernels() -> Any:
    """Imports the kernels when they are first needed, and Triton with them."""
    from novograd.torch.backends import triton_kernels

    return triton_kernels


@functools.cache
def installed() -> bool:
    """Whether Triton is."""
    try:
        return importlib.util.find_spec("triton.language") is not None
    except ModuleNotFoundError:
        return False
