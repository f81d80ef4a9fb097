"""The native kernels give right results for every dtype, instruction set and number of threads."""

import itertools
import subprocess
import sys
import threading
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novograd import native, reference
from novograd.conformance import CASES, VARIANT_CASES, MismatchError, check
from novograd.conformance.cases import DTYPES, Case, CaseHyperparameters
from novograd.conformance.choice import chosen
from novograd.conformance.numpy import NativeAdapter
from novograd.native import arguments
from novograd.quantized import BLOCK
from novograd.quantized import quantised as quantised_blocks
from novograd.rounding import FOR_MOMENT, FOR_WEIGHTS, random_bits, to_bfloat16
from novograd.rule import Numbers
from tests.helpers.parameters import some

assert native.kernels, native.PROBLEM
INSTRUCTION_SETS = native.kernels.instruction_sets()
THREADS = (1, 2, 3, 8)
# In turn: layers in chunks for several threads; in several chunks of one thread; in one chunk; and
# many small layers that threads receive together.
SIZES = (1_000_001, 300_007, 100_003, 4_097) + (33,) * 600 + (0, 1)
NUMBERS = Numbers(
    beta1=0.9,
    keep=0.75,
    mix=0.25,
    first=1.0,
    correction=1.0,
    clip=0.0,
    inside=1e-8,
    outside=0.0,
    power=0.5,
    normalises_moment=0.0,
    a=0.1,
    b=0.01,
    c=1.0,
    d=1.0,
    wake=1.0,
)
PLAIN = arguments(NUMBERS)

every_instruction_set = pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
QUANTISED = [kind for kind in native.kernels.KINDS if kind[2] == "int8"]
KINDS = [kind for kind in native.kernels.KINDS if kind not in QUANTISED]
every_kind = pytest.mark.parametrize("kind", KINDS, ids="-".join)
# One kind for each dtype and one with two dtypes. Other tests run every kind with few numbers.
some_kinds = pytest.mark.parametrize(
    "kind",
    some(
        KINDS,
        kept=[*((name,) * 3 for name in DTYPES), ("float32", "bfloat16", "float32")],
        name="-".join,
    ),
)


@pytest.fixture
def instruction_set(request, monkeypatch):
    """Makes the kernels use the instruction set of the test."""
    monkeypatch.setenv("NOVOGRAD_ISA", request.param)
    assert native.kernels.instruction_set() == request.param


def layers_of(
    kind, weights, gradients, moments, vs, grids=None, scales=None, squares=None, **quantised
):
    """Returns arrays of one kind as input of the kernels; by default each array is one layer."""
    return native.kernels.Tensors(
        kinds=[kind] * len(weights),
        grids=grids or [(1, 1, x.size, x.size) for x in weights],
        scales=scales or [1.0] * len(weights),
        weights=[x.ctypes.data for x in weights],
        gradients=[x.ctypes.data for x in gradients],
        moments=[x.ctypes.data for x in moments],
        vs=[x.ctypes.data for x in vs],
        squares=squares and [x if x is None else x.ctypes.data for x in squares],
        **quantised,
    )


class Arrays:
    """Random weights, gradients and state; each array is one layer."""

    def __init__(self, kind, sizes, seed=0, offset=0):
        self.kind = native.kernels.KINDS.index(kind)
        random = np.random.default_rng(seed)
        w, g, m = (DTYPES[name] for name in kind)
        v = np.float64 if kind[0] == "float64" else np.float32

        def numbers(size, dtype):
            # With an offset, the array is aligned only to its own dtype.
            array = np.empty(size + offset, dtype)[offset:]
            array[:] = random.standard_normal(size)
            return array

        self.weights = [numbers(size, w) for size in sizes]
        self.gradients = [numbers(size, g) for size in sizes]
        self.moments = [numbers(size, m) for size in sizes]
        self.vs = [np.zeros((), v) for _ in sizes]

    def layers(self):
        return layers_of(self.kind, self.weights, self.gradients, self.moments, self.vs)

    def stored(self):
        return b"".join(x.tobytes() for x in (*self.weights, *self.moments, *self.vs))


def stepped(kind, sizes, threads, *, rule=PLAIN, steps=3, offset=0):
    """Returns the bytes of the weights and the state after some steps."""
    arrays = Arrays(kind, sizes, offset=offset)
    for _ in range(steps):
        arrays.layers().step(rule, threads)
    return arrays.stored()


# Without ``--full``, each instruction set runs each dtype, and at least one runs each feature.
CHOICE = {(name, x.name) for name, x in chosen(INSTRUCTION_SETS, [*CASES, *VARIANT_CASES])}


@pytest.mark.parametrize(
    ("instruction_set", "case"),
    [
        pytest.param(
            name,
            case,
            id=f"{case.name}-{name}",
            marks=[] if (name, case.name) in CHOICE else [pytest.mark.full],
        )
        for name, case in itertools.product(INSTRUCTION_SETS, [*CASES, *VARIANT_CASES])
    ],
    indirect=["instruction_set"],
)
def test_the_adapter_passes_the_case(instruction_set, case):
    check(NativeAdapter, case)


@every_instruction_set
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_in_many_chunks_pass_the_cases(instruction_set, dtype):
    hyper = CaseHyperparameters(weight_decay=0.1, nesterov=True)
    shapes = tuple((size,) for size in SIZES[:4])
    layers = (None,) * len(shapes)
    check(NativeAdapter, Case("large", dtype, hyper, steps=3, shapes=shapes, layers=layers))


def test_a_wrong_rule_makes_the_kernels_wrong(wrong_rule):
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(NativeAdapter, CASES[0])


@some_kinds
def test_results_do_not_depend_on_threads_instruction_set_prefetching_or_alignment(
    kind, monkeypatch
):
    results = {stepped(kind, SIZES, 1)}
    for name in INSTRUCTION_SETS:
        monkeypatch.setenv("NOVOGRAD_ISA", name)
        results |= {stepped(kind, SIZES, threads) for threads in THREADS}
        results.add(stepped(kind, SIZES, 2, offset=1))
        monkeypatch.setenv("NOVOGRAD_AHEAD", "4096,2048")
        results.add(stepped(kind, SIZES, 2))
        monkeypatch.delenv("NOVOGRAD_AHEAD")
    assert len(results) == 1


@every_kind
@every_instruction_set
def test_mixed_dtypes_agree_with_the_oracle(kind, instruction_set):
    arrays = Arrays(kind, (1001,))
    w, g, m = (x[0].astype(np.float64) for x in (arrays.weights, arrays.gradients, arrays.moments))
    expected = reference.step(
        w,
        m,
        0.0,
        g,
        learning_rate=0.1,
        beta1=0.9,
        beta2=0.75,
        epsilon=1e-8,
        weight_decay=0.1,
        grad_averaging=False,
        nesterov=False,
    )
    arrays.layers().step(PLAIN, 1)
    for stored, wanted in zip((arrays.weights[0], arrays.moments[0]), expected, strict=False):
        # Allows one rounding to the dtype, after a few roundings in float32 or float64.
        compute = np.finfo(np.float64 if kind[0] == "float64" else np.float32).eps
        rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(stored.dtype.name, 0.0)
        np.testing.assert_allclose(
            stored.astype(np.float64), wanted, rtol=1.01 * rounding, atol=16 * compute
        )


# Makes m = g for any norm. The rule also adds 0 to m, so -0 becomes 0.
ZERO = np.float32(0)
COPY = arguments(NUMBERS._replace(beta1=0.0, outside=1.0, normalises_moment=1.0, a=1.0, b=0.0))


def copied(gradient, moment_dtype, weight_dtype="float32"):
    """Returns the momentum buffer after a step that only copies the gradient."""
    arrays = Arrays((weight_dtype, gradient.dtype.name, moment_dtype), (gradient.size,))
    arrays.gradients = [gradient]
    arrays.layers().step(COPY, 1)
    return arrays.moments[0]


def every_finite(dtype):
    """Returns all finite numbers of a half-precision dtype, and the same numbers in float32."""
    numbers = np.arange(2**16).astype(np.uint16).view(DTYPES[dtype])
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = numbers.astype(np.float32)
    return numbers[np.isfinite(wide)], wide[np.isfinite(wide)]


def assert_same_bits(actual, expected):
    unsigned = f"u{actual.itemsize}"
    np.testing.assert_array_equal(actual.view(unsigned), expected.view(unsigned))


@every_instruction_set
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_half_precision_number_is_read_exactly(dtype, instruction_set):
    numbers, wide = every_finite(dtype)
    assert_same_bits(copied(numbers, "float32"), wide + ZERO)


@every_instruction_set
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_to_half_precision_is_to_nearest_even(dtype, instruction_set):
    every = np.sort(every_finite(dtype)[1].astype(np.float64))
    ties = ((every[1:] + every[:-1]) / 2).astype(np.float32)  # exact
    infinity = np.float32(np.inf)
    random = np.random.default_rng(0).integers(0, 2**32, 10**6).astype(np.uint32).view(np.float32)
    numbers = np.concatenate(
        [ties, np.nextafter(ties, infinity), np.nextafter(ties, -infinity), random]
    )
    numbers = numbers[np.isfinite(numbers)]
    with np.errstate(over="ignore"):
        expected = (numbers + ZERO).astype(DTYPES[dtype])
    assert_same_bits(copied(numbers, dtype, dtype), expected)


@every_instruction_set
@every_kind
def test_nan_stays_nan_and_spreads_over_its_whole_layer_only(kind, instruction_set):
    arrays = Arrays(kind, (70, 70))
    # All bits are 1: rounding with a carry would turn this NaN into -0.
    bits = arrays.gradients[0].view(f"u{arrays.gradients[0].itemsize}")
    bits[40] = np.iinfo(bits.dtype).max
    before = arrays.weights[1].copy()
    arrays.layers().step(PLAIN, 1)
    assert np.all(np.isnan(arrays.weights[0]))
    assert np.all(np.isnan(arrays.moments[0]))
    assert arrays.vs[0] == 0  # a NaN norm is not stored
    assert np.all(np.isfinite(arrays.weights[1]))
    assert np.any(arrays.weights[1] != before)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_skip_nonfinite_leaves_a_layer_untouched(bad):
    arrays = Arrays(("float32",) * 3, (300_000, 50, 300_000))
    arrays.layers().step(PLAIN, 2)
    for i in range(2):
        arrays.gradients[i][-1] = bad
    arrays.gradients[2] *= 2
    before = [x.copy() for x in (*arrays.weights, *arrays.moments, *arrays.vs)]
    arrays.layers().step(arguments(NUMBERS, skip_nonfinite=True), 2)
    after = (*arrays.weights, *arrays.moments, *arrays.vs)
    changed = [not np.array_equal(x, y) for x, y in zip(before, after, strict=True)]
    assert changed == [False, False, True] * 3


@pytest.mark.parametrize("clip", [0.0, 4.0])
def test_a_gradient_with_a_norm_beyond_float32_has_no_effect(clip):
    arrays, numbers = Arrays(("float32",) * 3, (10,)), NUMBERS._replace(b=0.0, clip=clip)
    arrays.layers().step(arguments(numbers), 1)
    w, m, v = arrays.weights[0].copy(), arrays.moments[0].copy(), arrays.vs[0].copy()
    arrays.gradients[0][:] = 1e30
    arrays.layers().step(arguments(numbers), 1)
    assert arrays.vs[0] == v
    np.testing.assert_array_equal(arrays.moments[0], np.float32(0.9) * m)
    np.testing.assert_array_equal(arrays.weights[0], w - arrays.moments[0])


def test_two_python_threads_step_at_once():
    alone = stepped(("float32",) * 3, SIZES[:3], 1, steps=20)
    results = []

    def run():
        results.append(stepped(("float32",) * 3, SIZES[:3], 3, steps=20))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [alone] * 3


def test_a_step_lets_other_python_threads_run():
    arrays = Arrays(("float32",) * 3, (20_000_000,))
    layers, counts, stop = arrays.layers(), [0], threading.Event()

    def count():
        while not stop.is_set():
            counts[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = counts[0]
        layers.step(PLAIN, 1)
        during = counts[0] - before
    finally:
        stop.set()
        thread.join()
    # If the step held the GIL, the other thread would count at most once or twice.
    assert during > 100


FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tests.test_native import SIZES, stepped
kind = ("float32",) * 3
expected = stepped(kind, SIZES[:3], 3)  # the pool has threads now
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if stepped(kind, SIZES[:3], 3) == expected else 1)
    children.append(child)
assert stepped(kind, SIZES[:3], 3) == expected
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
"""


def test_a_forked_process_has_its_own_threads(pytestconfig):
    program = [sys.executable, "-W", "ignore:This process", "-c", FORK]
    subprocess.run([*program, str(pytestconfig.rootpath)], check=True, timeout=120)


# Large layers that threads share, contiguous and strided; layers for one thread; small layers that
# threads receive in batches; layers of one element and of none. No chunk is a multiple of the runs.
GRIDS = (
    (1, 3, 300_007, 900_021),
    (3_001, 2, 100, 200),
    (700, 5, 17, 85),
    (1, 1_000, 33, 33_000),
    (1, 5_000, 1, 5_000),
    (40, 4, 64, 256),
    (1, 7, 0, 0),
)
# Layers that are columns, without and with gaps.
COLUMNS = ((30, 300, 1, 300), (30, 1_000, 1, 1_007), (5, 20, 1, 20), (150, 1_100, 1, 1_107))
every_grid = pytest.mark.parametrize("grids", [GRIDS, COLUMNS], ids=["rows", "columns"])


def layer_indices(grid):
    """Returns the indices of the elements of each layer, in order."""
    runs, layers, run, stride = grid
    pieces = stride * np.arange(runs)[:, None] + np.arange(run)
    return [(pieces + layer * run).ravel() for layer in range(layers)]


class LayeredArrays(Arrays):
    """Random tensors of many layers each."""

    def __init__(self, kind, grids=GRIDS, seed=0, offset=0):
        super().__init__(kind, [runs * stride for runs, _, _, stride in grids], seed, offset)
        self.grids = grids
        self.vs = [np.zeros(layers, self.vs[0].dtype) for _, layers, _, _ in grids]
        self.squares = [np.full(layers, np.nan) for _, layers, _, _ in grids]
        self.scales = [1.0, 0.25, 3.0] + [1.0] * (len(grids) - 3)

    def layers(self, squares=None):
        columns = (self.weights, self.gradients, self.moments, self.vs)
        return layers_of(self.kind, *columns, self.grids, self.scales, squares)


def stepped_layers(kind, grids, threads, *, offset=0, apart=False):
    """Returns the bytes after two steps; ``apart`` computes the squared norms in separate calls."""
    arrays = LayeredArrays(kind, grids, offset=offset)
    for _ in range(2):
        layers = arrays.layers(arrays.squares if apart else None)
        if apart:
            before = arrays.stored()
            layers.square_sums(threads)
            assert arrays.stored() == before
        layers.step(PLAIN, threads)
    return arrays.stored()


@some_kinds
@every_grid
def test_layers_of_a_tensor_do_not_depend_on_threads_instruction_set_or_alignment(
    kind, grids, monkeypatch
):
    results = {stepped_layers(kind, grids, 1), stepped_layers(kind, grids, 3, apart=True)}
    for name in INSTRUCTION_SETS:
        monkeypatch.setenv("NOVOGRAD_ISA", name)
        results |= {stepped_layers(kind, grids, threads) for threads in (1, 3)}
        results.add(stepped_layers(kind, grids, 2, offset=1))
    assert len(results) == 1


@pytest.mark.parametrize("kind", [("float64",) * 3, ("float32",) * 3], ids="-".join)
@every_grid
def test_layers_of_a_tensor_equal_layers_in_separate_arrays(kind, grids):
    arrays, apart = LayeredArrays(kind, grids), []
    for i, grid in enumerate(arrays.grids):
        for index in layer_indices(grid):
            one = Arrays(kind, (0,))
            columns = (arrays.weights, arrays.gradients, arrays.moments)
            one.weights, one.gradients, one.moments = ([column[i][index]] for column in columns)
            apart.append((i, index, one))
    for _ in range(2):
        arrays.layers().step(PLAIN, 2)
        for i, _, one in apart:
            rule = arguments(NUMBERS._replace(a=NUMBERS.a * arrays.scales[i]))
            one.layers().step(rule, 1)
    # Sums over strided layers have another order.
    tolerance = 8 * np.finfo(kind[0]).eps
    numbers = iter(np.concatenate(arrays.vs))
    for i, index, one in apart:
        contiguous = arrays.grids[i][0] == 1
        close = {"rtol": 0 if contiguous else tolerance, "atol": 0 if contiguous else tolerance}
        np.testing.assert_allclose(arrays.weights[i][index], one.weights[0], **close)
        np.testing.assert_allclose(arrays.moments[i][index], one.moments[0], **close)
        np.testing.assert_allclose(next(numbers), one.vs[0], **close)


def test_memory_between_the_layers_is_unchanged():
    arrays = LayeredArrays(
        ("float32",) * 3, ((3_000, 2, 100, 256), (50, 1, 16, 48), (50, 20, 1, 23))
    )
    before = [x.copy() for x in (*arrays.weights, *arrays.moments)]
    arrays.layers().step(PLAIN, 2)
    for i, (old, new) in enumerate(zip(before, [*arrays.weights, *arrays.moments], strict=True)):
        inside = np.zeros(old.size, bool)
        inside[np.concatenate(layer_indices(arrays.grids[i % 3]))] = True
        np.testing.assert_array_equal(old != new, inside)


@some_kinds
@every_instruction_set
def test_square_sums_equal_those_of_numpy(kind, instruction_set):
    arrays = LayeredArrays(kind, GRIDS + COLUMNS)
    arrays.layers(arrays.squares).square_sums(2)
    for gradient, grid, squares in zip(arrays.gradients, arrays.grids, arrays.squares, strict=True):
        for index, s in zip(layer_indices(grid), squares, strict=True):
            np.testing.assert_allclose(s, np.sum(gradient[index].astype("f8") ** 2), rtol=1e-12)


@some_kinds
def test_a_step_with_separate_square_sums_has_the_same_bits(kind):
    once, apart = (Arrays(kind, SIZES) for _ in range(2))
    squares = [np.empty(1) for _ in SIZES]
    layers = layers_of(
        apart.kind, apart.weights, apart.gradients, apart.moments, apart.vs, squares=squares
    )
    for _ in range(2):
        once.layers().step(PLAIN, 2)
        layers.square_sums(3)
        layers.step(PLAIN, 1)
    assert apart.stored() == once.stored()


@pytest.mark.parametrize("threads", THREADS)
def test_given_squares_are_used_also_for_empty_layers(threads):
    sizes = (300_007, 20, 20, 0, 0)
    arrays = Arrays(("float32",) * 3, sizes)
    squares = [np.array([4.0]), np.array([9.0]), None, np.array([16.0]), None]
    columns = (arrays.weights, arrays.gradients, arrays.moments, arrays.vs)
    before = [x.copy() for x in arrays.weights]
    expected = [np.float32(0.9) * m for m in arrays.moments]
    rule = arguments(NUMBERS._replace(inside=0.0, a=1.0, b=0.0))
    layers_of(arrays.kind, *columns, squares=squares).step(rule, threads)
    own = np.sum(arrays.gradients[2].astype(np.float64) ** 2)
    for i, s in enumerate((4.0, 9.0, own, 16.0, 0.0)):
        np.testing.assert_allclose(arrays.vs[i], s, rtol=1e-6)
        if sizes[i]:
            m = expected[i] + arrays.gradients[i] / np.float32(np.sqrt(s))
            np.testing.assert_allclose(arrays.moments[i], m, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(arrays.weights[i], before[i] - m, rtol=1e-5, atol=1e-6)
    assert [float(s[0]) for s in squares if s is not None] == [4.0, 9.0, 16.0]


def test_square_sums_need_an_address_for_each_tensor():
    arrays = LayeredArrays(("float32",) * 3)
    given = [*arrays.squares[:-1], None]
    for squares in (None, given):
        with pytest.raises(ValueError, match="an address in squares for every tensor"):
            arrays.layers(squares).square_sums(2)
    assert all(np.isnan(s).all() for s in arrays.squares)


@every_grid
def test_skip_nonfinite_leaves_one_layer_of_a_tensor_untouched(grids):
    arrays = LayeredArrays(("float32",) * 3, grids)
    before = [x.copy() for x in (*arrays.weights, *arrays.moments)]
    for gradient, grid in zip(arrays.gradients, arrays.grids, strict=True):
        for index in layer_indices(grid)[2:3]:
            gradient[index[-1:]] = np.inf
    arrays.layers().step(arguments(NUMBERS, skip_nonfinite=True), 2)
    after = (*arrays.weights, *arrays.moments)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        for layer, index in enumerate(layer_indices(grids[i % len(grids)])):
            np.testing.assert_array_equal(old[index] == new[index], layer == 2)


class Rows(NamedTuple):
    """A matrix with a momentum buffer in int8, and its place in the whole tensor.

    A layer has whole rows; or, if ``run`` is given, pieces of this length, and each row has pieces
    of all layers.
    """

    rows: int
    length: int
    layers: int
    first: int = 0
    pitch: int | None = None
    run: int | None = None

    @property
    def grid(self):
        if self.run is not None:
            period = self.layers * self.run
            return self.rows * self.length // period, self.layers, self.run, period
        run = self.rows // self.layers * self.length
        return 1, self.layers, run, self.layers * run


# Layers that threads share, with chunks that end within blocks; layers for one thread; short rows;
# rows without a full block; and a place in a larger tensor, where the low words of the numbers of
# pairs begin again at 0.
MATRICES = (
    Rows(600, 1000, 2),
    Rows(2, 200_001, 1),
    Rows(200, 768, 200),
    Rows(100, 128, 4, first=3, pitch=301),
    Rows(65, 147, 1, first=2**33 - 5000, pitch=147),
    Rows(10, 9, 10, first=1),
    Rows(300, 1, 300),
    Rows(1, 257, 1, first=2**33 - 131),
)
# Layers that share blocks: columns, in one group, in several, and in rows for several threads;
# pieces that are cut by blocks; and layers that begin again within a row, also within a block.
SHARED = (
    Rows(70, 200, 200, run=1),
    Rows(33, 1100, 1100, first=2**33 - 5000, pitch=1100, run=1),
    Rows(300, 1100, 1100, first=5, run=1),
    Rows(20, 160 * 27, 160, run=27),
    Rows(12, 300 * 4, 300, first=3, pitch=1301, run=4),
    Rows(40, 64 * 30, 64, run=1),
    Rows(7, 60 * 400, 60, run=1),
    Rows(11, 7 * 13 * 9, 7, run=13),
    Rows(1, 4100, 4100, run=1),
)


class Matrices:
    """Random matrices after a number of steps; most have a momentum buffer in int8."""

    def __init__(self, kind, matrices=MATRICES, steps=7.0, stochastic=False):
        sizes = [x.rows * x.length for x in matrices]
        self.is_quantised, self.stochastic = kind[2] == "int8", stochastic
        floats = Arrays((*kind[:2], quantised_as(kind)) if self.is_quantised else kind, sizes)
        self.kind, self.matrices = native.kernels.KINDS.index(kind), matrices
        self.weights, self.gradients = floats.weights, floats.gradients
        self.vs = [np.zeros(x.layers, floats.vs[0].dtype) for x in matrices]
        self.steps = np.full((), steps, np.float32)
        self.moments, self.scales = floats.moments, []
        if not self.is_quantised:
            return
        random = np.random.default_rng(1)
        self.moments = [random.integers(-127, 128, size).astype(np.int8) for size in sizes]
        self.scales = [random.random((x.rows, -(-x.length // BLOCK)), np.float32) for x in matrices]

    def layers(self):
        columns = (self.weights, self.gradients, self.moments, self.vs)
        return layers_of(
            self.kind,
            *columns,
            [x.grid for x in self.matrices],
            rows=[(x.length, x.first, x.pitch or x.length) for x in self.matrices],
            block_scales=[x.ctypes.data for x in self.scales] if self.scales else None,
            counts=[self.steps.ctypes.data] * len(self.matrices),
            stochastic=[self.stochastic] * len(self.matrices),
        )

    def stored(self):
        state = (*self.weights, *self.moments, *self.scales, *self.vs)
        return b"".join(x.tobytes() for x in state)


def quantised_as(kind):
    """Returns the name of the dtype in which kernels compute."""
    return "float64" if kind[0] == "float64" else "float32"


def in_blocks(rows):
    """Returns the blocks of each row; zeros fill the last block."""
    count, length = rows.shape
    return np.pad(rows, ((0, 0), (0, -length % BLOCK))).reshape(count, -1, BLOCK)


def bits_of(matrix, purpose, steps):
    """Returns the random bits of the elements of a matrix."""
    row, column = np.indices((matrix.rows, matrix.length), np.uint64)
    number = np.uint64(matrix.first) + row * np.uint64(matrix.pitch or matrix.length) + column
    pair = number >> np.uint64(1)
    words = (pair.astype(np.uint32).view(np.int32), (pair >> 32).astype(np.int32))
    odd = (number & np.uint64(1)).astype(np.int32)
    return random_bits(purpose, np.int32([steps]), *words, odd)


def expected_after(kind, matrices):
    """Returns the state after a step, by kernels for a buffer of numbers, and NumPy."""
    arrays, dtype = Matrices(kind, matrices), DTYPES[quantised_as(kind)]
    quantised, scales = arrays.moments, arrays.scales
    arrays.moments = []
    for x, q, s in zip(matrices, quantised, scales, strict=True):
        each = np.repeat(s, BLOCK, axis=1)[:, : x.length].ravel().astype(dtype)
        arrays.moments.append(q.astype(dtype) * each)
    arrays.kind = native.kernels.KINDS.index((*kind[:2], quantised_as(kind)))
    arrays.layers().step(PLAIN, 1)
    moments, arrays.moments, arrays.scales = arrays.moments, [], []
    for x, m in zip(matrices, moments, strict=True):
        bits = bits_of(x, FOR_MOMENT, arrays.steps).astype(dtype)
        blocks, found = quantised_blocks(
            in_blocks(m.reshape(x.rows, x.length)), in_blocks(bits), xp=np, float32=np.float32
        )
        q = blocks.reshape(x.rows, -1)[:, : x.length]
        arrays.moments.append(q.astype(np.int8).ravel())
        arrays.scales.append(found)
    return arrays


@pytest.mark.parametrize("kind", QUANTISED, ids="-".join)
def test_a_step_in_int8_is_the_step_of_its_numbers_and_then_quantised(kind, monkeypatch):
    matrices = MATRICES + SHARED
    expected = expected_after(kind, matrices)
    for name in INSTRUCTION_SETS:
        monkeypatch.setenv("NOVOGRAD_ISA", name)
        arrays = Matrices(kind, matrices)
        arrays.layers().step(PLAIN, 2)
        for field in ("weights", "moments", "scales", "vs"):
            for i, pair in enumerate(
                zip(getattr(arrays, field), getattr(expected, field), strict=True)
            ):
                np.testing.assert_array_equal(*pair, err_msg=f"{field} of {matrices[i]}, {name}")


@pytest.mark.parametrize("kind", some(QUANTISED, kept=[("float32", "float32", "int8")]))
def test_results_in_int8_do_not_depend_on_threads_or_prefetching(kind, monkeypatch):
    results = set()
    for ahead, threads in ((None, 1), (None, 2), (None, 3), ("0,0", 2), ("4096,512", 2)):
        if ahead:
            monkeypatch.setenv("NOVOGRAD_AHEAD", ahead)
        arrays = Matrices(kind, MATRICES + SHARED)
        for _ in range(2):
            arrays.layers().step(PLAIN, threads)
        results.add(arrays.stored())
    assert len(results) == 1


def test_layers_that_share_blocks_must_fit_in_a_group():
    def known(rows):
        return native.kernels.has_quantised_pass(grid=rows.grid, row=rows.length)

    assert all(map(known, MATRICES + SHARED))
    # 128 layers with 125 neighbours each, and rows that end within the pieces of a layer.
    assert not known(Rows(3, 300 * 125, 300, run=125))
    assert not known(Rows(6, 150, 4, run=50))


def test_a_skipped_layer_keeps_its_bits_in_int8():
    matrices = (Rows(4, 1000, 4), Rows(2, 200_001, 1))
    arrays, untouched = (Matrices(("float32", "float32", "int8"), matrices) for _ in range(2))
    arrays.gradients[0][1500] = np.nan
    arrays.gradients[1][-1] = np.inf
    arrays.layers().step(arguments(NUMBERS, skip_nonfinite=True), 2)
    for field in ("weights", "moments", "scales"):
        new, old = getattr(arrays, field), getattr(untouched, field)
        rows = [x[0].reshape(4, -1) for x in (new, old)]
        assert (rows[0] == rows[1]).all(axis=1).tolist() == [False, True, False, False]
        np.testing.assert_array_equal(new[1], old[1])


@pytest.mark.parametrize(
    "rows",
    [
        Rows(40, 300, 300, run=1),
        Rows(1000, 300, 300, run=1),
        Rows(20, 96 * 27, 96, run=27),
        Rows(20, 8 * 80, 8, run=1),
    ],
)
def test_a_skipped_layer_keeps_its_values_in_shared_blocks(rows):
    kind = ("float32", "float32", "int8")
    arrays, untouched = (Matrices(kind, (rows,)) for _ in range(2))
    index = layer_indices(rows.grid)
    skipped = (0, 5, 7) if rows.layers == 8 else (0, *range(3, 91), *range(130, rows.layers, 2))
    for layer in skipped:
        arrays.gradients[0][index[layer][-1]] = np.inf
    expected = expected_after(kind, (rows,))
    arrays.layers().step(arguments(NUMBERS, skip_nonfinite=True), 2)
    kept = np.concatenate([index[layer] for layer in skipped])
    taken = np.setdiff1d(np.arange(rows.rows * rows.length), kept)
    np.testing.assert_array_equal(arrays.weights[0][kept], untouched.weights[0][kept])
    np.testing.assert_array_equal(arrays.weights[0][taken], expected.weights[0][taken])
    np.testing.assert_array_equal(arrays.vs[0][list(skipped)], 0)

    def values(of):
        scales = np.repeat(of.scales[0], BLOCK, axis=1)[:, : rows.length].ravel()
        return of.moments[0] * scales, scales

    (new, unit), (old, _) = values(arrays), values(untouched)
    assert (np.abs(new - old)[kept] <= 1.001 * unit[kept]).all()
    # A block without a layer that takes the step is not rounded again.
    number = np.arange(rows.rows * rows.length)
    block = number // rows.length * 1000 + number % rows.length // BLOCK
    still = ~np.isin(block, block[taken])
    np.testing.assert_array_equal(arrays.moments[0][still], untouched.moments[0][still])
    np.testing.assert_array_equal(new[still], old[still])


@every_instruction_set
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_block_with_a_number_that_is_not_finite_has_a_scale_that_is_nan(value, instruction_set):
    arrays = Matrices(("float32", "float32", "int8"), (Rows(1, 300, 1),))
    arrays.moments[0][:] = 1
    arrays.scales[0][:] = [[1.0, value, 1.0]]
    arrays.layers().step(PLAIN, 1)
    assert np.isnan(arrays.scales[0]).tolist() == [[False, True, False]]
    assert np.isfinite(arrays.weights[0]).tolist() == [True] * 128 + [False] * 128 + [True] * 44


@every_instruction_set
def test_a_block_of_zeros_has_the_scale_zero(instruction_set):
    arrays = Matrices(("float32", "float32", "int8"), (Rows(1, 300, 1),))
    arrays.moments[0][:] = 0
    arrays.gradients[0][:200] = 0
    arrays.layers().step(arguments(NUMBERS._replace(b=0.0)), 1)
    assert (arrays.scales[0] > 0).tolist() == [[False, True, True]]
    assert (arrays.moments[0] != 0)[:200].tolist() == [False] * 200


@every_instruction_set
@pytest.mark.parametrize(
    "kind", [k for k in native.kernels.KINDS if k[0] == "bfloat16"], ids="-".join
)
def test_stochastic_weights_are_the_weights_in_float32_and_then_rounded(kind, instruction_set):
    matrices = (*MATRICES, *SHARED, Rows(1, 5000, 5000, first=3, run=1))
    arrays = Matrices(kind, matrices, stochastic=True)
    wide = Matrices(("float32", *kind[1:]), matrices)
    wide.weights = [x.astype(np.float32) for x in arrays.weights]
    wide.gradients = [x.copy() for x in arrays.gradients]
    wide.moments = [x.copy() for x in arrays.moments]
    arrays.layers().step(PLAIN, 2)
    wide.layers().step(PLAIN, 2)
    for i, x in enumerate(matrices):
        new = wide.weights[i].reshape(x.rows, x.length)
        rounded = to_bfloat16(new, bits_of(x, FOR_WEIGHTS, arrays.steps), xp=np)
        actual = arrays.weights[i].astype(np.float32).reshape(rounded.shape)
        np.testing.assert_array_equal(actual, rounded, err_msg=str(x))
        np.testing.assert_array_equal(arrays.moments[i], wide.moments[i])


@every_instruction_set
def test_stochastic_weights_that_are_not_finite_stay_so(instruction_set):
    kind = ("bfloat16", "bfloat16", "float32")
    arrays = Matrices(kind, (Rows(1, 300, 1),), stochastic=True)
    # Random bits would make a zero of the last one.
    full = np.uint32(0x7FFFFFFF).view(np.float32)
    arrays.moments[0][100:104] = [np.nan, -np.inf, np.inf, full]
    arrays.layers().step(PLAIN, 1)
    weights = arrays.weights[0].astype(np.float32)
    np.testing.assert_array_equal(weights[100:104], [np.nan, np.inf, -np.inf, np.nan])
    assert np.isfinite(np.delete(weights, range(100, 104))).all()


@pytest.mark.parametrize(
    "kind", [("bfloat16", "bfloat16", "float32"), ("bfloat16", "bfloat16", "int8")]
)
def test_stochastic_weights_do_not_depend_on_threads_or_prefetching(kind, monkeypatch):
    results = set()
    for ahead, threads in ((None, 1), (None, 3), ("0,0", 2), ("4096,512", 2)):
        if ahead:
            monkeypatch.setenv("NOVOGRAD_AHEAD", ahead)
        arrays = Matrices(kind, MATRICES + SHARED, stochastic=True)
        for _ in range(2):
            arrays.layers().step(PLAIN, threads)
        results.add(arrays.stored())
    assert len(results) == 1


@pytest.mark.parametrize("missing", ["rows", "counts", "bfloat16"])
def test_stochastic_weights_are_bfloat16_and_need_rows_and_a_count(missing):
    name = "float32" if missing == "bfloat16" else "bfloat16"
    arrays = Matrices((name,) * 3, MATRICES[:1])
    columns = (arrays.weights, arrays.gradients, arrays.moments, arrays.vs)
    given = {"rows": [(1, 0, 1)], "counts": [1], "stochastic": [True]}
    given.pop(missing, None)
    with pytest.raises(ValueError, match="stochastic weights are bfloat16, and need rows and"):
        layers_of(arrays.kind, *columns, **given)


@pytest.mark.parametrize("missing", ["rows", "block_scales", "counts"])
def test_a_buffer_in_int8_needs_its_rows_scales_and_count(missing):
    arrays = Matrices(("float32", "float32", "int8"), MATRICES[:1])
    columns = (arrays.weights, arrays.gradients, arrays.moments, arrays.vs)
    given = {"rows": [(1, 0, 1)], "block_scales": [1], "counts": [1]}
    for value in (None, [None]):
        with pytest.raises(ValueError, match="needs rows, block_scales and counts"):
            layers_of(arrays.kind, *columns, **given | {missing: value})


def test_scales_that_overlap_other_memory_are_found():
    matrices = (Rows(4, 300, 1), Rows(4, 300, 1))
    arrays = Matrices(("float32", "float32", "int8"), matrices)
    assert arrays.layers().overlap() is None
    both = np.zeros((7, 3), np.float32)
    arrays.scales = [both[:4], both[3:]]
    assert arrays.layers().overlap() == (0, 1)


class Extent(NamedTuple):
    """Memory at invented addresses: pieces of ``length`` bytes, 28 bytes apart."""

    tensor: int
    written: bool
    start: int
    pieces: int
    length: int

    def bytes(self):
        starts = range(self.start, self.start + 28 * self.pieces, 28)
        return {x for start in starts for x in range(start, start + self.length)}

    def meets(self, other):
        mine, theirs = self.bytes(), other.bytes()
        if self.pieces > 1 and other.pieces > 1:
            return bool(mine & theirs)
        # Otherwise the gaps between the pieces count too.
        ranges = [set(range(min(x), max(x) + 1)) if x else set() for x in (mine, theirs)]
        return bool(ranges[0] & ranges[1])


ADDRESS = st.integers(1, 300)
TENSOR = st.tuples(
    *[ADDRESS] * 4, st.integers(1, 3), st.integers(1, 2), st.integers(0, 3), st.booleans()
)


@given(st.lists(TENSOR, min_size=1, max_size=5))
def test_overlap_is_found_in_any_layout(drawn):
    """Compares with a search of all pairs of bytes. The addresses are invented and never read."""
    extents = []
    for i, (w, g, m, v, runs, layers, run, given_squares) in enumerate(drawn):
        length = 4 * layers * run
        extents += [Extent(i, True, start, runs, length) for start in (w, m)]
        extents.append(Extent(i, False, g, runs, length))
        extents.append(Extent(i, True, v, 1, 4 * layers if run or given_squares else 0))
    layers = native.kernels.Tensors(
        kinds=[native.kernels.KINDS.index(("float32",) * 3)] * len(drawn),
        grids=[(runs, layers, run, 7) for *_, runs, layers, run, _ in drawn],
        scales=[1.0] * len(drawn),
        weights=[w for w, *_ in drawn],
        gradients=[g for _, g, *_ in drawn],
        moments=[m for _, _, m, *_ in drawn],
        vs=[v for _, _, _, v, *_ in drawn],
        squares=[int(given_squares) for *_, given_squares in drawn],
    )
    pairs = {
        frozenset((x.tensor, y.tensor))
        for x, y in itertools.combinations(extents, 2)
        if (x.written or y.written) and x.meets(y)
    }
    found = layers.overlap()
    assert frozenset(found) in pairs if found else not pairs


@pytest.mark.parametrize(("start", "expected"), [(40, None), (39, (0, 1))])
def test_parts_of_one_array_overlap_only_where_they_do(start, expected):
    columns = [np.zeros((50, 100), np.float32) for _ in range(3)]
    parts = [[x[:, :40], x[:, start:]] for x in columns]
    grids = [(50, 1, 40, 100), (50, 1, 100 - start, 100)]
    kind = native.kernels.KINDS.index(("float32",) * 3)
    layers = layers_of(kind, *parts, np.split(np.zeros(2, np.float32), 2), grids)
    assert layers.overlap() == expected


@pytest.mark.parametrize(
    "short", ["grids", "scales", "weights", "vs", "squares", "rows", "block_scales", "counts"]
)
def test_lists_of_different_lengths_are_refused(short):
    lists = {name: [0, 0] for name in ("kinds", "weights", "gradients", "moments", "vs")}
    lists |= {"grids": [(1, 1, 1, 1)] * 2, "scales": [1.0] * 2}
    lists |= {name: [None] * 2 for name in ("squares", "rows", "block_scales", "counts")}
    lists[short] = lists[short][:1]
    with pytest.raises(ValueError, match="the same length"):
        native.kernels.Tensors(**lists)


def test_a_step_at_other_addresses_changes_what_is_there():
    first, second = Arrays(("float32",) * 3, (5, 300)), Arrays(("float32",) * 3, (5, 300), seed=1)
    second.layers().step(PLAIN, 1)
    again = Arrays(("float32",) * 3, (5, 300), seed=1)
    columns = (again.weights, again.gradients, again.moments, again.vs)
    table = np.zeros((7, 2), np.int64)
    table[:4] = [[x.ctypes.data for x in column] for column in columns]
    before = [x.copy() for x in first.weights]
    first.layers().at(table).step(PLAIN, 1)
    assert all(map(np.array_equal, again.weights, second.weights))
    assert all(map(np.array_equal, first.weights, before))


def test_addresses_for_another_number_of_tensors_are_refused():
    layers = Arrays(("float32",) * 3, (5, 300)).layers()
    with pytest.raises(ValueError, match="a column for every tensor"):
        layers.at(np.zeros((7, 3), np.int64))


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("NOVOGRAD_ISA", "abacus")
    with pytest.raises(ValueError, match=r"NOVOGRAD_ISA must be one of baseline.*, got abacus"):
        Arrays(("float32",) * 3, (1,)).layers().step(PLAIN, 1)


@pytest.mark.parametrize("wrong", ["far", "4096", "4096,2048 bytes"])
def test_other_forms_of_the_distances_of_prefetching_are_refused(monkeypatch, wrong):
    monkeypatch.setenv("NOVOGRAD_AHEAD", wrong)
    with pytest.raises(ValueError, match=f"must be two numbers of bytes.*, got {wrong}"):
        Arrays(("float32",) * 3, (1,)).layers().step(PLAIN, 1)


def test_a_missing_extension_gives_one_warning():
    program = """
import sys, warnings
sys.modules["novograd._native"] = None
from novograd import native
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert [native.usable(), native.usable()] == [False, False]
assert len(caught) == 1 and "not installed" in str(caught[0].message), caught
"""
    subprocess.run([sys.executable, "-c", program], check=True)
