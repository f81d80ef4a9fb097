"""``torch.compile`` of ``NovoGrad.step``."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim import lr_scheduler

from novograd.torch import NovoGrad
from tests.helpers.parameters import crossed
from tests.helpers.torch import BACKENDS, every_backend, parameters, set_gradients


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


@crossed(
    "options",
    {
        "everything": {
            "weight_decay": 0.1,
            "nesterov": True,
            "skip_nonfinite": True,
            "maximize": True,
        },
        "default": {},
    },
    "backend",
    BACKENDS,
)
def test_one_compilation_for_twenty_steps_under_a_schedule(backend, options):
    params, twins = parameters(), parameters()
    optimizers = [NovoGrad(p, lr=torch.tensor(0.1), **backend, **options) for p in (params, twins)]
    schedulers = [lr_scheduler.CosineAnnealingLR(optimizer, 20) for optimizer in optimizers]
    counter = CompileCounterWithBackend("aot_eager")
    steps = torch.compile(optimizers[0].step, backend=counter), optimizers[1].step
    for step in range(20):
        set_gradients(params, step)
        set_gradients(twins, step)
        for take, scheduler in zip(steps, schedulers, strict=True):
            take()
            scheduler.step()
    assert counter.frame_count == 1
    torch.testing.assert_close(params, twins)


@every_backend
def test_a_change_of_a_number_as_learning_rate_recompiles_once(backend):
    params = parameters()
    optimizer = NovoGrad(params, lr=0.1, **backend)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(optimizer.step, backend=counter)
    for number in range(20):
        set_gradients(params, number)
        step()
        scheduler.step()
    assert counter.frame_count == 2


@crossed("backend", BACKENDS, "nesterov", {"plain": False, "nesterov": True})
def test_numbers_that_change_are_not_compiled_as_constants(backend, nesterov):
    """Inductor makes the ``alpha`` of ``add`` a constant; steps 0 and 1 do not show this."""
    params, twins = parameters(), parameters()
    optimizers = [NovoGrad(p, nesterov=nesterov, **backend) for p in (params, twins)]
    steps = torch.compile(optimizers[0].step), optimizers[1].step
    for number in range(5):
        set_gradients(params, number)
        set_gradients(twins, number)
        for optimizer, take in zip(optimizers, steps, strict=True):
            optimizer.param_groups[0].update(
                lr=0.1 * 0.9**number,
                betas=(0.5 + 0.05 * number, 0.9 - 0.05 * number),
                weight_decay=0.1 * 0.9**number,
            )
            take()
    torch.testing.assert_close(params, twins)


def test_groups_without_parameters_or_gradients_compile():
    (w,) = parameters([(3, 5)])
    optimizer = NovoGrad([{"params": []}, {"params": [w], "weight_decay": 0.1}])
    before = w.detach().clone()
    torch.compile(optimizer.step, backend="aot_eager")()
    assert torch.equal(w.detach(), before)
    w.grad = torch.ones_like(w)
    torch.compile(optimizer.step, backend="aot_eager")()
    assert not torch.equal(w.detach(), before)


@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, pytest.param(torch.complex64, marks=pytest.mark.full)],
    ids=str,
)
def test_steps_compiled_by_inductor_equal_eager_steps(dtype):
    params = parameters(dtype=dtype)
    twins = copy.deepcopy(params)
    options = {"lr": torch.tensor(0.1), "weight_decay": 0.1}
    compiled = torch.compile(NovoGrad(params, **options).step)
    eager = NovoGrad(twins, **options)
    for step in range(3):
        set_gradients(params, step)
        set_gradients(twins, step)
        compiled()
        eager.step()
    torch.testing.assert_close(params, twins)
