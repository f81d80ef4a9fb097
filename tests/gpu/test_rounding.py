"""Rounding at random by the Triton kernels, in addition to the conformance table.

The step of foreach is the reference. It may round a sum in another order, so a few weights may be
rounded to the other neighbour.
"""

import copy
import itertools

import numpy as np
import pytest
import torch

from novograd import rounding
from novograd.conformance.torch import TritonAdapter
from novograd.layers import Rows, Split, Stacked
from novograd.torch import NovoGrad
from novograd.torch.backends import foreach, triton
from novograd.torch.parts import Part, Position
from tests.helpers import torch as helpers
from tests.helpers.torch import set_gradients, states_of, step_without_waiting, train

# Plain pytest collects this file in an environment without Triton; `make test-triton` has it.
tl = pytest.importorskip("triton.language")
from triton import jit  # noqa: E402

from novograd.torch.backends.triton_rounding import (  # noqa: E402
    bits_in_order,
    bits_of,
    bits_of_blocks,
    bits_of_pairs,
    moment_key,
    numbers_with_gaps,
    to_bfloat16,
    weights_key,
)

DEVICE = TritonAdapter.device
ROUNDED = {"lr": 0.1, "weight_decay": 0.05, "stochastic_rounding": True}
STEP = 70001
FIRST = (0, 128, 3, 2**33 - 128, 2**33 - 62, 2**33 - 5, 2**40 + 77, 2**40 + 256)


def parameters(shapes, dtype=torch.bfloat16):
    return helpers.parameters(shapes, dtype, device=DEVICE)


# -- bits ----------------------------------------------------------------------------------------


@jit
def write_bits(numbers, step, out, kind: tl.constexpr):
    at = tl.arange(0, 128)
    number = tl.load(numbers + tl.program_id(0))
    like = tl.load(out + at)
    key = weights_key(tl.load(step))
    if kind == "pairs":
        bits = bits_of_pairs(key, number, tl.arange(0, 64), like)
    elif kind == "in order":
        bits = bits_in_order(key, number, at)
    else:
        bits = bits_of(key, number + at)
    tl.store(out + tl.program_id(0) * 128 + at, bits.to(tl.int32))


@jit
def write_bits_of_blocks(numbers, step, out, even: tl.constexpr):
    blocks = tl.arange(0, 4)
    at = blocks[:, None] * 128 + tl.arange(0, 128)[None, :]
    key = moment_key(tl.load(step))
    bits = bits_of_blocks(key, tl.load(numbers + blocks), tl.load(out + at), even)
    tl.store(out + at, bits.to(tl.int32))


def expected_bits(purpose, first):
    position = np.array(first)[:, None] + np.arange(128)
    words = (np.array([STEP]), position >> 1, position >> 33, position & 1)
    return rounding.random_bits(purpose, *(x.astype(np.uint32).view(np.int32) for x in words))


@pytest.mark.parametrize("kind", ["pairs", "in order", "any"])
def test_the_random_bits_of_weights_are_those_of_rounding(kind):
    first = [x for x in FIRST if kind != "pairs" or x % 2 == 0]
    out = torch.zeros(len(first), 128, dtype=torch.int32, device=DEVICE)
    numbers = torch.tensor(first, device=DEVICE)
    write_bits[(len(first),)](numbers, torch.tensor(float(STEP), device=DEVICE), out, kind)
    np.testing.assert_array_equal(out.cpu().numpy(), expected_bits(rounding.FOR_WEIGHTS, first))


@pytest.mark.parametrize(
    ("first", "even"),
    [((0, 128, 2**20, 2**33 - 128), True), ((0, 3, 2**33 - 5, 2**40 + 77), False)],
    ids=["even", "odd"],
)
def test_the_random_bits_of_blocks_are_those_of_rounding(first, even):
    out = torch.zeros(4, 128, dtype=torch.int32, device=DEVICE)
    numbers = torch.tensor(first, device=DEVICE)
    write_bits_of_blocks[(1,)](numbers, torch.tensor(float(STEP), device=DEVICE), out, even)
    np.testing.assert_array_equal(out.cpu().numpy(), expected_bits(rounding.FOR_MOMENT, first))


@jit
def write_numbers(facts, out):
    at = tl.arange(0, 128)
    first, begin = tl.load(facts), tl.load(facts + 1)
    length, gap = tl.load(facts + 2), tl.load(facts + 3)
    tl.store(out + at, numbers_with_gaps(first, begin, at, length, gap))


@pytest.mark.parametrize("length", [1, 3, 100, 128, 5000, 2**30 - 7, 2**30 + 9, 2**32 + 1])
@pytest.mark.parametrize("gap", [1, 77, 2**33])
def test_numbers_have_the_gaps_of_their_rows(length, gap):
    for begin in (0, 64, length - 1, length, 3 * length - 50, 5 * length + 7):
        facts = torch.tensor([11, max(begin, 0), length, gap], device=DEVICE)
        out = torch.zeros(128, dtype=torch.int64, device=DEVICE)
        write_numbers[(1,)](facts, out)
        places = max(begin, 0) + torch.arange(128, device=DEVICE)
        assert torch.equal(out, 11 + places + places // length * gap)


@jit
def round_all(xs, bits, out):
    at = tl.arange(0, 128)
    tl.store(out + at, to_bfloat16(tl.load(xs + at), tl.load(bits + at).to(tl.uint32)))


def test_numbers_are_rounded_like_those_of_rounding():
    x = np.geomspace(1e-40, 3e38, 128, dtype=np.float32)
    x[::2] *= -1
    x[:6] = 0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan
    for bits in (0, 1, 2**15, 2**16 - 1):
        chosen = torch.full((128,), bits, dtype=torch.int32, device=DEVICE)
        out = torch.zeros(128, device=DEVICE)
        round_all[(1,)](torch.tensor(x, device=DEVICE), chosen, out)
        expected = rounding.to_bfloat16(x, np.full(128, bits, np.int32), xp=np)
        np.testing.assert_array_equal(out.cpu().numpy(), expected)
        assert np.isnan(out.cpu().numpy()).sum() == 2


# -- the division of the work --------------------------------------------------------------------


def assert_neighbours(part, twin):
    """Errors of the arithmetic may change the rounding of a few weights."""
    torch.testing.assert_close(part.param, twin.param, rtol=2**-7, atol=1e-5)
    # The two sum up to 45,000 squares in float32, in different orders.
    torch.testing.assert_close(part.exp_avg_sq, twin.exp_avg_sq, rtol=1e-5, atol=0)
    # An error of 2^-22 of a weight changes the rounding with a probability of 2^-14.
    assert (part.param != twin.param).sum() <= 3 + part.param.numel() / 1000


def drawn(shape, v_shape=(), position=None, offset=0):
    """Returns a part after some steps."""
    generator = torch.Generator().manual_seed(0)

    def placed(x):
        storage = torch.zeros(x.numel() + offset, dtype=torch.bfloat16, device=DEVICE)
        return storage[offset:].view(x.shape).copy_(x)

    w, g, m = (placed(torch.randn(shape, generator=generator)) for _ in range(3))
    v = torch.rand(v_shape, generator=generator).to(DEVICE) + 1
    strides = torch.empty(shape, device="meta").stride()
    position = Position(0, strides) if position is None else position
    return Part(w, g, m, v, step=torch.tensor(3.0, device=DEVICE), position=position)


def copied(part):
    tensors = {x: y.clone() for x, y in part._asdict().items() if isinstance(y, torch.Tensor)}
    return part._replace(**tensors)


def check(part, **options):
    """Compares a step with foreach."""
    (group,) = NovoGrad([part.param], **ROUNDED | options).param_groups
    twin = copied(part)
    assert triton.problem(part, group) is None
    triton.PreparedByTriton([part]).step(group)
    foreach.step([twin], group)
    assert_neighbours(part, twin)


@pytest.mark.parametrize(
    ("shape", "v_shape"),
    [
        ((5001,), ()),  # the end is shorter than 16 bytes
        ((16385,), ()),
        ((3, 9001), (3, 1)),  # each row has two programs
        ((50, 331), (50, 1)),  # rows begin at odd places
        ((20, 1024), (20, 1)),
        ((1000,), (1000,)),  # each element is a layer
        ((700, 12), (700, 1)),
        ((70, 5), (70, 1)),
        ((33, 48), (33, 1)),
        ((3, 4097), (3, 1)),
        ((2, 3, 5000), (1, 3, 1)),  # each layer has two pieces
        ((), ()),
        ((0, 3), ()),
    ],
    ids=str,
)
def test_layers_of_any_length_step_like_foreach(shape, v_shape):
    check(drawn(shape, v_shape))


@pytest.mark.parametrize("offset", [0, 1, 4])
@pytest.mark.parametrize("v_shape", [(10, 1), ()], ids=["rows", "whole"])
@pytest.mark.parametrize(
    "position",
    [
        Position(2**34 - 1024, (256, 1)),  # the upper word of the numbers changes
        Position(77, (256, 1)),  # begins at an odd number
        Position(2**34, (1024, 1)),  # a piece of longer rows
        Position(3, (1001, 1)),
        Position(6, (768, 3)),  # a piece of a tensor with three axes
    ],
    ids=str,
)
def test_the_random_bits_depend_on_the_position_in_the_whole_tensor(position, v_shape, offset):
    check(drawn((10, 256), v_shape, position=position, offset=offset), nesterov=True)


def test_rows_with_gaps_may_be_cut_into_segments():
    check(drawn((3, 9001), position=Position(5, (20001, 1))))
    check(drawn((5001,), (5001,), position=Position(5, (2,))))
    check(drawn((40, 31, 9), position=Position(5, (1240, 40, 1))))


def piece_of(part, axis, start, length, v):
    """Returns a piece of a part, as ``Split`` makes it."""
    names = ("param", "grad", "exp_avg")
    pieces = {name: getattr(part, name).narrow(axis, start, length) for name in names}
    return part._replace(**pieces, exp_avg_sq=v, position=part.position.after(axis, start))


def test_parts_of_a_tensor_have_the_bits_of_the_whole():
    (group,) = NovoGrad([torch.zeros(1)], **ROUNDED).param_groups
    whole = drawn((40, 384), (40, 1))
    twin = copied(whole)
    pieces = [
        piece_of(twin, 0, a, b - a, twin.exp_avg_sq[a:b])
        for a, b in itertools.pairwise((0, 7, 16, 40))
    ]
    triton.PreparedByTriton([whole]).step(group)
    triton.PreparedByTriton(pieces).step(group)
    for x, y in zip(whole[:4], twin[:4], strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(("start", "length"), [(0, 128), (16, 256), (7, 301)])
@pytest.mark.parametrize("stride", [384, 385, 1024])
def test_columns_of_a_tensor_have_gaps_in_memory(start, length, stride):
    (group,) = NovoGrad([torch.zeros(1)], **ROUNDED).param_groups
    whole = drawn((40, 384), position=Position(9, (stride, 1)))
    part, twin = (
        piece_of(copied(whole), 1, start, length, torch.ones(1, 1, device=DEVICE)) for _ in range(2)
    )
    assert triton.problem(part, group) is None
    triton.PreparedByTriton([part]).step(group)
    foreach.step([twin], group)
    assert_neighbours(part, twin)


@pytest.mark.parametrize("shape", [(30, 256), (30, 150), (9, 300)])
def test_the_momentum_buffer_may_be_int8(shape):
    for layers in (None, Rows(scale="rms")):
        params, twins = parameters([shape]), parameters([shape])
        options = ROUNDED | {"moment_dtype": torch.int8, "layers": layers}
        one, other = (
            NovoGrad(params, fused=True, **options),
            NovoGrad(twins, foreach=True, **options),
        )
        for step in range(3):
            train(one, 1, start=step)
            train(other, 1, start=step)
            parts = [
                Part(w, w, w, x.state[w]["exp_avg_sq"])
                for (w,), x in ((params, one), (twins, other))
            ]
            assert_neighbours(*parts)
            other.load_state_dict(copy.deepcopy(one.state_dict()))
            with torch.no_grad():
                torch._foreach_copy_(twins, params)


# -- steps of the optimizer ----------------------------------------------------------------------


SHAPES = ((40, 256), (30, 150), (7,), (5, 9), (), (9000,))


@pytest.mark.parametrize("layers", [Rows(), None, Split((4, 26)), Stacked(1)], ids=str)
def test_an_optimizer_steps_like_foreach(layers):
    def of(_, w):
        return layers if w.shape == SHAPES[1] else None

    params, twins = parameters(SHAPES), parameters(SHAPES)
    fused = None if isinstance(layers, Stacked) else True  # foreach does columns
    one = NovoGrad(params, layers=of, fused=fused, **ROUNDED)
    other = NovoGrad(twins, layers=of, foreach=True, **ROUNDED)
    for step in range(3):
        train(one, 1, start=step)
        train(other, 1, start=step)
        for w, x in zip(params, twins, strict=True):
            mine, theirs = one.state[w], other.state[x]
            assert list(mine) == list(theirs)
            assert mine["step"] == theirs["step"] == step + 1
            v, u = mine["exp_avg_sq"], theirs["exp_avg_sq"]
            assert_neighbours(Part(w, w, w, v), Part(x, x, x, u))
        # The next step begins with the same bits.
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        with torch.no_grad():
            torch._foreach_copy_(twins, params)


def one_step(n=40000, **options):
    """Runs a step of length 0.0005 from 1, an eighth of the distance to the next lower number."""
    w = torch.nn.Parameter(torch.ones(n, dtype=torch.bfloat16, device=DEVICE))
    w.grad = torch.ones_like(w)
    lr = 0.001 * n**0.5 / 2
    NovoGrad([w], lr=lr, stochastic_rounding=True, **options).step()
    return w.detach().float()


def test_rounding_is_right_on_average():
    w = one_step()
    below = 1 - 2**-8
    assert set(w.unique().tolist()) == {below, 1.0}
    share = (w == below).double().mean().item()
    expected = 0.0005 / 2**-8
    assert abs(share - expected) < 5 * (expected * (1 - expected) / len(w)) ** 0.5


def test_the_seed_of_torch_does_not_matter():
    torch.manual_seed(1)
    one = one_step()
    torch.manual_seed(2)
    assert torch.equal(one, one_step())


def test_steps_that_are_too_small_for_bfloat16_add_up():
    ends = []
    for stochastic in (False, True):
        w = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16, device=DEVICE))
        optimizer = NovoGrad([w], lr=0.01, betas=(0.0, 0.5), stochastic_rounding=stochastic)
        for _ in range(30):
            w.grad = torch.ones_like(w)
            optimizer.step()
        ends.append(w.detach().float().mean().item())
    nearest, stochastic = ends
    assert nearest == 1.0
    # A step is p = 0.081 of the distance 2**-8 to the next number. All 30 steps together are
    # 9.5e-3. The mean has a standard deviation of sqrt(30*p*(1 - p)/1000)*2**-8; 5.4 of these
    # standard deviations are allowed.
    assert stochastic == pytest.approx(1 - 30 * 0.01 / 1000**0.5, abs=1e-3)


def test_exact_and_nonfinite_numbers_stay():
    w = torch.tensor([1.0, -0.375, float("inf"), -float("inf"), float("nan")])
    w = torch.nn.Parameter(w.to(DEVICE, torch.bfloat16))
    before = w.detach().clone()
    w.grad = torch.zeros_like(w)
    NovoGrad([w], stochastic_rounding=True).step()
    torch.testing.assert_close(w.detach()[:2], before[:2], rtol=0, atol=0)
    assert not w.isfinite()[2:].any()


def test_other_dtypes_are_rounded_to_nearest():
    for dtype in (torch.float32, torch.float16):
        params, twins = parameters([(300,)], dtype), parameters([(300,)], dtype)
        train(NovoGrad(params, **ROUNDED), 3)
        train(NovoGrad(twins, **ROUNDED | {"stochastic_rounding": False}), 3)
        assert torch.equal(params[0], twins[0])


def test_a_step_of_a_scaler_that_found_infinity_changes_no_bit():
    params = parameters([(40, 256), (7,)])
    optimizer = NovoGrad(params, fused=True, **ROUNDED)
    train(optimizer, 2)
    before = copy.deepcopy([optimizer.state_dict()["state"], [w.detach() for w in params]])
    set_gradients(params, 2)
    optimizer.grad_scale = torch.tensor(2.0, device=DEVICE)
    optimizer.found_inf = torch.tensor(1.0, device=DEVICE)
    optimizer.step()
    after = [optimizer.state_dict()["state"], [w.detach() for w in params]]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_step_never_waits_for_the_device(monkeypatch):
    params = parameters([(300,), (4,)])
    lr = torch.tensor(0.1, device=DEVICE)
    optimizer = NovoGrad(params, fused=True, **ROUNDED | {"lr": lr})
    for number in range(2):
        set_gradients(params, number)
        step_without_waiting(optimizer, monkeypatch)


def test_channels_last_is_refused_by_name():
    w = torch.zeros(4, 3, 5, 5, dtype=torch.bfloat16, device=DEVICE)
    w = torch.nn.Parameter(w.to(memory_format=torch.channels_last))
    w.grad = torch.zeros_like(w)
    optimizer = NovoGrad([("other", w)], fused=True, **ROUNDED)
    with pytest.raises(RuntimeError, match="parameter 'other': it is rounded at random, and it is"):
        optimizer.step()
    optimizer = NovoGrad([w], **ROUNDED)
    optimizer.step()  # foreach supports it
    assert states_of(optimizer)[0]["step"] == 1
