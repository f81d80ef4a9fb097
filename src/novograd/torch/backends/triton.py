"""The Triton backend: updates tensors on GPUs with few launches, for any number of tensors.

The values that change from step to step, including addresses, go to the device in one small table.
The host does not wait for this copy. All other values stay on the device: learning rates that are
tensors, counts of steps, and the two tensors of a ``GradScaler``.

The kernels are in ``triton_kernels.py``. With ``TRITON_INTERPRET=1`` in the environment, Triton's
interpreter runs them on the CPU. This is slow; tests use it.
"""

import contextlib
import functools
import importlib.util
import itertools
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
from novograd.quantized import BLOCK
from novograd.rule import Numbers
from novograd.torch.backends import PreparedStep, Scaling
from novograd.torch.memory import addresses
from novograd.torch.norms import numbers_of
from novograd.torch.options import Options, changed
from novograd.torch.parts import Grid, Part, Rows, column, grid_of, in_memory, rows_of
from novograd.torch.rounding import rounds_weights

UNSCALES = True
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_NUMBERS = len(Numbers._fields)
# float64 alone, or any mixture of the other dtypes.
_SMALL = (torch.float32, torch.bfloat16, torch.float16)
_DTYPES = [{torch.float64}, *(set(x) for n in (1, 2, 3) for x in combinations(_SMALL, n))]


def supports_device(device: torch.device) -> bool:
    """Whether these kernels, not the native ones, update tensors on a device."""
    return device.type == "cuda" or (INTERPRETED and device.type == "cpu")


def problem(part: Part, options: Options) -> str | None:
    """Returns why the kernels do not support a part, or None if they do.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w = torch.zeros(3, device="meta")
        >>> options = NovoGrad([w]).param_groups[0]
        >>> problem(Part(w, w, w, torch.tensor(0.0)), options)
        'it is on meta, and the kernels are for GPUs'
    """
    param, grad, exp_avg, *_ = part
    if not supports_device(param.device):
        return f"it is on {param.device}, and the kernels are for GPUs"
    if not installed():
        return "Triton is not installed"
    if torch.compiler.is_compiling():
        return "torch.compile does not support these kernels"
    if type(param) not in (Tensor, Parameter) or type(grad) is not Tensor:
        return "it or its gradient is a tensor subclass"
    if not grad.device == exp_avg.device == param.device:
        return f"its gradient or state is not on {param.device}"
    stored = (param, grad) if exp_avg.dtype == torch.int8 else (param, grad, exp_avg)
    if {x.dtype.to_real() for x in stored} not in _DTYPES:
        return f"there is no kernel for {param.dtype} with a gradient of {grad.dtype}"
    variant = variants.get(options["variant"])
    if variant.amsgrad or variant.norm != "l2":
        return f"there is no kernel for variant {variant.name!r}"
    grid = grid_of(part)
    if grid is None:
        return (
            "it is not contiguous, or its memory layout differs from that of its gradient or state"
        )
    if part.position is None:
        return None
    rows = rows_of(part)
    if rows is None:
        return (
            "it is rounded at random, and it is not contiguous, or its rows are not equally far "
            "apart in the whole tensor"
        )
    if part.exp_avg_scale is not None and grid[2] % rows.length:
        return "its momentum buffer is int8, and a layer ends within a row of blocks"
    return None


def prepare(
    parts: Sequence[Part],
    options: Options,
    scaling: Scaling | None = None,
    memo: dict[str, Any] | None = None,
) -> PreparedStep:
    """Returns the step of parts that have no ``problem`` (see ``Backend``)."""
    prepared = PreparedByTriton(parts, scaling, memo)
    return PreparedStep(prepared.square_sums, partial(prepared.step, options))


class PreparedByTriton:
    """Parts that are ready for a step of the Triton kernels.

    Args:
        parts: Parts that have no ``problem``.
        scaling: The values that a ``GradScaler`` has set for this step.
        memo: Keeps the division of the work for the next step, if the parts do not change.

    Example:
        With Triton's interpreter:

        >>> from novograd.torch import NovoGrad
        >>> w, m, v = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor(0.0)
        >>> options = NovoGrad([w], lr=0.5).param_groups[0]
        >>> PreparedByTriton([Part(w, torch.tensor([3.0, 4.0]), m, v)]).step(options)
        >>> w, v
        (tensor([0.7000, 1.6000]), tensor(25.))
    """

    def __init__(
        self,
        parts: Sequence[Part],
        scaling: Scaling | None = None,
        memo: dict[str, Any] | None = None,
    ) -> None:
        """Groups the parts by device and dtypes, and divides the work."""
        self._scaling = scaling
        grads = column(parts, "grad")
        pending = any(map(Tensor.is_neg, grads)) or any(map(Tensor.is_conj, grads))
        parts = list(map(in_memory, parts)) if pending else parts
        memo = {} if memo is None else memo
        divisions = memo.get("divisions")
        if divisions is None:
            divisions = _divisions(parts)
            if not _capturing(parts[0].param.device):  # see ``_programs``
                memo["divisions"] = divisions
        found = None if pending else memo.get("addresses")
        found = addresses(parts) if found is None else found
        self._parts, self._divisions, self._addresses = parts, divisions, found

    def square_sums(self) -> None:
        """Writes the squared norms of the local piece into ``square`` of each part that has it."""
        for division in self._divisions:
            parts = [self._parts[i] for i in division.chosen]
            known = [part for part in parts if part.square is not None]
            if known:
                with _on(known[0].param.device):
                    _write_square_sums(known, self._scaling)

    def step(self, options: Options) -> None:
        """Updates the parts."""
        for division in self._divisions:
            first = self._parts[division.chosen[0]]
            with _on(first.param.device):
                numbers = _numbers(self._parts, division, options)
                found = self._addresses[:, division.chosen].T
                _take_step(first, found, division, numbers, options, self._scaling)
        torch.autograd.graph.increment_version(column(self._parts, "param"))


class _Division(NamedTuple):
    """The division of the work on parts with the same device, dtypes and ``in_order``.

    Attributes:
        chosen: The numbers of these parts, in the order of the table.
        in_order: Whether the numbers of their elements follow the memory (see ``_Shape``).
        work: The division into programs.
        scales: The factors of the normalised gradients.
        part_of: The part of each program, on the device: for the passes over memory, and for
            ``scalars``.
    """

    chosen: list[int]
    in_order: bool
    work: "_Work"
    scales: np.ndarray
    part_of: list[Tensor]


def _divisions(parts: Sequence[Part], short: bool = True) -> list[_Division]:
    """Groups parts for launches, and divides the work; without ``short``, all are long."""
    shapes = list(map(_shape_of, parts))
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, ((w, g, m, *_), shape) in enumerate(zip(parts, shapes, strict=True)):
        groups[w.device, w.dtype, g.dtype, m.dtype, shape.in_order].append(i)
    divisions = []
    for (device, *_, in_order), chosen in groups.items():
        work = _work_of(tuple(shapes[i] for i in chosen), short)
        order, programs = [chosen[i] for i in work.order], _programs(work, device)
        scales = np.array([parts[i].scale for i in order], np.float64)
        divisions.append(_Division(order, in_order, work, scales, programs))
    return divisions


def _programs(work: "_Work", device: torch.device) -> list[Tensor]:
    """Returns ``work.part_of`` on a device; keeps it for the next steps of this stream."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    programs = work.copies.get((device, stream))
    if programs is None:
        with _on(device):
            sent = _to_device(np.concatenate(work.part_of), device)
        programs = list(sent.view(torch.int32).split([2 * len(x) for x in work.part_of]))
        # Tensors of a captured division have no content before the graph runs.
        if not _capturing(device):
            work.copies[device, stream] = programs
    return programs


def _shape_of(part: Part) -> "_Shape":
    """Returns the facts on which the division of the work on a part depends."""
    rows = None if part.position is None else rows_of(part)
    quantised = part.exp_avg_scale is not None
    return _Shape(cast(Grid, grid_of(part)), part.square is not None, rows, quantised)


def _take_step(
    first: Part,
    found: np.ndarray,
    division: _Division,
    numbers: "_DeviceNumbers",
    options: Options,
    scaling: Scaling | None,
) -> None:
    """Launches the kernels for a division: its first part, and the addresses of all of them."""
    work, (part_of, part_of_scalars) = division.work, division.part_of
    device = first.param.device
    if _capturing(device):
        _captured.append(part_of)
    table = _table(found, division, numbers, device)
    scale, found_inf = _on_device(scaling, device)
    rules = table.view(torch.float64) if numbers.each is None else numbers.each
    of_rule = (
        rules,
        rules if numbers.lr is None else numbers.lr,
        rules if found_inf is None else found_inf,
    )
    how_to_advance = {
        "V": first.exp_avg_sq.dtype,
        "HAS_LR": numbers.lr is not None,
        "HAS_FOUND_INF": found_inf is not None,
        "RULE_EACH": numbers.each is not None,
        "SKIP_NONFINITE": options["skip_nonfinite"],
    }
    how_to_update = {
        "PARAM": first.param.dtype,
        "GRAD": first.grad.dtype,
        "MOMENT": first.exp_avg.dtype,
        "HAS_SCALE": scale is not None,
        "NESTEROV": options["nesterov"],
        "STOCHASTIC": rounds_weights(options, first.param),
        "IN_ORDER": division.in_order,
    }

    quantised = first.exp_avg_scale is not None
    # Only NVIDIA's compiler has this option.
    limits = {"maxnreg": _kernels().QUANTISED_REGISTERS} if quantised and torch.version.cuda else {}
    grad_scale = rules if scale is None else scale
    if work.long:
        partial_sums = _partial_sums(division, table, scale, first)
        coefficients = torch.empty(work.layers * 5, dtype=first.exp_avg_sq.dtype, device=device)
        _launch(
            "scalars",
            work.scalar_programs,
            *(table, part_of_scalars, partial_sums, *of_rule, coefficients),
            **how_to_advance,
        )
        _launch(
            "linear_pass",
            work.first_programs[work.long],
            *(table, part_of, coefficients, rules, grad_scale),
            TILE=_kernels().QUANTISED_TILE
            if quantised
            else _kernels().UPDATE_BYTES // first.param.dtype.itemsize,
            **how_to_update,
            **limits,
        )
    for short in work.short:
        aligned = short.divisible and not (found[short.parts, :3] % 16).any()
        tile = _kernels().SHORT_TILE if aligned else _kernels().SHORT_UNALIGNED_TILE
        _launch(
            "short_layers",
            short.programs,
            *(table, part_of, short.before, *of_rule, grad_scale),
            ROWS=min(_kernels().MOST_ROWS, max(1, tile // short.width)),
            WIDTH=short.width,
            ALIGNED=aligned,
            num_warps=4 * max(1, short.width // tile),
            **how_to_advance,
            **how_to_update,
            **limits,
        )


def _write_square_sums(parts: Sequence[Part], scaling: Scaling | None) -> None:
    """Launches the kernels that write ``square`` of each part."""
    (division,) = _divisions([part._replace(square=None) for part in parts], short=False)
    parts = [parts[i] for i in division.chosen]
    device = parts[0].param.device
    table = _table(addresses(parts).T, division, _DeviceNumbers(), device)
    scale, _ = _on_device(scaling, device)
    partial_sums = _partial_sums(division, table, scale, parts[0])
    programs = division.work.scalar_programs
    _launch("layer_sums", programs, table, division.part_of[1], partial_sums)


def _partial_sums(division: _Division, table: Tensor, scale: Tensor | None, like: Part) -> Tensor:
    """Launches the sums of squares of the long parts with unknown norms; returns their tensor."""
    work, v = division.work, like.exp_avg_sq
    partial_sums = torch.empty(work.partial_sums, dtype=v.dtype, device=v.device)
    _launch(
        "square_sums",
        work.first_programs[work.unknown],
        *(table, division.part_of[0], partial_sums),
        table if scale is None else scale,
        GRAD=like.grad.dtype,
        HAS_SCALE=scale is not None,
        TILE=_kernels().SUM_BYTES // like.grad.dtype.itemsize,
    )
    return partial_sums


# -- the arguments of the kernels ----------------------------------------------------------------


class _DeviceNumbers(NamedTuple):
    """The numbers of the rule: ``one + lr*slopes``, or ``each``.

    Attributes:
        one: The numbers for all parts; with ``lr``, at learning rate 0.
        slopes: The factors of ``lr``, because all numbers are linear in the learning rate.
        lr: The learning rate, if it is a tensor on the device; else None.
        each: The numbers for each part, on the device, for variants that count steps; else None.
    """

    one: Sequence[float] = (0.0,) * _NUMBERS
    slopes: Sequence[float] = (0.0,) * _NUMBERS
    lr: Tensor | None = None
    each: Tensor | None = None


def _numbers(parts: Sequence[Part], division: _Division, options: Options) -> _DeviceNumbers:
    """Returns the numbers of the rule for the parts of a division."""
    first = parts[division.chosen[0]]
    lr, device = options["lr"], first.param.device
    counts = variants.get(options["variant"]).counts
    numbers = partial(numbers_of, floor=torch.finfo(first.exp_avg_sq.dtype).tiny)
    if isinstance(lr, Tensor):
        if lr.device.type == "cpu" != device.type:
            options = changed(options, lr=float(lr))
        elif not counts:
            at_0, at_1 = (numbers(changed(options, lr=x)) for x in (0.0, 1.0))
            slopes = [b - a for a, b in zip(at_0, at_1, strict=True)]
            return _DeviceNumbers(at_0, slopes, lr.to(device))
        else:
            options = changed(options, lr=lr.to(device).double().squeeze())
    if not counts:
        return _DeviceNumbers(numbers(options))
    of_parts = column(parts, "step")
    steps = torch.stack([of_parts[i] for i in division.chosen]).double()
    each = numbers(options, steps)
    columns = [torch.zeros_like(steps) + x for x in each]
    return _DeviceNumbers(each=torch.stack(columns, dim=1))


class _Shape(NamedTuple):
    """The facts on which the division of the work on a part depends.

    Attributes:
        grid: Where its layers are.
        known: Whether its norms are known.
        rows: Its rows if it is rounded at random; else None.
        quantised: Whether its momentum buffer is int8. Then its rows consist of blocks.
    """

    grid: Grid
    known: bool
    rows: Rows | None
    quantised: bool

    @property
    def is_whole(self) -> bool:
        """Whether 16 bytes at a time can be moved: whether the kernels' ``ALIGNED`` may be True."""
        if not self.quantised:
            return self.grid[2] % 8 == 0
        rows = cast(Rows, self.rows)
        return not (rows.length | rows.first | self.gap) % BLOCK

    @property
    def gap(self) -> int:
        """The number of elements of the whole tensor between two rows."""
        return self.rows.pitch - self.rows.length if self.rows else 0

    @property
    def in_order(self) -> bool:
        """Whether the kernels' ``IN_ORDER`` may be True. Blocks do not depend on it."""
        return self.quantised or self.rows is None or not (self.gap or self.rows.first % 2)


class _Short(NamedTuple):
    """Parts that one launch of ``short_layers`` updates.

    Attributes:
        width: The width of the launch.
        divisible: Whether the lengths of the layers allow to move 16 bytes at a time.
        parts: The rows of these parts in the table.
        before: Number of programs of the parts before.
        programs: Number of programs.
    """

    width: int
    divisible: bool
    parts: slice
    before: int
    programs: int


class _Work(NamedTuple):
    """The division of the work on parts into programs, which depends only on the shapes.

    Long parts come first, and of these the ones with unknown norms. All other parts follow in the
    order of their width; ``short_layers`` updates these.

    Attributes:
        order: The numbers of the given parts in the order of the table.
        unknown: Number of long parts with unknown norms.
        long: Number of long parts.
        short: The launches of ``short_layers``.
        columns: The columns of the table that depend only on the shapes; shape (parts, 13).
        first_programs: The first program of each part in the passes over memory, then the number of
            programs.
        scalar_programs: Number of programs of ``scalars``.
        partial_sums: Number of partial sums.
        layers: Number of layers of long parts.
        part_of: The part of each program as 32-bit numbers: one array for the passes over memory,
            one for ``scalars``. Both are padded to a multiple of 16 bytes, and viewed as int64.
        copies: Copies of ``part_of`` by device and stream.
    """

    order: list[int]
    unknown: int
    long: int
    short: list[_Short]
    columns: np.ndarray
    first_programs: list[int]
    scalar_programs: int
    partial_sums: int
    layers: int
    part_of: tuple[np.ndarray, ...]
    copies: dict[Any, list[Tensor]]


@functools.lru_cache(maxsize=64)
def _work_of(shapes: tuple[_Shape, ...], short: bool) -> _Work:
    """Divides the work on parts into programs; cached.

    Args:
        shapes: The facts about each part.
        short: Whether parts may be short; otherwise all are long.
    """
    lanes = _kernels().LANES.value
    kinds = _kinds(shapes) if short else [_LONG] * len(shapes)
    order = sorted(range(len(shapes)), key=lambda i: (kinds[i], shapes[i].known))
    long = kinds.count(_LONG)
    ordered = [shapes[i] for i in order]
    runs, layers, run, stride = np.array([x.grid for x in ordered], dtype=np.int64).T
    blocks = np.array([_row_columns(x) for x in ordered], dtype=np.int64)
    longest = blocks[:, -1]  # the elements of a segment
    pieces, segments = layers * runs, -(-run // longest)
    each = longest // np.maximum(run, 1)  # pieces for each program, if pieces are short
    programs = np.where(segments == 1, -(-pieces // np.maximum(each, 1)), pieces * segments)
    one_each = runs * segments == 1
    sizes = np.stack(
        [programs, np.where(one_each, -(-layers // lanes), layers), pieces * segments, layers]
    )
    sizes[1:, long:] = 0  # short layers have no programs of scalars, partial sums or coefficients
    starts = np.concatenate([np.zeros((4, 1), np.int64), sizes.cumsum(axis=1)], axis=1)
    numbers = np.arange(len(shapes), dtype=np.int32)
    part_of = [np.repeat(numbers, sizes[i]) for i in (0, 1)]
    programs_before = starts[0].tolist()
    launches = []
    for kind, group in itertools.groupby(range(long, len(order)), key=lambda i: kinds[order[i]]):
        rows = list(group)
        chosen = slice(rows[0], rows[-1] + 1)
        before, end = programs_before[chosen.start], programs_before[chosen.stop]
        launches.append(_Short(*kind, chosen, before, end - before))
    return _Work(
        order=order,
        unknown=long - sum(x.known for x in shapes),
        long=long,
        short=launches,
        columns=np.column_stack([layers, runs, run, stride, blocks, segments, *starts[:, :-1]]),
        first_programs=programs_before,
        scalar_programs=int(starts[1, -1]),
        partial_sums=int(starts[2, -1]),
        layers=int(starts[3, -1]),
        part_of=tuple(np.pad(x, (0, -len(x) % 4)).view(np.int64) for x in part_of),
        copies={},
    )


def _row_columns(shape: _Shape) -> tuple[int, int, int, int]:
    """Returns columns of the table: the rows, and the elements of a segment.

    A segment with blocks has whole ones: of whole rows, or any number if all blocks of a row are
    whole.
    """
    longest = _kernels().LONGEST_SEGMENT
    if shape.rows is None:
        return 0, 0, 0, longest
    _, length, first, _ = shape.rows
    if shape.quantised and length % BLOCK:
        longest = length * max(1, longest // length)
    return length, first, shape.gap, longest


_LONG = (0, False)


def _kinds(shapes: Sequence[_Shape]) -> list[tuple[int, bool]]:
    """Returns the kind of each part: see ``_kind``.

    All short parts with one layer have the same kind, for one launch. They are so small that its
    greater width costs less than another launch.
    """
    kinds = list(map(_kind, shapes))
    single = [i for i, shape in enumerate(shapes) if shape.grid[1] == 1 and kinds[i] != _LONG]
    if single:
        widths, divisible = zip(*[kinds[i] for i in single], strict=True)
        for i in single:
            kinds[i] = max(widths), all(divisible)
    return kinds


def _kind(shape: _Shape) -> tuple[int, bool]:
    """Returns the width of ``short_layers`` for layers, and whether they can be ``ALIGNED``."""
    runs, _, run, _ = shape.grid
    if runs != 1 or not run or shape.known:
        return _LONG
    lanes = run
    length = shape.rows.length if shape.rows else run
    if shape.quantised and (run > BLOCK // 2 or run > length):
        lanes = run // length * -(-length // BLOCK) * BLOCK  # shorter blocks have as many lanes
    width = next((width for width in _kernels().WIDTHS if lanes <= width), None)
    return (width, shape.is_whole) if width else _LONG


def _table(
    found: np.ndarray, division: _Division, numbers: _DeviceNumbers, device: torch.device
) -> Tensor:
    """Copies the numbers of the rule and the table to the device, with one copy."""
    kernels = _kernels()
    values = np.empty(2 * _NUMBERS + len(found) * kernels.COLUMNS.value, np.int64)
    values[: 2 * _NUMBERS].view(np.float64)[:] = [*numbers.one, *numbers.slopes]
    table = values[2 * _NUMBERS :].reshape(len(found), -1)
    table[:, : kernels.LAYERS.value] = found
    table[:, kernels.LAYERS.value : kernels.SCALE.value] = division.work.columns
    table[:, kernels.SCALE.value].view(np.float64)[:] = division.scales
    return _to_device(values, device)


# A captured graph reads the memory of its tables again at each replay. So each graph needs its own
# memory for as long as it may live. No memory can be allocated during a capture, so each size has a
# spare.
_spares: dict[int, Tensor] = {}
_captured: list[Tensor] = []


def _to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copies integers to a device. The host does not wait."""
    if device.type == "cpu":
        return torch.from_numpy(values)
    if _capturing(device):
        pinned = _spares.pop(len(values), None)
        pinned = _pinned(len(values)) if pinned is None else pinned
        _captured.append(pinned)
    else:
        # torch's allocator reuses this memory only after the copy is done.
        pinned = _pinned(len(values))
        if len(values) not in _spares:
            _spares[len(values)] = _pinned(len(values))
    pinned.numpy()[:] = values
    return pinned.to(device, non_blocking=True)


def _capturing(device: torch.device) -> bool:
    """Whether a graph is being captured on the current stream."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _pinned(length: int) -> Tensor:
    return torch.empty(length, dtype=torch.int64, device="cpu", pin_memory=True)


def _on_device(
    scaling: Scaling | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the gradient scale and ``found_inf`` of a ``GradScaler``, on the given device."""
    if scaling is None:
        return None, None
    scale, found_inf = scaling
    return None if scale is None else scale.to(device), found_inf.to(device)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes a device the current device, because Triton launches on the current device."""
    return contextlib.nullcontext() if device.type == "cpu" else torch.cuda.device(device)


def _launch(name: str, programs: int, *arguments: Any, **constants: Any) -> None:
    """Launches a kernel, unless the number of programs is 0. A dtype means its Triton type."""
    if not programs:
        return
    # Triton compiles a kernel again if one of these differs.
    key = (
        name,
        *constants.values(),
        *[(x.dtype, x.data_ptr() % 16 == 0) for x in arguments if isinstance(x, Tensor)],
        arguments[0].get_device(),
    )
    known = _compiled.get(key)
    if known:
        compiled, rest = known
        compiled[programs, 1, 1](*arguments, *rest)
        return
    kernel = getattr(_kernels(), name)
    given = {k: _type(x) if isinstance(x, torch.dtype) else x for k, x in constants.items()}
    # Products are not fused with sums, like in all other backends.
    compiled = kernel[(programs,)](*arguments, **given, enable_fp_fusion=False)
    if compiled is not None and _kernels().LAUNCHES_COMPILED:
        _compiled[key] = compiled, [given[x] for x in kernel.arg_names[len(arguments) :]]


# A launch of a compiled kernel takes a fifth of the time of a launch that lets Triton find it. The
# keys have torch's dtypes, because those of Triton are slow to compare. The values are compiled
# kernels and their constants.
_compiled: dict[Any, tuple[Any, list[Any]]] = {}


@functools.cache
def _type(dtype: torch.dtype) -> Any:
    """Returns Triton's type for elements, or for their real parts if they are complex."""
    import triton.language as tl  # pyright: ignore[reportMissingImports]

    return getattr(tl, str(dtype.to_real()).removeprefix("torch."))


@functools.cache
def _kernels() -> Any:
    """Imports the kernels, and with them Triton, at the first use."""
    from novograd.torch.backends import triton_kernels

    return triton_kernels


@functools.cache
def installed() -> bool:
    """Whether Triton is installed."""
    try:
        return importlib.util.find_spec("triton.language") is not None
    except ModuleNotFoundError:
        return False
