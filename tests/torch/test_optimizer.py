"""NovoGrad as a torch.optim.Optimizer: the features of torch's own optimizers."""

import copy
import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from novograd.torch import NovoGrad
from novograd.torch.backends import eager, foreach, native
from novograd.variants import DOCUMENTED, VARIANTS
from tests.helpers.oracle import trained
from tests.helpers.torch import (
    SHAPES,
    every_backend,
    parameters,
    set_gradients,
    train,
)


def gradients(param, steps):
    """Returns the gradients that ``train`` gives to a single parameter."""
    found = []
    for step in range(steps):
        set_gradients([param], step)
        found.append(param.grad.detach().numpy().copy())
    return found


@every_backend
def test_groups_have_their_own_options(backend):
    first, second = parameters([(3, 5), (3, 5)])
    start = [p.detach().numpy().copy() for p in (first, second)]
    groups = [{"params": [first], "weight_decay": 0.1, "betas": (0.5, 0.9)}, {"params": [second]}]
    optimizer = NovoGrad(groups, lr=0.1, nesterov=True, **backend)
    given = [[], []]
    for step in range(5):
        set_gradients([first, second], step)
        for number, param in enumerate((first, second)):
            given[number].append(param.grad.numpy().copy())
        optimizer.step()
    for param, w, g, changes in zip(
        (first, second),
        start,
        given,
        ({"weight_decay": 0.1, "beta1": 0.5, "beta2": 0.9}, {}),
        strict=True,
    ):
        wanted = trained(w, g, nesterov=True, **changes)[0]
        np.testing.assert_allclose(param.detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


@every_backend
def test_an_added_group_is_trained(backend):
    optimizer = NovoGrad(parameters([(3, 5)]), **backend)
    train(optimizer, 2)
    late = parameters([(7,)], seed=1)
    before = late[0].detach().clone()
    optimizer.add_param_group({"params": late, "lr": 0.5})
    train(optimizer, 1)
    normalised = late[0].grad / late[0].grad.norm()
    torch.testing.assert_close(late[0].detach(), before - 0.5 * normalised)


def test_named_parameters_are_kept():
    model = torch.nn.Linear(3, 2)
    optimizer = NovoGrad(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@every_backend
def test_a_closure_runs_with_gradients_and_its_value_is_returned(backend):
    (w,) = parameters([(4,)])
    optimizer = NovoGrad([w], **backend)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    before = w.detach().clone()
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    assert loss == (before**2).sum()
    assert not torch.equal(w, before)
    assert optimizer.step() is None


def test_hooks_see_the_step():
    optimizer = NovoGrad(parameters())
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(optimizer, 1)
    assert seen == ["before", "after"]


@every_backend
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_continue_alike(backend, duplicate):
    optimizer = NovoGrad(parameters(), weight_decay=0.1, **backend)
    train(optimizer, 3)
    other = duplicate(optimizer)
    train(optimizer, 3, start=3)
    train(other, 3, start=3)
    for one, two in zip(*(o.param_groups[0]["params"] for o in (optimizer, other)), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
        torch.testing.assert_close(optimizer.state[one], other.state[two], rtol=0, atol=0)


@every_backend
@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: lr_scheduler.ExponentialLR(o, 0.5),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    ],
)
def test_schedulers_change_the_learning_rate(backend, tensor, schedule):
    (w,) = parameters([(3, 5)])
    start = w.detach().numpy().copy()
    optimizer = NovoGrad([w], lr=torch.tensor(0.1) if tensor else 0.1, **backend)
    scheduler = schedule(optimizer)
    rates, given = [], gradients(w, 5)
    for gradient in given:
        rates.append(float(optimizer.param_groups[0]["lr"]))
        w.grad = torch.from_numpy(gradient)
        optimizer.step()
        scheduler.step()
    assert len(set(rates)) == 5
    wanted = trained(start, given, learning_rate=rates.__getitem__)[0]
    np.testing.assert_allclose(w.detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


@every_backend
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_the_learning_rate_may_be_a_tensor_of_one_element(backend, shape):
    results = []
    for lr in (0.25, torch.full(shape, 0.25, dtype=torch.float64)):
        params = parameters()
        optimizer = NovoGrad(params, lr=lr, weight_decay=0.1, **backend)
        train(optimizer, 3)
        results.append(params)
    torch.testing.assert_close(*results)


@every_backend
def test_maximize_is_minimize_of_the_negative(backend):
    up, down = parameters(), parameters()
    options = {"weight_decay": 0.1, "nesterov": True, **backend}
    maximizing, minimizing = NovoGrad(up, maximize=True, **options), NovoGrad(down, **options)
    for step in range(4):
        set_gradients(up, step)
        set_gradients(down, step, scale=-1.0)
        maximizing.step()
        minimizing.step()
    torch.testing.assert_close(up, down, rtol=0, atol=0)


@every_backend
def test_a_step_never_modifies_a_gradient(backend):
    for dtype, nesterov, skip in itertools.product(
        (torch.float32, torch.bfloat16), (False, True), (False, True)
    ):
        params = parameters(dtype=dtype)
        optimizer = NovoGrad(
            params,
            weight_decay=0.1,
            nesterov=nesterov,
            maximize=True,
            skip_nonfinite=skip,
            **backend,
        )
        set_gradients(params, 0)
        before = [(p.grad, p.grad.clone()) for p in params]
        optimizer.step()
        for param, (gradient, value) in zip(params, before, strict=True):
            assert param.grad is gradient
            assert torch.equal(gradient, value)


@every_backend
def test_a_group_may_have_mixed_dtypes(backend):
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32)
    mixed = [parameters([(3, 5)], dtype, seed)[0] for seed, dtype in enumerate(dtypes)]
    apart = copy.deepcopy(mixed)
    together = NovoGrad(mixed, weight_decay=0.1, **backend)
    alone = [NovoGrad([p], weight_decay=0.1, **backend) for p in apart]
    for step in range(4):
        for params in (mixed, apart):
            for number, param in enumerate(params):
                set_gradients([param], 10 * number + step)
        together.step()
        for optimizer in alone:
            optimizer.step()
    torch.testing.assert_close(mixed, apart, rtol=0, atol=0)
    for param, dtype in zip(mixed, dtypes, strict=True):
        state = together.state[param]
        assert state["exp_avg"].dtype == dtype
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert state["exp_avg_sq"].dtype == wide
        assert state["exp_avg_sq"].shape == ()


@every_backend
@pytest.mark.parametrize("nesterov", [False, True])
def test_complex_parameters_equal_their_real_pairs(backend, nesterov):
    for dtype in (torch.complex64, torch.complex128):
        pair = torch.randn(3, 5, 2, dtype=dtype.to_real())
        complex_ = torch.nn.Parameter(torch.view_as_complex(pair).clone())
        real = torch.nn.Parameter(pair.clone())
        options = {"weight_decay": 0.1, "nesterov": nesterov, **backend}
        for step in range(3):
            if step == 0:
                one, two = NovoGrad([complex_], **options), NovoGrad([real], **options)
            set_gradients([real], step)
            complex_.grad = torch.view_as_complex(real.grad.clone())
            one.step()
            two.step()
        assert torch.equal(torch.view_as_real(complex_.detach()), real.detach())
        assert one.state[complex_]["exp_avg"].dtype == dtype
        assert torch.equal(one.state[complex_]["exp_avg_sq"], two.state[real]["exp_avg_sq"])


@every_backend
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_and_views_have_no_effect(backend, memory_format):
    values = parameters([(4, 3, 5, 5)])[0].detach()
    plain = torch.nn.Parameter(values.clone())
    other = torch.nn.Parameter(values.clone().to(memory_format=memory_format))
    strided = torch.nn.Parameter(torch.zeros(4, 3, 5, 10)[..., ::2].copy_(values))
    optimizers = [NovoGrad([p], weight_decay=0.1, **backend) for p in (plain, other)]
    # The kernels do not support this parameter, so foreach updates it by default.
    optimizers.append(NovoGrad([strided], weight_decay=0.1, foreach=backend.get("foreach")))
    for step in range(3):
        set_gradients([plain, other, strided], step)
        other.grad = plain.grad.to(memory_format=memory_format)
        strided.grad = plain.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(other, plain)
    torch.testing.assert_close(strided, plain)
    moment = optimizers[1].state[other]["exp_avg"]
    assert moment.is_contiguous(memory_format=memory_format)


@every_backend
def test_a_gradient_may_have_another_dtype(backend):
    """In torch, a parameter with a ``grad_dtype`` allows this."""
    (w,) = parameters([(3, 5)], torch.bfloat16)
    start = w.detach().double().numpy()
    w.grad_dtype = torch.float32
    gradient = torch.randn(3, 5)
    w.grad = gradient
    NovoGrad([w], lr=0.1, **backend).step()
    wanted = torch.from_numpy(trained(start, [gradient.numpy()])[0]).to(torch.bfloat16)
    assert torch.equal(w.detach(), wanted)


@every_backend
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_skip_nonfinite_leaves_the_parameter_and_its_state_untouched(backend, nesterov, dtype, bad):
    params = parameters(dtype=dtype)
    others = copy.deepcopy(params)
    options = {"weight_decay": 0.1, "nesterov": nesterov, **backend}
    skipping = NovoGrad(params, skip_nonfinite=True, **options)
    plain = NovoGrad(others, **options)
    for step in range(4):
        set_gradients(params, step)
        set_gradients(others, step)
        before = copy.deepcopy((params[0].detach(), dict(skipping.state[params[0]])))
        if step in (1, 2):
            params[0].grad[1, 2] = bad
            others[0].grad = None
        skipping.step()
        plain.step()
        if step in (1, 2):
            after = params[0].detach(), dict(skipping.state[params[0]])
            torch.testing.assert_close(after, before, rtol=0, atol=0)
    for one, other in zip(params, others, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(skipping.state[one], plain.state[other])


@every_backend
def test_without_skip_nonfinite_the_weights_become_nonfinite(backend):
    params = parameters()
    optimizer = NovoGrad(params, **backend)
    train(optimizer, 1)
    before = optimizer.state[params[0]]["exp_avg_sq"].clone()
    set_gradients(params, 1)
    params[0].grad[0, 0] = float("nan")
    optimizer.step()
    assert params[0].isnan().any()
    assert torch.equal(optimizer.state[params[0]]["exp_avg_sq"], before)
    assert not params[1].isnan().any()


@every_backend
@pytest.mark.parametrize(
    "variant",
    [DOCUMENTED, replace(DOCUMENTED, clip=0.5), replace(DOCUMENTED, clip=0.5, amsgrad=True)],
    ids=["documented", "clip", "amsgrad"],
)
def test_a_gradient_with_a_norm_beyond_float32_has_no_effect(backend, variant):
    params = parameters()
    optimizer = NovoGrad(params, lr=0.1, variant=variant, **backend)
    train(optimizer, 1)
    before = copy.deepcopy([(p.detach(), optimizer.state[p]) for p in params])
    set_gradients(params, 1, scale=1e30)
    optimizer.step()
    for param, (weights, state) in zip(params, before, strict=True):
        moment = optimizer.state[param]["exp_avg"]
        torch.testing.assert_close(param.detach(), weights - moment)
        torch.testing.assert_close(moment, 0.95 * state["exp_avg"])
        assert torch.equal(optimizer.state[param]["exp_avg_sq"], state["exp_avg_sq"])


@every_backend
def test_the_norm_of_a_large_tensor_is_accurate(backend):
    w = torch.nn.Parameter(torch.zeros(3000, 1500))
    flat = torch.nn.Parameter(torch.zeros(2_000_000))
    optimizer = NovoGrad([w, flat], **backend)
    set_gradients([w, flat], 0)
    optimizer.step()
    for param in (w, flat):
        exact = param.grad.double().square().sum().item()
        assert optimizer.state[param]["exp_avg_sq"].item() == pytest.approx(exact, rel=5e-7)


@pytest.mark.parametrize("foreach", [False, True], ids=["single", "foreach"])
@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_a_step_never_reads_values(foreach, tensor):
    """Meta tensors have no values, so reading one (``.item()``, ``if``) raises an error."""
    for dtype, nesterov, skip in itertools.product(
        (torch.float32, torch.bfloat16, torch.complex64), (False, True), (False, True)
    ):
        params = [
            torch.nn.Parameter(torch.empty(shape, dtype=dtype, device="meta")) for shape in SHAPES
        ]
        optimizer = NovoGrad(
            params,
            lr=torch.tensor(0.1) if tensor else 0.1,
            weight_decay=0.1,
            nesterov=nesterov,
            skip_nonfinite=skip,
            foreach=foreach,
        )
        for _ in range(2):
            for param in params:
                param.grad = torch.empty_like(param)
            optimizer.step()


def test_parameters_may_be_on_several_devices():
    on_cpu = parameters([(3, 5)])
    twin = parameters([(3, 5)])
    elsewhere = [torch.nn.Parameter(torch.empty(3, 5, device="meta"))]
    both, alone = NovoGrad([*on_cpu, *elsewhere]), NovoGrad(twin)
    for step in range(2):
        set_gradients(on_cpu, step)
        set_gradients(twin, step)
        elsewhere[0].grad = torch.empty_like(elsewhere[0])
        both.step()
        alone.step()
    torch.testing.assert_close(on_cpu, twin, rtol=0, atol=0)
    assert both.state[elsewhere[0]]["exp_avg_sq"].device.type == "meta"


def test_one_parameter_at_a_time_can_be_updated_in_backward():
    """The optimizer-in-backward recipe frees each gradient after the update of its parameter."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    twin = copy.deepcopy(model)
    usual = NovoGrad(twin.parameters(), lr=0.05, weight_decay=0.01)
    optimizers = {p: NovoGrad([p], lr=0.05, weight_decay=0.01) for p in model.parameters()}

    def update(param):
        optimizers[param].step()
        optimizers[param].zero_grad()

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(update)
    for _ in range(5):
        x = torch.randn(8, 5)
        model(x).square().mean().backward()
        usual.zero_grad()
        twin(x).square().mean().backward()
        usual.step()
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(list(model.parameters()), list(twin.parameters()), rtol=0, atol=0)


def test_the_backend_depends_on_options_and_tensors(monkeypatch):
    class Wrapped(torch.Tensor):
        pass

    used = []

    def watch(module, function):
        real = getattr(module, function)

        def watched(params, *rest):
            used.append((module, len(params)))
            return real(params, *rest)

        monkeypatch.setattr(module, function, watched)

    watch(native, "PreparedByKernels")
    watch(foreach, "step")
    watch(eager, "step")
    strided = torch.nn.Parameter(torch.randn(3, 4).T[::2])
    strided.grad = torch.randn(2, 3)
    subclass = torch.randn(3).as_subclass(Wrapped).requires_grad_()
    subclass.grad = torch.randn(3)
    plain = parameters()
    set_gradients(plain, 0)
    n = len(plain)
    for options, wanted in (
        ({}, [(native, n), (foreach, 1), (eager, 1)]),
        ({"fused": False}, [(foreach, n + 1), (eager, 1)]),
        ({"foreach": True}, [(foreach, n + 2)]),
        ({"foreach": False}, [(eager, n + 2)]),
    ):
        used.clear()
        NovoGrad([*plain, strided, subclass], **options).step()
        assert used == wanted
    used.clear()
    NovoGrad(plain, fused=True).step()
    assert used == [(native, n)]


@every_backend
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_learning_rate_in_a_tensor_keeps_the_digits_of_float64(backend, variant):
    """The other numbers become tensors too, which must not have torch's default dtype."""
    ends = []
    for lr in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        params = parameters(dtype=torch.float64)
        options = {"weight_decay": 0.1, "variant": variant, **backend}
        train(NovoGrad(params, lr=lr, **options), 4)
        ends.append(params)
    torch.testing.assert_close(*ends, rtol=1e-13, atol=1e-15)
