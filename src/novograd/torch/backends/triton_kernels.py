"""The Triton kernels of a step.

``short_layers`` takes the whole step of layers that fit in the registers of a program. Other layers
need three kernels: ``square_sums``, then ``scalars`` for all layers, then ``linear_pass``.

These kernels implement the rule again: ``_advance`` is ``novograd.rule.advance`` with the same
``Numbers``, and ``_linear_pass`` is ``novograd.rule.linear_pass``. ``triton.py`` makes the tables
and launches the kernels.

A *part* is updated as one tensor. A *piece* of a part is a range of memory without gaps that
belongs to one layer. Layer ``j`` consists of ``runs`` pieces of ``run`` elements. Its piece ``i``
starts at ``i*stride + j*run``, and has the number ``j*runs + i`` within the part. A program of
``square_sums`` or ``linear_pass`` processes several whole pieces, or one segment of a long piece.
Each segment has its own partial sum, so that the order of additions is fixed.

A momentum buffer in int8 consists of blocks (see ``novograd.quantized``), and ``triton_int8.py``
rounds them. Its pieces are whole rows of blocks. Its segments are whole rows too, or any number of
blocks if all blocks of a row are whole.

With ``STOCHASTIC``, weights are bfloat16 and rounded at random by ``triton_rounding.py``. If all
parts are ``IN_ORDER``, the numbers of a part's elements in the whole tensor have no gaps, and begin
with an even one.

``table`` begins with the numbers of the rule and their slopes, in float64. Then it has a row of
64-bit integers for each part; the columns are named below. ``part_of`` has the row of each program.
``coefficients`` has ``(a, b, c, d, keep)`` for each layer, in the dtype of the arithmetic. If
``keep`` is 0, the layer does not change.
"""

# Triton compiles these functions as its own language.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false
import triton
import triton.language as tl

from novograd import quantized
from novograd.rule import Numbers
from novograd.torch.backends.triton_int8 import dequantised, quantised
from novograd.torch.backends.triton_rounding import (
    bits_in_order,
    bits_of,
    bits_of_blocks,
    bits_of_pairs,
    moment_key,
    numbers_with_gaps,
    to_bfloat16,
    weights_key,
)

# Whether a compiled kernel can be launched with all arguments of its function. Older versions were
# not tried.
LAUNCHES_COMPILED = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 6)
# The columns of the table. The first seven are addresses. AT_SQUARE is the address of the known
# squared norms, or 0 if these are unknown. AT_BLOCKS is the address of the scales of blocks, or 0
# without an int8 buffer. AT_STEP is the address of the number of steps before this one, or 0 if the
# step does not round at random.
AT_PARAM = tl.constexpr(0)
AT_GRAD = tl.constexpr(1)
AT_MOMENT = tl.constexpr(2)
AT_V = tl.constexpr(3)
AT_SQUARE = tl.constexpr(4)
AT_BLOCKS = tl.constexpr(5)
AT_STEP = tl.constexpr(6)
LAYERS = tl.constexpr(7)
RUNS = tl.constexpr(8)
RUN = tl.constexpr(9)
STRIDE = tl.constexpr(10)
LENGTH = tl.constexpr(11)  # elements of a row (see ``parts.Rows``)
NUMBER = tl.constexpr(12)  # of its first element in the whole tensor
GAP = tl.constexpr(13)  # elements of the whole tensor between two of its rows
SEGMENT = tl.constexpr(14)  # elements of a segment, or the most of a program with short pieces
SEGMENTS = tl.constexpr(15)  # of a piece
FIRST_PROGRAM = tl.constexpr(16)  # its first program of the passes over memory
FIRST_OF_SCALARS = tl.constexpr(17)  # its first program of ``scalars``
FIRST_SUM = tl.constexpr(18)  # its first partial sum
FIRST_LAYER = tl.constexpr(19)
SCALE = tl.constexpr(20)  # the bits of a float64: the factor of its normalised gradient
COLUMNS = tl.constexpr(21)
# The numbers of the rule.
KEEP = tl.constexpr(Numbers._fields.index("keep"))
MIX = tl.constexpr(Numbers._fields.index("mix"))
FIRST = tl.constexpr(Numbers._fields.index("first"))
CORRECTION = tl.constexpr(Numbers._fields.index("correction"))
CLIP = tl.constexpr(Numbers._fields.index("clip"))
INSIDE = tl.constexpr(Numbers._fields.index("inside"))
OUTSIDE = tl.constexpr(Numbers._fields.index("outside"))
NORMALISES_MOMENT = tl.constexpr(Numbers._fields.index("normalises_moment"))
A = tl.constexpr(Numbers._fields.index("a"))
B = tl.constexpr(Numbers._fields.index("b"))
C = tl.constexpr(Numbers._fields.index("c"))
D = tl.constexpr(Numbers._fields.index("d"))
WAKE = tl.constexpr(Numbers._fields.index("wake"))
NUMBERS = tl.constexpr(len(Numbers._fields))
COEFFICIENTS = tl.constexpr(5)
# Elements of a segment, unless a row of blocks is longer: enough to outweigh the cost of the start
# of a program, and few enough that 25 million elements keep all multiprocessors of a large device
# busy.
LONGEST_SEGMENT = 8192
# Layers or partial sums that a program of ``scalars`` processes at a time.
LANES = tl.constexpr(1024)
# The lengths of layers that ``short_layers`` is compiled for. A layer uses the next greater one.
WIDTHS = 4, 16, 64, 256, 1024, 2048, 4096


# Bytes of each tensor that a program of ``square_sums`` or ``linear_pass`` loads at a time, and
# elements that it loads if these do not start at a multiple of 16 bytes.
SUM_BYTES, UPDATE_BYTES = 16384, 8192
UNALIGNED_TILE = tl.constexpr(512)
# Elements that ``linear_pass`` loads at a time if the momentum buffer is int8.
QUANTISED_TILE = 2048
# The most registers of a thread then. With a few more, which the compiler would take, a
# multiprocessor holds fewer programs, and fewer loads hide the time of the arithmetic.
QUANTISED_REGISTERS = 128
BLOCK = tl.constexpr(quantized.BLOCK)
# Elements and layers that a program of ``short_layers`` loads at a time.
SHORT_TILE, SHORT_UNALIGNED_TILE, MOST_ROWS = 2048, 1024, 256


@triton.jit
def square_sums(
    table,
    part_of,
    partial_sums,
    grad_scale,
    GRAD: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Writes the sums of the squares of segments."""
    program = tl.program_id(0)
    row = _row(table, tl.load(part_of + program))
    runs, run, stride = tl.load(row + RUNS), tl.load(row + RUN), tl.load(row + STRIDE)
    first, last, segment, segments = _work(row, program)
    longest = tl.load(row + SEGMENT)
    begin = segment * longest
    n = tl.minimum(run - begin, longest).to(tl.int32)
    gradient = tl.load(row + AT_GRAD)
    size: tl.constexpr = GRAD.primitive_bitwidth // 8
    sums = partial_sums + tl.load(row + FIRST_SUM) + segment
    dtype: tl.constexpr = partial_sums.dtype.element_ty
    inverse = _inverse(grad_scale, dtype, HAS_SCALE)
    if run == 1:  # each element is a layer
        for start in range(first, last, UNALIGNED_TILE):
            at = start + tl.arange(0, UNALIGNED_TILE)
            source = _pointer(gradient, GRAD) + at
            g = tl.load(source, mask=at < last, other=0.0).to(dtype) * inverse
            tl.store(sums + at, g * g, mask=at < last)
    else:
        for piece in range(first, last):
            at = piece % runs * stride + piece // runs * run + begin
            address = gradient + at * size
            if address % 16 == 0:
                source = tl.multiple_of(address.to(tl.pointer_type(GRAD), bitcast=True), 16)
                body = n // 8 * 8
                total = _sum_of_squares(source, body, inverse, TILE)
                if body < n:
                    total += _sum_of_squares(source + body, n - body, inverse, 8)
            else:
                total = _sum_of_squares(_pointer(address, GRAD), n, inverse, UNALIGNED_TILE)
            tl.store(sums + piece * segments, total)


@triton.jit
def layer_sums(table, part_of, partial_sums):
    """Writes the squared norms of the local pieces of layers that are cut across processes."""
    program = tl.program_id(0)
    row = _row(table, tl.load(part_of + program))
    layers, mine = _layers(row, program)
    s = _sums(row, layers, mine, partial_sums)
    tl.store(_pointer(tl.load(row + AT_SQUARE), tl.float64) + layers, s, mask=mine)


@triton.jit
def scalars(
    table,
    part_of,
    partial_sums,
    rules,
    lr,
    found_inf,
    coefficients,
    V: tl.constexpr,
    HAS_LR: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
    RULE_EACH: tl.constexpr,
    SKIP_NONFINITE: tl.constexpr,
):
    """Updates ``v`` of all layers, and writes the coefficients of the linear passes.

    ``rules`` are the same for all parts, or differ for each part. With ``HAS_LR``, the numbers of
    the rule are ``rules + lr*slopes``, and the slopes follow the rules in memory.
    """
    program = tl.program_id(0)
    part = tl.load(part_of + program)
    row = _row(table, part)
    layers, mine = _layers(row, program)
    known = tl.load(row + AT_SQUARE)
    if known == 0:
        s = _sums(row, layers, mine, partial_sums)
    else:
        s = tl.load(_pointer(known, tl.float64) + layers, mask=mine, other=0.0)
    rule = rules + part * NUMBERS if RULE_EACH else rules
    vs = _pointer(tl.load(row + AT_V), V) + layers
    scale = tl.load(row + SCALE).to(tl.float64, bitcast=True)
    # fmt: off
    a, b, c, d, used = _advance(s, vs, mine, scale, rule, lr, found_inf,
                                HAS_LR, HAS_FOUND_INF, SKIP_NONFINITE)
    # fmt: on
    out = coefficients + (tl.load(row + FIRST_LAYER) + layers) * COEFFICIENTS
    dtype: tl.constexpr = coefficients.dtype.element_ty
    tl.store(out, a.to(dtype), mask=mine)
    tl.store(out + 1, b.to(dtype), mask=mine)
    tl.store(out + 2, c.to(dtype), mask=mine)
    tl.store(out + 3, d.to(dtype), mask=mine)
    tl.store(out + 4, used.to(dtype), mask=mine)


@triton.jit
def linear_pass(
    table,
    part_of,
    coefficients,
    rules,
    grad_scale,
    PARAM: tl.constexpr,
    GRAD: tl.constexpr,
    MOMENT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    NESTEROV: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    IN_ORDER: tl.constexpr,
    TILE: tl.constexpr,
):
    """Updates the weights and the momentum buffer.

    The programs run in reverse order: they start with the memory that ``square_sums`` read last,
    because it may still be in the cache.
    """
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    row = _row(table, tl.load(part_of + program))
    runs, run, stride = tl.load(row + RUNS), tl.load(row + RUN), tl.load(row + STRIDE)
    first, last, segment, _ = _work(row, program)
    longest = tl.load(row + SEGMENT)
    begin = segment * longest
    n = tl.minimum(run - begin, longest).to(tl.int32)
    param, gradient, moment = (
        tl.load(row + AT_PARAM),
        tl.load(row + AT_GRAD),
        tl.load(row + AT_MOMENT),
    )
    dtype: tl.constexpr = coefficients.dtype.element_ty
    beta1 = tl.load(rules).to(dtype)
    inverse = _inverse(grad_scale, dtype, HAS_SCALE)
    mine = coefficients + tl.load(row + FIRST_LAYER) * COEFFICIENTS
    key = weights_key(_step(row)) if STOCHASTIC else 0
    number = tl.load(row + NUMBER)
    if tl.int8 == MOMENT:
        # fmt: off
        _update_pieces(row, first, last, begin, n, mine, beta1, inverse, key,
                       PARAM, GRAD, NESTEROV, STOCHASTIC, TILE)
        # fmt: on
    elif run == 1:  # each element is a layer
        for start in range(first, last, UNALIGNED_TILE):
            lanes = tl.arange(0, UNALIGNED_TILE)
            at = start + lanes
            a, b, c, d, keep = _coefficients(mine + at * COEFFICIENTS, at < last)
            ws = _pointer(param, PARAM) + at
            gs = _pointer(gradient, GRAD) + at
            ms = _pointer(moment, MOMENT) + at
            a *= inverse
            bits = _bits(row, key, number + start, lanes, STOCHASTIC, IN_ORDER)
            _update(ws, gs, ms, keep != 0, a, b, c, d, beta1, bits, NESTEROV, STOCHASTIC)
    else:
        for piece in range(first, last):
            layer = piece // runs
            at = piece % runs * stride + layer * run + begin
            a, b, c, d, keep = _coefficients(mine + layer * COEFFICIENTS, layer >= 0)
            if keep != 0:
                w = param + at * (PARAM.primitive_bitwidth // 8)
                g = gradient + at * (GRAD.primitive_bitwidth // 8)
                m = moment + at * (MOMENT.primitive_bitwidth // 8)
                a *= inverse
                odd = w | g | m
                if STOCHASTIC:
                    odd |= at * 8  # numbers are as even as places in memory
                # fmt: off
                if odd % 16 == 0:
                    ws = tl.multiple_of(w.to(tl.pointer_type(PARAM), bitcast=True), 16)
                    gs = tl.multiple_of(g.to(tl.pointer_type(GRAD), bitcast=True), 16)
                    ms = tl.multiple_of(m.to(tl.pointer_type(MOMENT), bitcast=True), 16)
                    body = n // 8 * 8
                    _update_all(row, ws, gs, ms, body, a, b, c, d, beta1, key, number + at,
                                True, NESTEROV, STOCHASTIC, IN_ORDER, TILE)
                    if body < n:
                        _update_all(row, ws + body, gs + body, ms + body, n - body, a, b, c, d,
                                    beta1, key, number + at + body,
                                    True, NESTEROV, STOCHASTIC, IN_ORDER, 8)
                else:
                    ws, gs, ms = _pointer(w, PARAM), _pointer(g, GRAD), _pointer(m, MOMENT)
                    _update_all(row, ws, gs, ms, n, a, b, c, d, beta1, key, number + at,
                                False, NESTEROV, STOCHASTIC, IN_ORDER, UNALIGNED_TILE)
                # fmt: on


@triton.jit(do_not_specialize=["before"])
def short_layers(
    table,
    part_of,
    before,
    rules,
    lr,
    found_inf,
    grad_scale,
    PARAM: tl.constexpr,
    GRAD: tl.constexpr,
    MOMENT: tl.constexpr,
    V: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
    HAS_LR: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    RULE_EACH: tl.constexpr,
    SKIP_NONFINITE: tl.constexpr,
    NESTEROV: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    IN_ORDER: tl.constexpr,
):
    """Takes the whole step of layers with one piece of at most ``WIDTH`` elements.

    The gradient of such a layer fits in the registers, so the step reads it only once. ``before``
    is the number of programs of other launches that are before these in ``part_of``. ``ALIGNED``
    layers start at multiples of 16 bytes, and have a multiple of 8 elements. With a momentum buffer
    in int8, their blocks are whole, and the numbers of the first elements are multiples of 128.
    """
    program = before + tl.program_id(0)
    part = tl.load(part_of + program)
    row = _row(table, part)
    run = tl.load(row + RUN)
    first, last, _, _ = _work(row, program)
    param, gradient, moment = (
        tl.load(row + AT_PARAM),
        tl.load(row + AT_GRAD),
        tl.load(row + AT_MOMENT),
    )
    rule = rules + part * NUMBERS if RULE_EACH else rules
    beta1 = tl.load(rules).to(V)
    scale = tl.load(row + SCALE).to(tl.float64, bitcast=True)
    inverse = _inverse(grad_scale, V, HAS_SCALE)
    vs = _pointer(tl.load(row + AT_V), V)
    quantises: tl.constexpr = tl.int8 == MOMENT
    key = weights_key(_step(row)) if STOCHASTIC else 0
    number = tl.load(row + NUMBER)
    short = run.to(tl.int32)  # and so are the distances within a tile
    if ALIGNED:  # moves 16 bytes at a time
        short = short // 8 * 8
    for start in range(first, last, ROWS):
        mine = tl.arange(0, ROWS) < last - start
        at = start * run
        w = param + at * (PARAM.primitive_bitwidth // 8)
        g = gradient + at * (GRAD.primitive_bitwidth // 8)
        m = moment + at * (MOMENT.primitive_bitwidth // 8)
        ws = w.to(tl.pointer_type(PARAM), bitcast=True)
        gs = g.to(tl.pointer_type(GRAD), bitcast=True)
        ms = m.to(tl.pointer_type(MOMENT), bitcast=True)
        if ALIGNED:
            ws, gs = tl.multiple_of(ws, 16), tl.multiple_of(gs, 16)
            # Each thread shall load as many numbers of 8 bits as weights, and these in 16 bytes.
            ms = tl.multiple_of(ms, 128 // PARAM.primitive_bitwidth if quantises else 16)
        # fmt: off
        if quantises:
            _step_of_quantised_layers(row, ws, gs, ms, at, vs + start, mine, run, scale, rule, lr,
                                      found_inf, beta1, inverse, key, ROWS, WIDTH, ALIGNED,
                                      HAS_LR, HAS_FOUND_INF, SKIP_NONFINITE, NESTEROV, STOCHASTIC)
        else:
            _step_of_layers(row, ws, gs, ms, vs + start, mine, short, scale, rule, lr, found_inf,
                            beta1, inverse, key, number + at, ROWS, WIDTH, ALIGNED, HAS_LR,
                            HAS_FOUND_INF, SKIP_NONFINITE, NESTEROV, STOCHASTIC, IN_ORDER)
        # fmt: on


# -- helpers of the kernels ----------------------------------------------------------------------


@triton.jit
def _step_of_layers(
    row,
    ws,
    gs,
    ms,
    vs,
    mine,
    run,
    scale,
    rule,
    lr,
    found_inf,
    beta1,
    inverse,
    key,
    number,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
    HAS_LR: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
    SKIP_NONFINITE: tl.constexpr,
    NESTEROV: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    IN_ORDER: tl.constexpr,
):
    """Takes the step of a tile of layers of ``run`` elements each."""
    layers = tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)[None, :]
    at = layers[:, None] * run + columns
    inside = mine[:, None] & (columns < run)
    g = tl.load(gs + at, mask=inside, other=0.0).to(inverse.dtype)
    w = tl.load(ws + at, mask=inside, other=0.0).to(inverse.dtype)
    m = tl.load(ms + at, mask=inside, other=0.0).to(inverse.dtype)
    unscaled = g * inverse
    s = tl.sum(unscaled * unscaled, axis=1)
    # fmt: off
    a, b, c, d, used = _scalars(s, vs + layers, mine, scale, rule, lr, found_inf, inverse,
                                HAS_LR, HAS_FOUND_INF, SKIP_NONFINITE)
    # fmt: on
    w, m = _linear_pass(w, g, m, a[:, None], b[:, None], c, d[:, None], beta1, NESTEROV)
    used = inside & used[:, None]
    if STOCHASTIC & IN_ORDER & ALIGNED:
        pairs = (layers * (run // 2))[:, None] + tl.arange(0, WIDTH // 2)[None, :]
        bits = bits_of_pairs(key, number, pairs, w)
    else:
        bits = _bits(row, key, number, at, STOCHASTIC, IN_ORDER)
    _store_weights(ws + at, w, used, bits, STOCHASTIC)
    tl.store(ms + at, m.to(ms.dtype.element_ty), mask=used)


@triton.jit
def _step_of_quantised_layers(
    row,
    ws,
    gs,
    ms,
    begin,
    vs,
    mine,
    run,
    scale,
    rule,
    lr,
    found_inf,
    beta1,
    inverse,
    key,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
    HAS_LR: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
    SKIP_NONFINITE: tl.constexpr,
    NESTEROV: tl.constexpr,
    STOCHASTIC: tl.constexpr,
):
    """Takes the step of a tile of layers, from element ``begin`` of a part, with int8."""
    size: tl.constexpr = min(WIDTH, BLOCK)
    layers, blocks = tl.arange(0, ROWS), tl.arange(0, WIDTH // size)[None, :]
    length = tl.load(row + LENGTH).to(tl.int32)
    count = _count(run.to(tl.int32), length, ALIGNED)
    filled = mine[:, None] & (blocks < count)
    blocks += layers[:, None] * count
    starts, at, inside = _places(blocks, filled, length, size, ALIGNED)
    scales = _scales(row, begin, ALIGNED) + blocks
    numbers = _numbers(row, begin + starts)
    g = tl.load(gs + at, mask=inside, other=0.0).to(inverse.dtype)
    w = tl.load(ws + at, mask=inside, other=0.0).to(inverse.dtype)
    q = tl.load(ms + at, mask=inside, other=0)
    old = tl.load(scales, mask=filled, other=0.0)
    unscaled = g * inverse
    s = tl.sum(tl.sum(unscaled * unscaled, axis=2), axis=1)
    # fmt: off
    a, b, c, d, used = _scalars(s, vs + layers, mine, scale, rule, lr, found_inf, inverse,
                                HAS_LR, HAS_FOUND_INF, SKIP_NONFINITE)
    w, m = _linear_pass(w, g, dequantised(q, old, inverse.dtype), a[:, None, None],
                        b[:, None, None], c, d[:, None, None], beta1, NESTEROV)
    # fmt: on
    used = used[:, None]
    bits = _bits_of_blocks(key, numbers, w, STOCHASTIC, ALIGNED)
    _store_weights(ws + at, w, inside & used[:, :, None], bits, STOCHASTIC)
    q, new = quantised(m, bits_of_blocks(moment_key(_step(row)), numbers, m, ALIGNED))
    tl.store(ms + at, q, mask=inside & used[:, :, None])
    tl.store(scales, new, mask=filled & used)


@triton.jit
def _scalars(
    s,
    vs,
    mine,
    scale,
    rule,
    lr,
    found_inf,
    inverse,
    HAS_LR: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
    SKIP_NONFINITE: tl.constexpr,
):
    """Advances layers. The coefficients are for scaled gradients, in the dtype of ``inverse``."""
    # fmt: off
    a, b, c, d, used = _advance(s, vs, mine, scale, rule, lr, found_inf,
                                HAS_LR, HAS_FOUND_INF, SKIP_NONFINITE)
    # fmt: on
    dtype: tl.constexpr = inverse.dtype
    return a.to(dtype) * inverse, b.to(dtype), c.to(dtype), d.to(dtype), used


@triton.jit
def _advance(
    s,
    vs,
    mine,
    scale,
    rule,
    lr,
    found_inf,
    HAS_LR: tl.constexpr,
    HAS_FOUND_INF: tl.constexpr,
    SKIP_NONFINITE: tl.constexpr,
):
    """Updates ``v`` of layers. Returns ``(a, b, c, d)``, and whether each layer is updated."""
    # A value beyond the range of v becomes an infinity, like in all other backends.
    s = s.to(vs.dtype.element_ty).to(tl.float64)
    keep, mix, start = tl.load(rule + KEEP), tl.load(rule + MIX), tl.load(rule + FIRST)
    correction, inside, outside = (
        tl.load(rule + CORRECTION),
        tl.load(rule + INSIDE),
        tl.load(rule + OUTSIDE),
    )
    a, b, c, d = tl.load(rule + A), tl.load(rule + B), tl.load(rule + C), tl.load(rule + D)
    wake, clip = tl.load(rule + WAKE), tl.load(rule + CLIP)
    divides_d = tl.load(rule + NORMALISES_MOMENT) != 0
    used = mine
    if HAS_FOUND_INF:
        used &= tl.zeros_like(s) + tl.load(found_inf) == 0
    if SKIP_NONFINITE:
        used &= tl.abs(s) < float("inf")
    if HAS_LR:
        rate = tl.load(lr).to(tl.float64)
        a += rate * tl.load(rule + NUMBERS + A)
        b += rate * tl.load(rule + NUMBERS + B)
        c += rate * tl.load(rule + NUMBERS + C)
        d += rate * tl.load(rule + NUMBERS + D)
        wake += rate * tl.load(rule + NUMBERS + WAKE)

    v = tl.load(vs, mask=mine, other=0.0).to(tl.float64)
    # All warps with a piece of a layer load its v. The barrier lets none of them store the new one
    # before all of them have the old one.
    tl.debug_barrier()
    new = tl.where(v == 0, start * s, keep * v + mix * s).to(vs.dtype.element_ty)
    idle = v + new.to(tl.float64) + wake == 0  # none of them is negative
    limit = clip * tl.where(clip > 0, s, 0.0)  # 0 times an infinity would be NaN
    corrected = correction * new.to(tl.float64)
    norm = tl.sqrt(tl.where(corrected < limit, limit, corrected) + inside) + outside
    # An s beyond the range makes a = 0. It is not stored, because v would stay infinite.
    tl.store(vs, new, mask=used & (tl.abs(new) < float("inf")))
    a, d = tl.where(divides_d, a, scale * a / norm), tl.where(divides_d, scale * d / norm, d)
    return a, tl.where(idle, 0.0, b), c, d, used


@triton.jit
def _row(table, part):
    """Returns the row of a part, after the numbers of the rule and their slopes."""
    return table + 2 * NUMBERS + part.to(tl.int64) * COLUMNS


@triton.jit
def _work(row, program):
    """Returns a program's first piece, the end of its pieces, its segment, and their number."""
    k = program - tl.load(row + FIRST_PROGRAM)
    pieces, run = tl.load(row + LAYERS) * tl.load(row + RUNS), tl.load(row + RUN)
    segments = tl.load(row + SEGMENTS)
    each = tl.where(segments == 1, tl.load(row + SEGMENT) // run, 1)
    first = k // segments * each
    return first, tl.minimum(first + each, pieces), k % segments, segments


@triton.jit
def _layers(row, program):
    """Returns the layers of a program of ``scalars``, and a mask of the layers that exist.

    A program has one layer for each lane if each layer has one partial sum; otherwise it has one
    layer.
    """
    k = program - tl.load(row + FIRST_OF_SCALARS)
    lanes = tl.arange(0, LANES)
    sums = tl.load(row + RUNS) * tl.load(row + SEGMENTS)
    each = tl.where(sums == 1, LANES, 1)
    layers = k * each + lanes
    return layers, (lanes < each) & (layers < tl.load(row + LAYERS))


@triton.jit
def _sums(row, layers, mine, partial_sums):
    """Returns the squared norms of layers, in float64."""
    count = tl.load(row + RUNS) * tl.load(row + SEGMENTS)
    partial = partial_sums + tl.load(row + FIRST_SUM)
    if count == 1:
        s = tl.load(partial + layers, mask=mine, other=0.0).to(tl.float64)
    else:
        partial += tl.min(layers, 0) * count
        s = tl.full((LANES,), 0.0, tl.float64)
        for start in range(0, count, LANES):
            at = start + tl.arange(0, LANES)
            s += tl.load(partial + at, mask=at < count, other=0.0).to(tl.float64)
        s = tl.full((LANES,), 0.0, tl.float64) + tl.sum(s)
    return s


@triton.jit
def _inverse(grad_scale, dtype: tl.constexpr, HAS_SCALE: tl.constexpr):
    """Returns the factor of the gradients that undoes the loss scale."""
    if HAS_SCALE:
        inverse = (1.0 / tl.load(grad_scale).to(tl.float64)).to(dtype)
    else:
        inverse = tl.full((), 1.0, dtype)
    return inverse


@triton.jit
def _sum_of_squares(gradient, n, inverse, TILE: tl.constexpr):
    """Returns the sum of the squares of ``n`` elements. Each thread first sums its own elements."""
    total = tl.full((TILE,), 0.0, inverse.dtype)
    for start in range(0, n, TILE):
        at = start + tl.arange(0, TILE)
        g = tl.load(gradient + at, mask=at < n, other=0.0).to(inverse.dtype) * inverse
        total += g * g
    return tl.sum(total)


@triton.jit
def _coefficients(row, mine):
    """Returns ``(a, b, c, d, keep)``."""
    a = tl.load(row, mask=mine, other=0.0)
    b = tl.load(row + 1, mask=mine, other=0.0)
    c = tl.load(row + 2, mask=mine, other=0.0)
    d = tl.load(row + 3, mask=mine, other=0.0)
    return a, b, c, d, tl.load(row + 4, mask=mine, other=0.0)


@triton.jit
def _update_all(
    row,
    ws,
    gs,
    ms,
    n,
    a,
    b,
    c,
    d,
    beta1,
    key,
    number,
    EVEN: tl.constexpr,
    NESTEROV: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    IN_ORDER: tl.constexpr,
    TILE: tl.constexpr,
):
    """Updates ``n`` elements, from an ``EVEN`` place of the part."""
    for start in range(0, n, TILE):
        at = start + tl.arange(0, TILE)
        if STOCHASTIC & IN_ORDER & EVEN:
            pairs = start // 2 + tl.arange(0, TILE // 2)
            bits = bits_of_pairs(key, number, pairs, at)
        else:
            bits = _bits(row, key, number, at, STOCHASTIC, IN_ORDER)
        # fmt: off
        _update(ws + at, gs + at, ms + at, at < n, a, b, c, d, beta1, bits,
                NESTEROV, STOCHASTIC)
        # fmt: on


@triton.jit
def _update(
    ws,
    gs,
    ms,
    mine,
    a,
    b,
    c,
    d,
    beta1,
    bits,
    NESTEROV: tl.constexpr,
    STOCHASTIC: tl.constexpr,
):
    """Loads, updates and stores elements, in the dtype of the scalars."""
    w = tl.load(ws, mask=mine, other=0.0).to(a.dtype)
    g = tl.load(gs, mask=mine, other=0.0).to(a.dtype)
    m = tl.load(ms, mask=mine, other=0.0).to(a.dtype)
    w, m = _linear_pass(w, g, m, a, b, c, d, beta1, NESTEROV)
    _store_weights(ws, w, mine, bits, STOCHASTIC)
    tl.store(ms, m.to(ms.dtype.element_ty), mask=mine)


@triton.jit
def _linear_pass(w, g, m, a, b, c, d, beta1, NESTEROV: tl.constexpr):
    """Returns the new weights and momentum buffer."""
    push = a * g + b * w
    m = beta1 * m + push
    return c * w - d * (beta1 * m + push if NESTEROV else m), m


@triton.jit
def _store_weights(ws, w, mine, bits, STOCHASTIC: tl.constexpr):
    """Stores weights in their dtype."""
    if STOCHASTIC:
        w = to_bfloat16(w, bits)
    tl.store(ws, w.to(ws.dtype.element_ty), mask=mine)


@triton.jit
def _update_pieces(
    row,
    first,
    last,
    begin,
    n,
    coefficients,
    beta1,
    inverse,
    key,
    PARAM: tl.constexpr,
    GRAD: tl.constexpr,
    NESTEROV: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    TILE: tl.constexpr,
):
    """Updates a segment of each of several pieces whose momentum buffer is int8."""
    runs, run, stride = tl.load(row + RUNS), tl.load(row + RUN), tl.load(row + STRIDE)
    for piece in range(first, last):
        layer = piece // runs
        at = piece % runs * stride + layer * run + begin
        a, b, c, d, keep = _coefficients(coefficients + layer * COEFFICIENTS, layer >= 0)
        if keep != 0:
            w = tl.load(row + AT_PARAM) + at * (PARAM.primitive_bitwidth // 8)
            g = tl.load(row + AT_GRAD) + at * (GRAD.primitive_bitwidth // 8)
            m = tl.load(row + AT_MOMENT) + at
            a *= inverse
            # fmt: off
            if _are_whole(row) & ((w | g | m) % 16 == 0):
                ws = tl.multiple_of(w.to(tl.pointer_type(PARAM), bitcast=True), 16)
                gs = tl.multiple_of(g.to(tl.pointer_type(GRAD), bitcast=True), 16)
                ms = tl.multiple_of(m.to(tl.pointer_type(tl.int8), bitcast=True),
                                    128 // PARAM.primitive_bitwidth)
                _update_blocks(row, ws, gs, ms, at, n, a, b, c, d, beta1, key,
                               True, NESTEROV, STOCHASTIC, TILE)
            else:
                ws, gs, ms = _pointer(w, PARAM), _pointer(g, GRAD), _pointer(m, tl.int8)
                _update_blocks(row, ws, gs, ms, at, n, a, b, c, d, beta1, key,
                               False, NESTEROV, STOCHASTIC, UNALIGNED_TILE)
            # fmt: on


@triton.jit
def _update_blocks(
    row,
    ws,
    gs,
    ms,
    begin,
    n,
    a,
    b,
    c,
    d,
    beta1,
    key,
    ALIGNED: tl.constexpr,
    NESTEROV: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    TILE: tl.constexpr,
):
    """Updates ``n`` elements from ``begin`` of the part, whose momentum buffer is int8."""
    length = tl.load(row + LENGTH).to(tl.int32)
    count = _count(n, length, ALIGNED)
    for start in range(0, count, TILE // BLOCK):
        blocks = start + tl.arange(0, TILE // BLOCK)
        filled = blocks < count
        starts, at, inside = _places(blocks, filled, length, BLOCK, ALIGNED)
        scales = _scales(row, begin, ALIGNED) + blocks
        numbers = _numbers(row, begin + starts)
        w = tl.load(ws + at, mask=inside, other=0.0).to(a.dtype)
        g = tl.load(gs + at, mask=inside, other=0.0).to(a.dtype)
        q = tl.load(ms + at, mask=inside, other=0)
        m = dequantised(q, tl.load(scales, mask=filled, other=0.0), a.dtype)
        tl.debug_barrier()  # as in ``_advance``, for the scales
        w, m = _linear_pass(w, g, m, a, b, c, d, beta1, NESTEROV)
        bits = _bits_of_blocks(key, numbers, w, STOCHASTIC, ALIGNED)
        _store_weights(ws + at, w, inside, bits, STOCHASTIC)
        q, new = quantised(m, bits_of_blocks(moment_key(_step(row)), numbers, m, ALIGNED))
        tl.store(ms + at, q, mask=inside)
        tl.store(scales, new, mask=filled)


@triton.jit
def _count(n, length, WHOLE: tl.constexpr):
    """Returns the number of blocks of ``n`` elements, which are whole blocks or whole rows."""
    return n // BLOCK if WHOLE else n // length * tl.cdiv(length, BLOCK)


@triton.jit
def _places(blocks, filled, length, SIZE: tl.constexpr, WHOLE: tl.constexpr):
    """Returns the starts of blocks, the places of their elements, and which of these exist.

    A block has at most ``SIZE`` elements; ``WHOLE`` blocks have just as many.
    """
    columns = tl.arange(0, SIZE)
    if WHOLE:
        starts, inside = blocks * SIZE, tl.expand_dims(filled, -1)
    else:
        each = tl.cdiv(length, SIZE)
        before = blocks % each * SIZE  # in its row
        starts = blocks // each * length + before
        inside = tl.expand_dims(filled, -1) & (columns < tl.expand_dims(length - before, -1))
    return starts, tl.expand_dims(starts, -1) + columns, inside


@triton.jit
def _are_whole(row):
    """Whether the blocks of a part are whole, and their numbers are multiples of 128."""
    length, number, gap = tl.load(row + LENGTH), tl.load(row + NUMBER), tl.load(row + GAP)
    return (length | number | gap) % BLOCK == 0


@triton.jit
def _scales(row, begin, WHOLE: tl.constexpr):
    """Returns the pointer to the scale of the block that begins at an element of a part."""
    if WHOLE:
        block = begin // BLOCK
    else:
        length = tl.load(row + LENGTH)
        block = begin // length * tl.cdiv(length, BLOCK) + begin % length // BLOCK
    return _pointer(tl.load(row + AT_BLOCKS), tl.float32) + block


@triton.jit
def _numbers(row, starts):
    """Returns the numbers in the whole tensor of elements with the given numbers in a part."""
    gap = tl.load(row + GAP)
    numbers = tl.load(row + NUMBER) + starts
    if gap != 0:
        numbers += starts // tl.load(row + LENGTH) * gap
    return numbers


@triton.jit
def _step(row):
    """Returns the number of steps before this one, as the optimizer stores it."""
    return tl.load(_pointer(tl.load(row + AT_STEP), tl.float32))


@triton.jit
def _bits(row, key, number, at, STOCHASTIC: tl.constexpr, IN_ORDER: tl.constexpr):
    """Returns the random bits of weights at the places ``at``, from one of a part.

    Without gaps this one would have the given number.
    """
    if not STOCHASTIC:
        bits = at
    elif IN_ORDER:
        bits = bits_in_order(key, number, at)
    else:
        first, length, gap = tl.load(row + NUMBER), tl.load(row + LENGTH), tl.load(row + GAP)
        bits = bits_of(key, numbers_with_gaps(first, number - first, at, length, gap))
    return bits


@triton.jit
def _bits_of_blocks(key, numbers, like, STOCHASTIC: tl.constexpr, ALIGNED: tl.constexpr):
    """Returns the random bits of weights whose momentum buffer is int8."""
    return bits_of_blocks(key, numbers, like, ALIGNED) if STOCHASTIC else 0


@triton.jit
def _pointer(address, dtype: tl.constexpr):
    """Returns an address as a pointer.

    Triton 3.6 forgets a ``multiple_of`` of the result of a function. So code with ``multiple_of``
    does this itself.
    """
    return address.to(tl.pointer_type(dtype), bitcast=True)
