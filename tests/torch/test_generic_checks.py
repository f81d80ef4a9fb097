"""The checks of torch for its own optimizers, run on NovoGrad.

``INFO`` describes NovoGrad in the format of torch's table of optimizers. The wrong inputs, the
settings and the comparison step by step come from torch.testing._internal. The package does not
include the bodies of the checks, so this file has its own.
"""

import copy
import itertools
import unittest
import warnings

import pytest
import torch
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    TensorTracker,
    _get_optim_inputs_including_global_cliquey_kwargs,
    get_error_inputs_for_all_optims,
)

from novograd.torch import NovoGrad
from tests.helpers.torch import BACKENDS, every_backend


def inputs(device, dtype=None):
    settings = (
        {},
        {"lr": 0.01},
        {"lr": torch.tensor(0.001)},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.1, "nesterov": True},
        {"grad_averaging": True, "betas": (0.5, 0.0)},
        {"weight_decay": 0.1, "skip_nonfinite": True},
        {"capturable": True},
    )
    return [OptimizerInput(params=None, kwargs=kwargs, desc=str(kwargs)) for kwargs in settings]


def error_inputs(device, dtype):
    wrong = (
        ({"lr": -1.0}, ValueError, "lr must be in"),
        ({"betas": (1.0, 0.0)}, ValueError, "betas.0. must be in"),
        ({"eps": -1.0}, ValueError, "eps must be in"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be in"),
        ({"fused": True, "foreach": True}, RuntimeError, "cannot be True together"),
    )
    return get_error_inputs_for_all_optims(device, dtype) + [
        ErrorOptimizerInput(
            OptimizerInput(params=None, kwargs=kwargs, desc=said),
            error_type=error,
            error_regex=said,
        )
        for kwargs, error, said in wrong
    ]


INFO = OptimizerInfo(
    NovoGrad,
    optim_inputs_func=inputs,
    optim_error_inputs_func=error_inputs,
    supported_impls=("foreach", "fused"),
    not_og_supported_flags=(),
    has_capturable_arg=True,
)
SETTINGS = [
    {**given.kwargs, **extra}
    for given in _get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, INFO)
    for extra in BACKENDS.values()
]
every_setting = pytest.mark.parametrize("settings", SETTINGS, ids=str)


def regression(dtype=torch.float32):
    """Returns a weight, a bias and a function for the loss, as in torch's own checks."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(10, 5, dtype=dtype))
    bias = torch.nn.Parameter(torch.randn(10, dtype=dtype))
    data = torch.randn(5, dtype=dtype)
    return weight, bias, lambda: (weight.mv(data) + bias).pow(2).sum()


def closure_of(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


@pytest.mark.parametrize(
    "given", INFO.optim_error_inputs_func("cpu", torch.float32), ids=lambda x: str(x.error_regex)
)
def test_wrong_inputs_raise_errors(given):
    assert given.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
    params = given.optimizer_error_input.params
    if params is None:
        params = [torch.nn.Parameter(torch.randn(2, 3))]
    if issubclass(given.error_type, Warning):
        with pytest.warns(given.error_type, match=given.error_regex):
            NovoGrad(params, **given.optimizer_error_input.kwargs)
    else:
        with pytest.raises(given.error_type, match=given.error_regex):
            NovoGrad(params, **given.optimizer_error_input.kwargs)


@every_setting
@pytest.mark.parametrize("scheduler", range(len(INFO.scheduler_inputs[0]) + 1))
def test_steps_move_the_loss_in_the_right_direction(settings, scheduler):
    weight, bias, loss = regression()
    optimizer = NovoGrad([weight, bias], **copy.deepcopy(settings))
    with warnings.catch_warnings():
        # torch warns if a scheduler steps before the optimizer, but this check does so on purpose.
        warnings.simplefilter("ignore", UserWarning)
        schedulers = [make(optimizer) for make in INFO.scheduler_inputs[0][:scheduler]]
    closure = closure_of(optimizer, loss)
    before = closure().item()
    for _ in range(20):
        value = optimizer.step(closure)
        for schedule in schedulers:
            if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                schedule.step(value.detach())
            else:
                schedule.step()
    after = closure().item()
    assert (after > before) if settings.get("maximize") else (after < before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize(
    "settings", [given.kwargs for given in INFO.optim_inputs_func("cpu")], ids=str
)
@pytest.mark.parametrize("other", ["foreach", "fused"])
def test_backends_match_the_loop_over_tensors(settings, dtype, other):
    tracker = TensorTracker(assert_eq_kwargs={"rtol": 1e-5, "atol": 1e-6})

    def follow(tensor, backend):
        if backend == other:
            tracker.pop_check_set(tensor, TensorCase())
        else:
            tracker.add(tensor)

    for backend in ("single", other):
        torch.manual_seed(0)
        shapes = ((3, 2), (3,), (1, 3), (1,), (0,))
        params = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
        optimizer = NovoGrad(params, **BACKENDS[backend], **copy.deepcopy(settings))
        data = torch.tensor([[0.1, 0.2], [0.3, 0.4]], dtype=dtype)
        for step in range(7):
            optimizer.zero_grad()
            first = torch.sigmoid(data @ params[0].T + params[1])
            second = torch.sigmoid(first @ params[2].T + params[3])
            (second.abs().sum() + params[4].abs().sum()).backward()
            if step == 3:
                params[1].grad = None
            optimizer.step()
            for param in params:
                follow(param, backend)
                for value in optimizer.state[param].values():
                    follow(value, backend)
    assert tracker.all_popped()


class TensorCase(unittest.TestCase):
    """The methods of a test case that torch's tracker uses."""

    def assertEqual(self, one, other, **tolerances):  # noqa: N802
        torch.testing.assert_close(one, other, **tolerances)


@every_setting
def test_step_without_gradients_changes_nothing(settings):
    weight, bias, _ = regression()
    optimizer = NovoGrad([weight, bias], **copy.deepcopy(settings))
    before = copy.deepcopy([weight, bias])
    optimizer.step()
    assert not optimizer.state
    torch.testing.assert_close([weight, bias], before, rtol=0, atol=0)


@every_setting
def test_step_with_zero_gradients_changes_nothing(settings):
    weight, bias, _ = regression()
    settings = {name: value for name, value in settings.items() if name != "weight_decay"}
    optimizer = NovoGrad([weight, bias], **copy.deepcopy(settings))
    before = copy.deepcopy([weight, bias])
    for param in (weight, bias):
        param.grad = torch.zeros_like(param)
    optimizer.step()
    torch.testing.assert_close([weight, bias], before, rtol=0, atol=0)


@every_setting
def test_state_dict_is_deterministic_and_resumes(settings):
    weight, bias, loss = regression()
    optimizer = NovoGrad([weight, bias], **copy.deepcopy(settings))
    closure = closure_of(optimizer, loss)
    for _ in range(3):
        optimizer.step(closure)
    again = regression()
    with torch.no_grad():
        again[0].copy_(weight)
        again[1].copy_(bias)
    resumed = NovoGrad(again[:2])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        optimizer.step(closure)
        resumed.step(closure_of(resumed, again[2]))
        torch.testing.assert_close([weight, bias], list(again[:2]), rtol=0, atol=0)
    torch.testing.assert_close(
        optimizer.state_dict()["state"], resumed.state_dict()["state"], rtol=0, atol=0
    )


def test_deepcopy_copies_all_public_attributes():
    weight, bias, loss = regression()
    optimizer = NovoGrad([weight, bias])
    optimizer.step(closure_of(optimizer, loss))

    def public(x):
        return {name for name in vars(x) if not name.startswith("_")}

    assert public(copy.deepcopy(optimizer)) == public(optimizer)


def test_the_repr_shows_the_options():
    shown = repr(NovoGrad([torch.zeros(2)], lr=0.125))
    assert "NovoGrad" in shown
    assert "lr: 0.125" in shown


@every_backend
def test_the_default_dtype_has_no_effect(backend):
    results = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            params = regression(torch.float32)[:2]
            optimizer = NovoGrad(params, weight_decay=0.1, skip_nonfinite=True, **backend)
            for param in itertools.chain(params, params):
                param.grad = torch.ones_like(param)
                optimizer.step()
            results.append([p.detach() for p in params])
        finally:
            torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(*results, rtol=0, atol=0)
