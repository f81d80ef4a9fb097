"""Stochastic rounding of bfloat16 weights: the random bits, state and files."""

import copy
import itertools

import pytest
import torch

from novograd import rounding
from novograd.layers import Rows, Split
from novograd.torch import NovoGrad
from novograd.torch.backends import eager, foreach
from novograd.torch.parts import Part, Position
from novograd.torch.rounding import random_bits, store_weights
from tests.helpers.torch import assert_fair, parameters, set_gradients, states_of, train

SHAPES = [(64, 130), (33, 17), (5000,), (8, 64, 3, 3), (), (0, 3)]
ROUNDED = {"stochastic_rounding": True, "lr": 0.01, "weight_decay": 0.1}
BACKENDS = {
    "single": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "default": {},
}
every_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
every_moment = pytest.mark.parametrize("moment", [None, torch.int8], ids=str)


def made(shapes=SHAPES, dtype=torch.bfloat16, **options):
    params = parameters(shapes, dtype)
    return params, NovoGrad(params, **ROUNDED | options)


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def assert_neighbours(params, others):
    """Errors of the arithmetic may change the rounding of a few weights."""
    for w, x in zip(params, others, strict=True):
        torch.testing.assert_close(w, x, rtol=2**-7, atol=1e-5)
        # An error of 2^-24 of a weight changes the rounding with a probability of 2^-16.
        assert (w != x).sum() <= 3 + w.numel() / 1000


# Rounding


def rounded(share, steps, **backend):
    """Yields weights of 1.5 - share/128 after rounding, in units of 1/128 below 1.5."""
    w = torch.nn.Parameter(torch.zeros(len(share), dtype=torch.bfloat16))
    w.grad = share.bfloat16()
    # With beta1 = 0 and a variant that does not average, m is the normalised gradient.
    optimizer = NovoGrad(
        [w],
        lr=w.grad.float().norm().item() / 128,
        betas=(0.0, 0.0),
        eps=0.0,
        variant="nvidia",
        stochastic_rounding=True,
        **backend,
    )
    for _ in range(steps):
        torch.nn.init.constant_(w, 1.5)
        optimizer.step()
        yield 128 * (1.5 - w.detach().double())


@every_backend
def test_rounding_has_the_right_mean_and_variance(backend):
    share = (torch.arange(8192) % 256 / 256).bfloat16()
    found = torch.stack(list(rounded(share, 400, **backend)))
    assert_fair(found, share.double())


def test_neighbours_steps_and_the_momentum_buffer_are_independent():
    """Independent numbers fail a check with a probability of 6e-7."""
    w = torch.zeros(64, 128)
    draws = {}
    for purpose in (rounding.FOR_WEIGHTS, rounding.FOR_MOMENT):
        each = []
        for step in range(200):
            count = torch.tensor(float(step))
            part = Part(w, w, w, count, step=count, position=Position(0, (128, 1)))
            each.append(random_bits(purpose, part))
        draws[purpose] = torch.stack(each).double() / 2**16 - 0.5
    weights, moment = draws.values()
    for one, other in (
        (weights, moment),
        (weights[1:], moment[:-1]),
        (weights[:-1], moment[1:]),
        (weights[1:], weights[:-1]),
        (weights[:, 1:], weights[:, :-1]),
        (weights[:, :, 1:], weights[:, :, :-1]),
        (weights[:, :, 2:], weights[:, :, :-2]),
    ):
        correlation = 12 * (one * other).mean()
        assert abs(correlation) < 5 / one.numel() ** 0.5


@every_backend
def test_steps_that_are_too_small_for_bfloat16_add_up(backend):
    ends = []
    for stochastic in (False, True):
        w = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
        w.grad = torch.ones_like(w)
        optimizer = NovoGrad(
            [w], lr=0.01, betas=(0.0, 0.5), stochastic_rounding=stochastic, **backend
        )
        for _ in range(30):
            optimizer.step()
        ends.append(w.detach().float().mean().item())
    nearest, stochastic = ends
    assert nearest == 1.0
    # A step is p = 0.081 of the distance 2**-8 to the next number. All 30 steps together are
    # 9.5e-3. The mean has a standard deviation of sqrt(30*p*(1 - p)/1000)*2**-8; 5.4 of these
    # standard deviations are allowed.
    assert stochastic == pytest.approx(1 - 30 * 0.01 / 1000**0.5, abs=1e-3)


@pytest.mark.parametrize("payload", [0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF])
def test_exact_and_nonfinite_numbers_stay(payload):
    nan = torch.tensor([payload], dtype=torch.int32).view(torch.float32)
    exact = torch.tensor([1.0, -0.375, 0.0, -0.0, 2.0**-133, float("inf"), -float("inf")])
    x = torch.cat([exact, nan]).bfloat16().repeat(1000)
    w, v = torch.zeros_like(x), torch.tensor(0.0)
    part = Part(w, w, w, v, step=torch.tensor(0.0), position=Position(0, (1,)))
    store_weights(part, torch.cat([exact, nan]).repeat(1000), ROUNDED)
    assert_same(w, x)


def test_the_largest_numbers_may_become_infinite():
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([largest, -largest]).repeat(1000)
    w, v = torch.zeros(2000, dtype=torch.bfloat16), torch.tensor(0.0)
    part = Part(w, w, w, v, step=torch.tensor(0.0), position=Position(0, (1,)))
    store_weights(part, x, ROUNDED)
    assert w.isinf().float().mean() > 0.99
    assert torch.equal(w.sign(), x.sign().bfloat16())


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64], ids=str)
def test_other_dtypes_are_rounded_to_nearest_and_have_no_more_state(backend, dtype):
    params, optimizer = made(dtype=dtype, **backend)
    twins, twin = made(dtype=dtype, stochastic_rounding=False, **backend)
    train(optimizer, 3)
    train(twin, 3)
    assert_same(params, twins)
    assert_same(states_of(optimizer), states_of(twin))


@every_moment
def test_the_backends_round_alike(moment):
    """Each step begins with the same bits."""
    one, other = (made(moment_dtype=moment, foreach=x)[1] for x in (False, True))
    for step in range(4):
        train(one, 1, start=step)
        train(other, 1, start=step)
        assert_neighbours(*(x.param_groups[0]["params"] for x in (one, other)))
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        with torch.no_grad():
            torch._foreach_copy_(*(x.param_groups[0]["params"] for x in (other, one)))


@every_backend
def test_replicas_with_other_seeds_stay_equal(backend):
    """The random numbers are not those of torch's generator, and do not change it."""
    ends = []
    for seed in (1, 2):
        params, optimizer = made(**backend)
        torch.manual_seed(seed)
        train(optimizer, 3)
        assert torch.initial_seed() == seed
        expected = torch.Generator().manual_seed(seed)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))
        ends.append(params)
    assert_same(*ends)


def test_the_memory_format_has_no_influence():
    params, optimizer = made([(8, 64, 3, 3)])
    (w,) = parameters([(8, 64, 3, 3)], torch.bfloat16)
    last = torch.nn.Parameter(w.detach().to(memory_format=torch.channels_last))
    other = NovoGrad([last], **ROUNDED)
    train(optimizer, 3)
    train(other, 3)
    assert_neighbours([last.detach().contiguous()], params)
    assert other.state[last]["exp_avg"].stride() == last.stride()


@pytest.mark.parametrize("backend", [eager, foreach], ids=["single", "foreach"])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_parts_of_a_tensor_have_the_bits_of_the_whole(backend, axis):
    w, g, m = (x.detach() for x in parameters([(40, 30)] * 3, torch.bfloat16))
    v, step = torch.ones(40 if axis == 0 else 1, 30 if axis == 1 else 1), torch.tensor(5.0)
    whole = Part(w, g, m, v, step=step, position=Position(2**34 + 1, (90, 1)))
    twin = whole._replace(param=w.clone(), exp_avg=m.clone(), exp_avg_sq=v.clone())
    (group,) = NovoGrad([w], **ROUNDED).param_groups
    pieces = [
        whole._replace(
            **{
                name: getattr(whole, name).narrow(axis, a, b - a)
                for name in ("param", "grad", "exp_avg", "exp_avg_sq")
            },
            position=whole.position.after(axis, a),
        )
        for a, b in itertools.pairwise((0, 7, 16, v.numel()))
    ]
    backend.step(pieces, group)
    backend.step([twin], group)
    assert_same(whole.param, twin.param)


def test_split_layers_have_positions():
    params, optimizer = made([(40, 30)], layers=Split((12, 28)))
    others, other = made([(40, 30)], layers=Split((12, 28)), foreach=False)
    train(optimizer, 2)
    train(other, 2)
    assert_neighbours(params, others)
    assert optimizer.state[params[0]]["step"] == 2


@every_backend
@every_moment
def test_a_skipped_layer_keeps_every_bit(backend, moment):
    params, optimizer = made(
        [(64, 130)], layers=Rows(), skip_nonfinite=True, moment_dtype=moment, **backend
    )
    train(optimizer, 2)
    before = params[0].detach().clone()
    set_gradients(params, 2)
    params[0].grad[3, 5] = float("nan")
    optimizer.step()
    assert torch.equal(params[0][3], before[3])
    assert not (params[0] == before).all(1)[4:].any()
    assert params[0].isfinite().all()


# Options


def test_a_compiled_step_rounds_alike():
    params, optimizer = made()
    others, other = made()
    compiled = torch.compile(other.step)
    for step in range(3):
        for ws, take in ((params, optimizer.step), (others, compiled)):
            set_gradients(ws, step)
            take()
    assert_same(others, params)
    assert_same(states_of(other), states_of(optimizer))


# State and files


@every_moment
@pytest.mark.parametrize("variant", ["documented", "apex"])
def test_the_state_has_the_number_of_steps(moment, variant):
    _, optimizer = made(moment_dtype=moment, variant=variant)
    train(optimizer, 3)
    for state in states_of(optimizer):
        assert state["step"].dtype == torch.float32
        assert state["step"] == 3


@every_backend
@every_moment
def test_training_continues_from_a_file_with_the_same_bits(tmp_path, backend, moment):
    params, optimizer = made(moment_dtype=moment, **backend)
    train(optimizer, 3)
    torch.save({"weights": params, "optimizer": optimizer.state_dict()}, tmp_path / "file.pt")
    train(optimizer, 3, start=3)
    stored = torch.load(tmp_path / "file.pt", weights_only=True)
    again = NovoGrad(stored["weights"], moment_dtype=moment)
    again.load_state_dict(stored["optimizer"])
    train(again, 3, start=3)
    assert_same(stored["weights"], params)
    assert_same(states_of(again), states_of(optimizer))


@every_moment
def test_a_state_without_the_number_of_steps_loads(moment):
    """Files of older versions, and files of optimizers without the option, lack it."""
    _, optimizer = made(moment_dtype=moment)
    train(optimizer, 3)
    given = copy.deepcopy(optimizer.state_dict())
    for state in given["state"].values():
        del state["step"]
    for saved in (True, False):
        given["param_groups"][0]["stochastic_rounding"] = saved
        params, other = made(moment_dtype=moment)
        other.load_state_dict(copy.deepcopy(given))
        other.param_groups[0]["stochastic_rounding"] = True
        train(other, 2)
        assert all(state["step"] == 2 for state in states_of(other))
        assert params[0].isfinite().all()


def test_a_variant_that_counts_steps_still_needs_their_number():
    _, optimizer = made(variant="apex")
    train(optimizer, 1)
    given = copy.deepcopy(optimizer.state_dict())
    del given["state"][0]["step"]
    with pytest.raises(ValueError, match="no 'step' for parameter 0"):
        made(variant="apex")[1].load_state_dict(given)


@every_backend
def test_the_option_may_be_switched_on_and_off(backend):
    params, optimizer = made(stochastic_rounding=False, **backend)
    (group,) = optimizer.param_groups
    taken = 0
    for stochastic in (False, True, False, True):
        group["stochastic_rounding"] = stochastic
        train(optimizer, 2, start=taken)
        taken += 2
        for state in states_of(optimizer):
            assert state.get("step") == (2 if stochastic else None)
    assert all(w.isfinite().all() for w in params)


@pytest.mark.parametrize("variant", ["documented", "apex"])
def test_weights_that_become_float32_no_longer_need_the_number_of_steps(variant):
    params, optimizer = made(variant=variant)
    train(optimizer, 2)
    _, other = made(variant=variant, dtype=torch.float32)
    other.load_state_dict(optimizer.state_dict())
    for w in params:
        w.data = w.data.float()
    train(optimizer, 1)
    train(other, 1)
    for state in (*states_of(optimizer), *states_of(other)):
        assert ("step" in state) == (variant == "apex")
    _, again = made(variant=variant)
    again.load_state_dict(other.state_dict())
    train(again, 1)
    assert all("step" in state for state in states_of(again))
