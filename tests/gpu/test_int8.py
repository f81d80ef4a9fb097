"""Steps of the Triton kernels with a momentum buffer in int8, in addition to the conformance table.

The step of foreach is the reference. It may round a sum in another order, so a few whole numbers
may differ by 1.
"""

import copy
import itertools

import numpy as np
import pytest
import torch

from novograd import quantized
from novograd.layers import Rows, Split, Stacked
from novograd.torch import NovoGrad
from novograd.torch.backends import foreach, triton
from novograd.torch.parts import Part, Position
from tests.helpers.torch import parameters, set_gradients, step_without_waiting, train

# Plain pytest collects this file in an environment without Triton; `make test-triton` has it.
tl = pytest.importorskip("triton.language")
from triton import jit  # noqa: E402

from novograd.torch.backends.triton_int8 import quantised  # noqa: E402

DEVICE = "cpu" if triton.INTERPRETED else "cuda"
OPTIONS = {"lr": 0.1, "weight_decay": 0.05}
INT8 = {"moment_dtype": torch.int8, **OPTIONS}


def assert_alike(part, twin):
    """Compares the results of a step; allows the rounding of sums in another order."""
    eps = torch.finfo(part.param.dtype).eps
    torch.testing.assert_close(part.param, twin.param, rtol=max(1e-6, eps), atol=1e-6)
    torch.testing.assert_close(part.exp_avg_sq, twin.exp_avg_sq)
    torch.testing.assert_close(part.exp_avg_scale, twin.exp_avg_scale, rtol=1e-5, atol=0)
    apart = (part.exp_avg.int() - twin.exp_avg.int()).abs()
    assert apart.max() <= 1
    # An error of 1e-4 of a unit changes 1e-4 of the numbers; 5 standard deviations are allowed.
    expected = 1e-4 * apart.numel()
    assert apart.sum() <= expected + 5 * expected**0.5 + 1


def part_of(w, g, state, position):
    names = "exp_avg", "exp_avg_sq"
    moments = [state[name] for name in names]
    return Part(
        w, g, *moments, step=state["step"], exp_avg_scale=state["exp_avg_scale"], position=position
    )


def copied(part):
    tensors = {x: y.clone() for x, y in part._asdict().items() if isinstance(y, torch.Tensor)}
    return part._replace(**tensors)


def drawn(shape, v_shape=(), dtype=torch.float32, position=None, offset=0, scale_shape=None):
    """Returns a part after some steps."""
    generator = torch.Generator().manual_seed(0)

    def placed(x, kind=dtype):
        storage = torch.zeros(x.numel() + offset, dtype=kind, device=DEVICE)
        return storage[offset:].view(x.shape).copy_(x)

    w, g = (placed(torch.randn(shape, generator=generator)) for _ in range(2))
    q = placed(torch.randint(-127, 128, shape, generator=generator), torch.int8)
    scale_shape = quantized.scale_shape(shape) if scale_shape is None else scale_shape
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    state = {
        "exp_avg": q,
        "exp_avg_sq": torch.rand(v_shape, generator=generator).to(DEVICE, wide),
        "exp_avg_scale": 1e-3 * torch.rand(scale_shape, generator=generator).to(DEVICE),
        "step": torch.tensor(3.0, device=DEVICE),
    }
    strides = torch.empty(shape, device="meta").stride()
    return part_of(w, g, state, Position(0, strides) if position is None else position)


# -- blocks --------------------------------------------------------------------------------------


@jit
def round_blocks(ms, bits, qs, scales):
    blocks = tl.arange(0, 8)
    at = blocks[:, None] * 128 + tl.arange(0, 128)[None, :]
    q, scale = quantised(tl.load(ms + at), tl.load(bits + at))
    tl.store(qs + at, q)
    tl.store(scales + blocks, scale)


@pytest.mark.parametrize("bits", [0, 2**15, 2**16 - 1])
def test_blocks_are_rounded_like_those_of_quantized(bits):
    """Also the largest numbers, zeros, and numbers that are not finite."""
    blocks = np.linspace(-1, 1, 8 * 128, dtype=np.float32).reshape(8, 128)
    blocks[0] = 0.0
    blocks[1:5, 5] = np.nan, np.inf, -np.inf, 3e38
    blocks[5, ::2] = 1.7 * 2.0**-20
    blocks[5, 1::2] = -1.7 * 2.0**-20
    given = torch.tensor(blocks, device=DEVICE)
    chosen = torch.full((8, 128), bits, dtype=torch.int32, device=DEVICE)
    q = torch.zeros(8, 128, dtype=torch.int8, device=DEVICE)
    scales = torch.zeros(8, device=DEVICE)
    round_blocks[(1,)](given, chosen, q, scales)
    with np.errstate(invalid="ignore"):
        expected, others = quantized.quantised(
            blocks, chosen.cpu().numpy(), xp=np, float32=np.float32
        )
    np.testing.assert_allclose(scales.cpu().numpy(), others, rtol=3e-7)
    apart = np.abs(q.cpu().numpy() - expected)
    assert apart.max() <= 1
    # The largest number of a block is a whole number in exact arithmetic. With the least or the
    # greatest bits, an error of rounding changes it: in six blocks one number, in one block 64.
    assert np.count_nonzero(apart) <= (1 if bits == 2**15 else 70)
    assert not q[:4].any()


# -- the division of the work --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "v_shape"),
    [
        ((6, 768), (6, 1)),  # all blocks are whole
        ((20, 256), ()),
        ((3, 4096), (3, 1)),
        ((3, 8320), (3, 1)),  # each row has two programs
        ((9, 200), (9, 1)),  # the last block of a row is short
        ((50, 201), ()),
        ((3, 9001), (3, 1)),
        ((300, 15), (300, 1)),  # each row is a short block
        ((1400, 3), ()),
        pytest.param((5000, 3), (), marks=pytest.mark.full),
        ((16, 16, 3, 3), (16, 1, 1, 1)),  # a row has three axes
        ((2, 5, 130), (2, 1, 1)),  # a layer has several rows
        ((4, 6, 200), (1, 6, 1)),  # a layer has several pieces
    ],
    ids=str,
)
def test_rows_of_any_length_step_like_foreach(shape, v_shape):
    check(drawn(shape, v_shape))


@pytest.mark.parametrize("v_shape", [(10, 1), ()], ids=["rows", "whole"])
@pytest.mark.parametrize(
    "position",
    [
        Position(2**33 - 1024, (256, 1)),
        Position(77, (256, 1)),  # begins at an odd number
        Position(2**34, (1024, 1)),  # a piece of longer rows
        Position(3, (1001, 1)),
    ],
    ids=str,
)
def test_the_random_bits_depend_on_the_position_in_the_whole_tensor(position, v_shape):
    check(drawn((10, 256), v_shape, position=position))


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_memory_may_start_at_any_address(offset):
    for v_shape in ((6, 1), ()):
        check(drawn((6, 384), v_shape, offset=offset))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16], ids=lambda x: str(x)[6:]
)
@pytest.mark.parametrize("options", [{}, {"nesterov": True, "weight_decay": 0.1}], ids=str)
def test_weights_may_have_any_dtype(dtype, options):
    check(drawn((18, 256), (18, 1), dtype), **options)
    check(drawn((9, 200), (), dtype), **options)


@pytest.mark.parametrize("v_shape", [(18, 1), ()], ids=["rows", "whole"])
def test_norms_may_be_known(v_shape):
    square = torch.rand(v_shape, dtype=torch.float64, device=DEVICE)
    for length in (256, 200):
        check(drawn((18, length), v_shape)._replace(square=square))


def check(part, **options):
    """Compares a step with foreach."""
    (group,) = NovoGrad([part.param], lr=0.1, **options).param_groups
    twin = copied(part)
    assert triton.problem(part, group) is None
    triton.PreparedByTriton([part]).step(group)
    foreach.step([twin], group)
    assert_alike(part, twin)


def test_parts_of_a_tensor_have_the_bits_of_the_whole():
    (group,) = NovoGrad([torch.zeros(1)], lr=0.1, betas=(0.5, 0.5)).param_groups
    whole = drawn((40, 384), (40, 1))
    twin = copied(whole)
    pieces = [
        twin._replace(
            param=twin.param[a:b],
            grad=twin.grad[a:b],
            exp_avg=twin.exp_avg[a:b],
            exp_avg_sq=twin.exp_avg_sq[a:b],
            exp_avg_scale=twin.exp_avg_scale[a:b],
            position=twin.position.after(0, a),
        )
        for a, b in itertools.pairwise((0, 7, 16, 40))
    ]
    triton.PreparedByTriton([whole]).step(group)
    triton.PreparedByTriton(pieces).step(group)
    for x, y in zip(whole, twin, strict=True):
        if isinstance(x, torch.Tensor):
            assert torch.equal(x, y)


# -- steps of the optimizer ----------------------------------------------------------------------


SHAPES = ((40, 256), (30, 150), (7,), (5, 9))
LAYERS = {
    "rows": Rows(),
    "whole": None,
    "split": Split((4, 26), axis=0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_an_optimizer_steps_like_foreach(name):
    def layers(_, w):
        return LAYERS[name] if w.shape == SHAPES[1] else Rows()

    params = parameters(SHAPES, device=DEVICE)
    optimizer = NovoGrad(params, layers=layers, fused=True, **INT8)
    twins = [torch.nn.Parameter(w.detach().clone()) for w in params]
    twin = NovoGrad(twins, layers=layers, foreach=True, **INT8)
    for step in range(3):
        for each in (optimizer, twin):
            train(each, 1, start=step)
        for w, x in zip(params, twins, strict=True):
            mine, other = optimizer.state[w], twin.state[x]
            assert list(mine) == list(other)
            if mine["exp_avg"].dtype == torch.int8:
                assert mine["step"] == step + 1
                assert_alike(*(part_of(a, a, b, None) for a, b in ((w, mine), (x, other))))
            else:
                torch.testing.assert_close(mine, other)
        # The next step begins with the same bits.
        twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        with torch.no_grad():
            torch._foreach_copy_(twins, params)


def test_a_skipped_step_changes_no_bit():
    (w,) = params = parameters([(40, 256)], device=DEVICE)
    optimizer = NovoGrad(params, layers=Rows(), fused=True, skip_nonfinite=True, **INT8)
    train(optimizer, 2)
    before, weights = copy.deepcopy(optimizer.state[w]), w.detach().clone()
    set_gradients(params, 2)
    w.grad[3, 5] = float("inf")
    w.grad[7, 0] = float("nan")
    optimizer.step()
    skipped = torch.zeros(40, dtype=torch.bool, device=DEVICE)
    skipped[[3, 7]] = True
    for name in ("exp_avg", "exp_avg_scale", "exp_avg_sq"):
        same = (optimizer.state[w][name] == before[name]).all(1)
        assert torch.equal(same, skipped), name
    assert torch.equal((w.detach() == weights).all(1), skipped)
    assert optimizer.state[w]["exp_avg_scale"].isfinite().all()


def test_a_gradient_that_is_not_finite_makes_its_blocks_nan():
    (w,) = params = parameters([(40, 256)], device=DEVICE)
    optimizer = NovoGrad(params, layers=Rows(), fused=True, **INT8)
    train(optimizer, 1)
    set_gradients(params, 1)
    w.grad[3, 5] = float("nan")
    optimizer.step()
    scales = optimizer.state[w]["exp_avg_scale"]
    assert scales[3].isnan().all()
    assert scales.isnan().sum() == 2
    assert not optimizer.state[w]["exp_avg"][3].any()


def test_a_step_of_a_scaler_that_found_infinity_changes_no_bit():
    params = parameters([(40, 256), (20, 300)], device=DEVICE)
    optimizer = NovoGrad(params, fused=True, **INT8)
    train(optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    set_gradients(params, 2)
    optimizer.grad_scale = torch.tensor(2.0, device=DEVICE)
    optimizer.found_inf = torch.tensor(1.0, device=DEVICE)
    optimizer.step()
    torch.testing.assert_close(optimizer.state_dict()["state"], before, rtol=0, atol=0)


def test_a_step_never_waits_for_the_device(monkeypatch):
    params = parameters([(40, 256), (7,)], device=DEVICE)
    lr = torch.tensor(0.1, device=DEVICE)
    optimizer = NovoGrad(params, fused=True, **INT8 | {"lr": lr})
    for number in range(2):
        set_gradients(params, number)
        step_without_waiting(optimizer, monkeypatch)


@pytest.mark.parametrize(
    ("shape", "layers", "said"),
    [
        ((8, 3, 200), Stacked(2), "it is not contiguous"),
        ((40, 3, 64), Stacked(1), "a layer ends within a row of blocks"),
    ],
    ids=str,
)
def test_layers_within_a_row_are_refused_by_name(shape, layers, said):
    (w,) = parameters([shape], device=DEVICE)
    set_gradients([w], 0)
    optimizer = NovoGrad([("other", w)], layers=layers, fused=True, **INT8)
    with pytest.raises(RuntimeError, match=f"the gradient of parameter 'other': .*{said}"):
        optimizer.step()
    assert not optimizer.state
    NovoGrad([w], layers=layers, **INT8).step()  # foreach supports it
