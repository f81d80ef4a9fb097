"""Momentum buffers in 8 bits and in bfloat16: options, state, rounding and files."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch

from novograd import checkpoint, reference
from novograd.layers import Split
from novograd.torch import NovoGrad, layer_statistics
from novograd.torch.moments import dequantised
from tests.helpers.torch import (
    assert_fair,
    every_backend,
    parameters,
    set_gradients,
    states_of,
    train,
)

SHAPES = [(64, 130), (33, 17), (5000,), (8, 64, 3, 3)]
INT8 = {"moment_dtype": torch.int8, "lr": 0.01}
MOMENTS = pytest.mark.parametrize("moment", [torch.int8, torch.bfloat16], ids=str)


def made(shapes=SHAPES, dtype=torch.float32, **options):
    params = parameters(shapes, dtype)
    return params, NovoGrad(params, **INT8 | options)


def wide(state):
    """Returns the momentum buffer of a state in float32."""
    if "exp_avg_scale" not in state:
        return state["exp_avg"].float()
    return dequantised(state["exp_avg"], state["exp_avg_scale"], torch.float32)


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


# Options and state


@pytest.mark.parametrize("wrong", [torch.float16, torch.float32, torch.uint8, "int8", 8, True])
def test_another_dtype_is_refused(wrong):
    allowed = re.escape(
        f"moment_dtype must be one of torch.int8, torch.bfloat16 or None, got {wrong!r}"
    )
    w = torch.zeros(2)
    with pytest.raises(ValueError, match=allowed):
        NovoGrad([w], moment_dtype=wrong)
    optimizer = NovoGrad([w])
    with pytest.raises(ValueError, match=allowed):
        optimizer.add_param_group({"params": [torch.zeros(3)], "moment_dtype": wrong})
    assert len(optimizer.param_groups) == 1


@every_backend
def test_the_state_of_large_weights_is_in_8_bits(backend):
    _, optimizer = made(**backend)
    train(optimizer, 1)
    matrix, small, vector, convolution = states_of(optimizer)
    for state, shape in ((matrix, (64, 2)), (convolution, (8, 5))):
        assert state["exp_avg"].dtype == torch.int8
        assert state["exp_avg_scale"].dtype == torch.float32
        assert state["exp_avg_scale"].shape == shape
        assert state["step"] == 1
        assert state["exp_avg"].count_nonzero() > 0.9 * state["exp_avg"].numel()
    for state in (small, vector):
        assert list(state) == ["exp_avg", "exp_avg_sq"]
        assert state["exp_avg"].dtype == torch.float32


def test_the_state_needs_about_a_byte_for_each_weight():
    params, optimizer = made([(768, 3072), (2304, 768)], variant="rows")
    train(optimizer, 1)
    size = sum(x.nbytes for state in states_of(optimizer) for x in state.values())
    assert size <= 1.04 * sum(w.numel() for w in params)


def test_a_group_may_have_its_own_dtype():
    one, two, three = parameters([(64, 65)] * 3)
    groups = [{"params": [one]}, {"params": [two], "moment_dtype": torch.bfloat16}]
    optimizer = NovoGrad([*groups, {"params": [three], "moment_dtype": None}], **INT8)
    train(optimizer, 2)
    dtypes = [state["exp_avg"].dtype for state in states_of(optimizer)]
    assert dtypes == [torch.int8, torch.bfloat16, torch.float32]


@every_backend
@MOMENTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_training_is_close_to_training_with_a_wide_buffer(backend, moment, dtype):
    backend = {} if backend == {"fused": True} else backend
    params, optimizer = made(dtype=dtype, moment_dtype=moment, variant="rows", **backend)
    others, other = made(dtype=dtype, moment_dtype=None, variant="rows", **backend)
    train(optimizer, 20)
    train(other, 20)
    for w, expected, start in zip(params, others, parameters(SHAPES, dtype), strict=True):
        moved = (expected - start).detach().double().norm()
        # A bfloat16 weight may be rounded to its other neighbour, which is as far as many steps.
        bound = 0.06 if dtype == torch.bfloat16 else 0.02
        assert (w - expected).detach().double().norm() < bound * moved


@pytest.mark.parametrize("cut", [100, 129])
def test_layers_that_cut_a_block_are_refused(cut):
    w = torch.zeros(40, 300)
    message = r"parameter 'w': moment_dtype=torch.int8 has blocks of 128 .* cuts a block of shape"
    with pytest.raises(ValueError, match=message):
        NovoGrad([("w", w)], layers=Split((cut, 300 - cut), axis=-1), **INT8)
    NovoGrad([("w", w)], layers=Split((128, 172), axis=-1), **INT8)


def test_the_memory_format_has_no_influence():
    params, optimizer = made([(8, 64, 3, 3)], foreach=False)
    (w,) = parameters([(8, 64, 3, 3)])
    last = torch.nn.Parameter(w.detach().to(memory_format=torch.channels_last))
    other = NovoGrad([last], **INT8)
    train(optimizer, 5)
    train(other, 5)
    torch.testing.assert_close(last, params[0], rtol=1e-5, atol=1e-5)
    assert other.state[last]["exp_avg"].stride() == last.stride()
    assert other.state[last]["exp_avg_scale"].shape == (8, 5)


# Rounding


def rounded(exact, steps):
    """Yields the ``q`` of a block of buffers whose exact values are given, for many steps."""
    w = torch.nn.Parameter(torch.zeros(64, 128))
    # With beta1 = 0 and a variant that does not average, m is the normalised gradient.
    optimizer = NovoGrad(
        [w], lr=1e-3, betas=(0.0, 0.0), eps=0.0, variant="nvidia", moment_dtype=torch.int8
    )
    w.grad = exact
    for _ in range(steps):
        optimizer.step()
        yield optimizer.state[w]["exp_avg"].float()


def test_rounding_has_the_right_mean_and_variance():
    exact = torch.linspace(-20.5, 20.5, 64 * 128).view(64, 128)
    exact[:, 0] = 127  # so that each scale is 1
    low = exact.floor()
    found = torch.stack(list(rounded(exact, 400)))
    assert_fair((found - low).double(), (exact - low).double())


def test_neighbours_and_steps_are_independent():
    """Independent numbers fail a check with a probability of 6e-7."""
    exact = torch.full((64, 128), 0.5)
    exact[:, 0] = 127
    draws = torch.stack(list(rounded(exact, 200)))[:, :, 1:] - 0.5
    for one, other in (
        (draws[1:], draws[:-1]),
        (draws[:, 1:], draws[:, :-1]),
        (draws[:, :, 1:], draws[:, :, :-1]),
        (draws[:, :, 2:], draws[:, :, :-2]),
    ):
        correlation = 4 * (one * other).double().mean()
        assert abs(correlation) < 5 / one.numel() ** 0.5


@pytest.mark.parametrize("moment", [torch.int8, None], ids=str)
def test_a_tiny_constant_gradient_moves_the_weights_as_far_as_in_float32(moment):
    """A step adds .06 to the buffer, in units of the scale: rounding to nearest would lose it.

    Each rounding has a variance of at most 1/4, and counts 1/(1 - beta1) = 20 times in the sum of
    the buffers. So the sum over 10,000 steps has a standard deviation of at most 1,000, and the
    mean over 8,128 elements of at most 11.1, in 12,700. The bounds are 5 standard deviations.
    """
    w = torch.nn.Parameter(torch.zeros(64, 128))
    w.grad = torch.full_like(w, 0.01)
    w.grad[:, 0] = 1.0
    rate = 127 * 0.05 * w.grad.norm().item()
    optimizer = NovoGrad([w], lr=rate, betas=(0.95, 0.0), variant="nvidia", moment_dtype=moment)
    for _ in range(10_000):
        optimizer.step()
    scale = rate / 0.05 / w.grad.norm().item() / 127
    sums = -w.detach()[:, 1:].double() / scale
    start = 20 * 1.27  # the steps in which the buffer grows
    assert abs(sums.mean() - 12_700 + start) < 5 * 11.1
    assert (sums - 12_700).abs().max() < 5 * 1000 + start


@every_backend
def test_a_skipped_step_keeps_every_bit(backend):
    params, optimizer = made(skip_nonfinite=True, **backend)
    train(optimizer, 3)
    before = copy.deepcopy(states_of(optimizer))
    set_gradients(params, 3)
    params[0].grad[3, 5] = float("nan")
    params[3].grad[3, 5] = float("inf")
    optimizer.step()
    for number in (0, 3):
        after = states_of(optimizer)[number]
        assert after["step"] == before[number]["step"] + 1  # as in variants that count steps
        for name in ("exp_avg", "exp_avg_scale", "exp_avg_sq"):
            assert torch.equal(after[name], before[number][name])


@every_backend
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_block_that_is_not_finite_stays_so(backend, value):
    params, optimizer = made([(64, 300)], variant="openseq2seq", **backend)
    train(optimizer, 2)
    set_gradients(params, 2)
    params[0].grad[3, 130] = value
    optimizer.step()
    assert wide(states_of(optimizer)[0])[3, 128:256].isnan().all()
    train(optimizer, 1, start=3)
    assert wide(states_of(optimizer)[0])[3, 128:256].isnan().all()


def test_the_random_numbers_of_large_tensors_differ():
    far = np.array([0, 2**33, 2**34, 2**35 + 1])
    for seed in (reference.MOMENT_SEED, reference.WEIGHTS_SEED):
        assert len({*reference.uniform(5, far, seed)}) == 4


# Files and copies


@every_backend
@MOMENTS
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64], ids=str
)
def test_training_continues_from_a_file_with_the_same_bits(tmp_path, backend, moment, dtype):
    backend = {} if backend == {"fused": True} else backend
    params, optimizer = made(dtype=dtype, moment_dtype=moment, **backend)
    train(optimizer, 3)
    torch.save({"weights": params, "optimizer": optimizer.state_dict()}, tmp_path / "file.pt")
    train(optimizer, 3, start=3)
    stored = torch.load(tmp_path / "file.pt", weights_only=True)
    again = NovoGrad(stored["weights"], moment_dtype=moment)
    again.load_state_dict(stored["optimizer"])
    train(again, 3, start=3)
    assert_same(stored["weights"], params)
    assert_same(states_of(again), states_of(optimizer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        (None, torch.int8),
        (torch.int8, None),
        (torch.bfloat16, torch.int8),
        (torch.int8, torch.bfloat16),
        (None, torch.bfloat16),
        (torch.bfloat16, None),
    ],
)
def test_a_state_dict_is_converted_with_a_warning(saved, loaded, dtype):
    _, optimizer = made(dtype=dtype, moment_dtype=saved)
    train(optimizer, 3)
    _, other = made(dtype=dtype, moment_dtype=loaded)
    own = [dtype, loaded][loaded is not None], [dtype, saved][saved is not None]
    message = f"converted 2 momentum buffers of the state dict from {own[1]} to {own[0]}"
    with pytest.warns(UserWarning, match=message):
        other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["moment_dtype"] == loaded
    for mine, theirs in zip(states_of(optimizer), states_of(other), strict=True):
        assert torch.equal(mine["exp_avg_sq"], theirs["exp_avg_sq"])
        was, now = (
            torch.view_as_real(s["exp_avg"]) if s["exp_avg"].is_complex() else wide(s)
            for s in (mine, theirs)
        )
        error = (was - now).abs()
        if "exp_avg_scale" in theirs:
            assert error.max() <= 0.5001 * theirs["exp_avg_scale"].max()
        elif theirs["exp_avg"].dtype == torch.bfloat16:
            assert (error <= 2**-8 * was.abs()).all()
        else:
            assert error.max() == 0
    kinds = [list(state) for state in states_of(other)]
    assert all(("step" in kind) == ("exp_avg_scale" in kind) for kind in kinds)
    train(other, 2, start=3)


def test_a_dtype_that_is_edited_converts_the_state():
    params, optimizer = made()
    train(optimizer, 3)
    before = [wide(state).clone() for state in states_of(optimizer)]
    optimizer.param_groups[0]["moment_dtype"] = None
    set_gradients(params, 3, scale=0.0)
    optimizer.param_groups[0]["betas"] = (0.5, 0.5)
    optimizer.step()
    for m, state in zip(before, states_of(optimizer), strict=True):
        assert list(state) == ["exp_avg", "exp_avg_sq"]
        torch.testing.assert_close(state["exp_avg"], 0.5 * m)
    optimizer.param_groups[0]["moment_dtype"] = torch.int8
    train(optimizer, 1, start=4)
    assert states_of(optimizer)[0]["exp_avg"].dtype == torch.int8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update(exp_avg_scale=torch.zeros(64, 3)),
            r"'exp_avg_scale' of parameter 0 must have shape \(64, 2\), got \(64, 3\)",
        ),
        (lambda state: state.pop("exp_avg_scale"), "no 'exp_avg_scale' for parameter 0"),
        (
            lambda state: state.update(exp_avg=torch.zeros(64, 130)),
            "parameter 0: 'exp_avg' must have dtype torch.int8, got torch.float32",
        ),
    ],
)
def test_a_state_of_other_blocks_is_refused(change, message):
    _, optimizer = made()
    train(optimizer, 1)
    given = optimizer.state_dict()
    given["state"] = copy.deepcopy(given["state"])
    change(given["state"][0])
    _, other = made()
    train(other, 2)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(given)
    assert_same(other.state_dict()["state"], before["state"])


@MOMENTS
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_continue_with_the_same_bits(moment, copied):
    params, optimizer = made(moment_dtype=moment)
    train(optimizer, 2)
    other_params, other = copied((params, optimizer))
    for one in (optimizer, other):
        train(one, 2, start=2)
    assert_same(other_params, params)
    assert_same(states_of(other), states_of(optimizer))


def test_files_can_be_converted(tmp_path):
    _, optimizer = made()
    train(optimizer, 3)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    found = checkpoint.read(tmp_path / "state.pt", "torch")
    for state, entry in zip(states_of(optimizer), found.entries.values(), strict=True):
        assert_same(torch.from_numpy(entry.moment), wide(state))
    assert checkpoint.lost(found, "torch") == ["moment_dtype"]


def test_files_with_wrong_scales_are_refused(tmp_path):
    _, optimizer = made()
    train(optimizer, 1)
    given = optimizer.state_dict()
    given["state"][0]["exp_avg_scale"] = torch.zeros(64, 3)
    torch.save(given, tmp_path / "state.pt")
    with pytest.raises(checkpoint.CheckpointError, match=r"scales of shape \(64, 3\), and must"):
        checkpoint.read(tmp_path / "state.pt", "torch")


# Other features


def test_statistics_are_those_of_the_wide_buffer():
    params, optimizer = made()
    train(optimizer, 3)
    found = layer_statistics(optimizer)
    for i, (w, state) in enumerate(zip(params, states_of(optimizer), strict=True)):
        expected = wide(state).norm() / w.detach().norm()
        assert found[f"0.{i}"].update_ratio == pytest.approx(expected.item(), rel=1e-4)


def test_steps_in_the_backward_pass_give_the_same_bits():
    params, optimizer = made()
    others = parameters(SHAPES)
    each = {w: NovoGrad([w], **INT8) for w in others}

    def hook(w):
        each[w].step()
        w.grad = None

    for w in others:
        w.register_post_accumulate_grad_hook(hook)
    for ws in (params, others):
        for _ in range(3):
            sum((w**2).sum() for w in ws).backward()
            if ws is params:
                optimizer.step()
                optimizer.zero_grad()
    assert_same(others, params)


def test_a_gradscaler_skips_a_step_with_an_overflow():
    params, optimizer = made()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(3):
        optimizer.zero_grad()
        loss = sum((w**2).sum() for w in params)
        scaler.scale(loss * (float("inf") if step == 2 else 1.0)).backward()
        before = copy.deepcopy(states_of(optimizer)) if step else None
        scaler.step(optimizer)
        scaler.update()
    assert_same(states_of(optimizer), before)


@pytest.mark.parametrize("skip_nonfinite", [False, True])
def test_a_compiled_step_rounds_as_well(skip_nonfinite):
    """Rows with a short block, which are padded."""
    options = {"foreach": True, "variant": "rows", "skip_nonfinite": skip_nonfinite}
    params, optimizer = made([(33, 131)], **options)
    others, other = made([(33, 131)], **options)
    compiled = torch.compile(other.step)
    for step in range(3):
        for ws, take in ((params, optimizer.step), (others, compiled)):
            set_gradients(ws, step)
            take()
    (state,), (found,) = states_of(optimizer), states_of(other)
    torch.testing.assert_close(others, params)
    torch.testing.assert_close(found["exp_avg_scale"], state["exp_avg_scale"])
    # An element within a rounding error of the next number may be rounded to it.
    different = (found["exp_avg"] != state["exp_avg"]).float().mean()
    assert different < 1e-3
