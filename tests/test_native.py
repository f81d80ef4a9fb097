"""The native kernels: right for every dtype, instruction set and number of threads."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_rule import B1, B2, EPS, LR, WD
from test_rule import DIALECTS as PEERS

from novograd import native, reference
from novograd.conformance import CASES, MismatchError, check
from novograd.conformance.cases import DTYPES, Case, Hyperparameters
from novograd.conformance.numpy import NativeAdapter
from novograd.native import Rule

assert native.kernels, native.PROBLEM
INSTRUCTION_SETS = native.kernels.instruction_sets()
THREADS = (1, 2, 3, 8)
# Shared by threads in several chunks, of one thread in several, of one chunk, handed out together.
SIZES = (1_000_001, 300_007, 100_003, 4_097) + (33,) * 600 + (0, 1)
PLAIN = Rule(beta1=0.9, keep=0.75, mix=0.25, epsilon_inside=1e-8, a_by_norm=0.1, b=0.01)

every_instruction_set = pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
every_kind = pytest.mark.parametrize("kind", native.kernels.KINDS, ids="-".join)


@pytest.fixture
def instruction_set(request, monkeypatch):
    """Chooses the instruction set that a test is for."""
    monkeypatch.setenv("NOVOGRAD_ISA", request.param)
    assert native.kernels.instruction_set() == request.param


class Arrays:
    """Layers of random numbers."""

    def __init__(self, kind, sizes, seed=0, offset=0):
        self.kind = native.kernels.KINDS.index(kind)
        random = np.random.default_rng(seed)
        w, g, m = (DTYPES[name] for name in kind)
        v = np.float64 if kind[0] == "float64" else np.float32

        def numbers(size, dtype):
            # An offset takes the array away from every alignment but that of its dtype.
            array = np.empty(size + offset, dtype)[offset:]
            array[:] = random.standard_normal(size)
            return array

        self.weights = [numbers(size, w) for size in sizes]
        self.gradients = [numbers(size, g) for size in sizes]
        self.moments = [numbers(size, m) for size in sizes]
        self.vs = [np.zeros((), v) for _ in sizes]

    def layers(self):
        columns = (self.weights, self.gradients, self.moments, self.vs)
        weights, gradients, moments, vs = ([x.ctypes.data for x in xs] for xs in columns)
        return native.kernels.Layers(
            kinds=[self.kind] * len(weights),
            sizes=[x.size for x in self.weights],
            weights=weights,
            gradients=gradients,
            moments=moments,
            vs=vs,
        )

    def stored(self):
        return b"".join(x.tobytes() for x in (*self.weights, *self.moments, *self.vs))


def stepped(kind, sizes, threads, *, rule=PLAIN, steps=3, offset=0):
    """The bytes of weights and state after some steps."""
    arrays = Arrays(kind, sizes, offset=offset)
    for _ in range(steps):
        arrays.layers().step(rule, threads)
    return arrays.stored()


@every_instruction_set
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conformance(instruction_set, case):
    check(NativeAdapter, case)


@every_instruction_set
@pytest.mark.parametrize("dtype", DTYPES)
def test_conformance_of_layers_in_many_chunks(instruction_set, dtype):
    hyper = Hyperparameters(weight_decay=0.1, nesterov=True)
    shapes = tuple((size,) for size in SIZES[:4])
    check(NativeAdapter, Case("large", dtype, hyper, steps=3, shapes=shapes))


def test_the_formula_is_the_rules(wrong_rule):
    with pytest.raises(MismatchError, match=r"defaults, step 0, layer 0 .*: weights"):
        check(NativeAdapter, CASES[0])


@every_kind
def test_the_same_bits_for_any_threads_instruction_set_and_alignment(kind, monkeypatch):
    results = {stepped(kind, SIZES, 1)}
    for name in INSTRUCTION_SETS:
        monkeypatch.setenv("NOVOGRAD_ISA", name)
        results |= {stepped(kind, SIZES, threads) for threads in THREADS}
        results.add(stepped(kind, SIZES, 2, offset=1))
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
        # One rounding to the dtype, and a few of float32 or float64 before it.
        compute = np.finfo(np.float64 if kind[0] == "float64" else np.float32).eps
        rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(stored.dtype.name, 0.0)
        np.testing.assert_allclose(
            stored.astype(np.float64), wanted, rtol=1.01 * rounding, atol=16 * compute
        )


# m = g, whatever the norm; what the rule adds to it makes 0 of -0.
ZERO = np.float32(0)
COPY = Rule(beta1=0.0, keep=0.0, mix=1.0, epsilon_outside=1.0, a=1.0)


def copied(gradient, moment_dtype, weight_dtype="float32"):
    """What a step that only copies the gradient stores as the moment."""
    arrays = Arrays((weight_dtype, gradient.dtype.name, moment_dtype), (gradient.size,))
    arrays.gradients = [gradient]
    arrays.layers().step(COPY, 1)
    return arrays.moments[0]


def every_finite(dtype):
    """All finite numbers of a half-precision dtype, and the same in float32."""
    numbers = np.arange(2**16).astype(np.uint16).view(DTYPES[dtype])
    with np.errstate(invalid="ignore"):  # of signalling NaNs
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
def test_nan_stays_nan_and_counts_for_the_whole_layer(kind, instruction_set):
    arrays = Arrays(kind, (70, 70))
    # All ones: a rounding that carries would make -0 of it.
    bits = arrays.gradients[0].view(f"u{arrays.gradients[0].itemsize}")
    bits[40] = np.iinfo(bits.dtype).max
    before = arrays.weights[1].copy()
    arrays.layers().step(PLAIN, 1)
    assert np.all(np.isnan(arrays.weights[0]))
    assert np.all(np.isnan(arrays.moments[0]))
    assert arrays.vs[0] == 0  # the norm of such a gradient is not kept
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
    arrays.layers().step(PLAIN._replace(skip_nonfinite=1.0), 2)
    after = (*arrays.weights, *arrays.moments, *arrays.vs)
    changed = [not np.array_equal(x, y) for x, y in zip(before, after, strict=True)]
    assert changed == [False, False, True] * 3


def test_a_norm_beyond_float32_counts_for_nothing():
    arrays = Arrays(("float32",) * 3, (10,))
    arrays.layers().step(PLAIN._replace(b=0.0), 1)
    w, m, v = arrays.weights[0].copy(), arrays.moments[0].copy(), arrays.vs[0].copy()
    arrays.gradients[0][:] = 1e30
    arrays.layers().step(PLAIN._replace(b=0.0), 1)
    assert arrays.vs[0] == v
    np.testing.assert_array_equal(arrays.moments[0], np.float32(0.9) * m)
    np.testing.assert_array_equal(arrays.weights[0], w - arrays.moments[0])


# The numbers by which the kernels take a peer's step t, with a learning rate lr.
VARIANTS = {
    "nvidia": lambda lr, t: {"a_by_norm": 1, "b": WD, "d": lr},
    "timm_decoupled": lambda lr, t: {"a_by_norm": 1, "c": 1 - lr * WD, "d": lr},
    "tfa": lambda lr, t: {
        "a_by_norm": lr * (1 if t == 1 else 1 - B1),
        "b": lr * (1 if t == 1 else 1 - B1) * WD,
    },
    "flashlight": lambda lr, t: {"first": 1 - B2, "a_by_norm": 1 - B1, "b": (1 - B1) * WD, "d": lr},
    "apex": lambda lr, t: {
        "correction": 1 / (1 - B2**t),
        "a": 1 - B1,
        "c": 1 - lr * WD,
        "d": 0,
        "d_by_norm": lr / (1 - B1**t),
    },
    "pytorch_optimizer": lambda lr, t: {
        "a_by_norm": 1 + B1 if t == 1 else 1,
        "b": (1 + B1 if t == 1 else 1) * WD,
        "d": lr * np.sqrt(1 - B2**t) / (1 - B1**t),
    },
    "openseq2seq": lambda lr, t: {
        "keep": 0,
        "mix": 1,
        "epsilon_inside": EPS,
        "epsilon_outside": 0,
        "a_by_norm": 1 - B1,
        "b": (1 - B1) * WD,
        "d": lr,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_published_variants_are_choices_of_the_numbers(name):
    peer = next(peer for peer, _ in PEERS if peer.__name__ == name)
    random = np.random.default_rng(0)
    arrays = Arrays(("float64",) * 3, (6,))
    arrays.moments = [np.zeros(6)]
    theirs = (arrays.weights[0].copy(), np.zeros(6), 0.0)
    for t in range(1, 6):
        g, lr = random.standard_normal(6), LR * 0.8**t
        theirs = peer(*theirs, g, lr, t)
        arrays.gradients = [g]
        numbers = {"beta1": B1, "keep": B2, "mix": 1 - B2, "epsilon_outside": EPS}
        arrays.layers().step(Rule(**numbers | VARIANTS[name](lr, t)), 1)
        np.testing.assert_allclose(arrays.weights[0], theirs[0], rtol=1e-12)
        np.testing.assert_allclose(arrays.moments[0], theirs[1], rtol=1e-12)


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
    # With the GIL held throughout, the other would count at most once or twice.
    assert during > 100


FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_native import SIZES, stepped
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


def test_a_forked_process_has_threads_of_its_own(pytestconfig):
    program = [sys.executable, "-W", "ignore:This process", "-c", FORK]
    subprocess.run([*program, str(pytestconfig.rootpath / "tests")], check=True, timeout=120)


@given(
    st.lists(st.tuples(*[st.integers(1, 120)] * 3, st.integers(0, 5)), min_size=1, max_size=5),
)
def test_overlap_is_found_wherever_it_is(drawn):
    """Against all pairs of bytes; the addresses are made up, and never read."""
    written, read = [], []
    for i, (w, g, m, size) in enumerate(drawn):
        v = 1000 + 4 * i
        if size:
            written += [(i, set(range(start, start + 4 * size))) for start in (w, m)]
            written.append((i, set(range(v, v + 4))))
            read.append((i, set(range(g, g + 4 * size))))
    expected = any(x & y for k, (_, x) in enumerate(written) for _, y in [*written[:k], *read])
    layers = native.kernels.Layers(
        kinds=[native.kernels.KINDS.index(("float32",) * 3)] * len(drawn),
        sizes=[size for *_, size in drawn],
        weights=[w for w, *_ in drawn],
        gradients=[g for _, g, _, _ in drawn],
        moments=[m for _, _, m, _ in drawn],
        vs=[1000 + 4 * i for i in range(len(drawn))],
    )
    found = layers.overlap()
    assert (found is not None) == expected
    if found is not None:
        mine = [[x for i, x in [*written, *read] if i == layer] for layer in found]
        assert any(x & y for x in mine[0] for y in mine[1] if x is not y)


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="the same length"):
        native.kernels.Layers(
            kinds=[0], sizes=[1, 2], weights=[0], gradients=[0], moments=[0], vs=[0]
        )


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("NOVOGRAD_ISA", "abacus")
    with pytest.raises(ValueError, match=r"NOVOGRAD_ISA must be one of baseline.*, got abacus"):
        Arrays(("float32",) * 3, (1,)).layers().step(PLAIN, 1)


def test_without_the_extension_it_is_said_once():
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
