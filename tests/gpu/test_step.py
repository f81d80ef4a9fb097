"""Steps of the Triton kernels: tests in addition to the conformance table."""

import copy
import doctest
import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch

from novograd import variants
from novograd.conformance.torch import TritonAdapter
from novograd.layers import Rows, Split, Stacked
from novograd.rule import Numbers
from novograd.torch import NovoGrad
from novograd.torch.backends import eager, triton
from novograd.torch.norms import numbers_of
from novograd.torch.parts import Part
from tests.helpers import torch as helpers
from tests.helpers.torch import set_gradients, step_without_waiting, train

DEVICE = TritonAdapter.device
OPTIONS = {"lr": 0.1, "weight_decay": 0.05}
parameters = partial(helpers.parameters, device=DEVICE)


@pytest.mark.skipif(not triton.INTERPRETED, reason="the examples show results of the interpreter")
def test_examples_in_docstrings_run():
    done = doctest.testmod(triton)
    assert done.failed == 0 < done.attempted


def assert_close(actual, expected):
    """Compares parameters; allows only rounding differences of sums in another order."""
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x.cpu(), y.cpu(), rtol=1e-6, atol=1e-6)


# -- division of the work ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        ((8191,), None),
        ((8192,), None),
        ((16385,), None),
        ((3, 9001), Rows()),  # each row has two programs
        ((3, 8192), Rows()),
        ((50, 331), Rows()),  # each program has several rows; odd sizes
        ((20, 1024), Rows()),
        ((9000,), Rows()),  # each element is a layer
        ((70, 5), Rows()),
        ((700, 12), Rows()),  # a program has several tiles
        ((33, 48), Rows()),
        ((10, 256), Rows()),
        ((5, 3000), Rows()),  # the longest kind that fits in registers
        ((3, 4096), Rows()),
        ((3, 4097), Rows()),
        ((2, 3, 5000), Stacked(1)),  # each layer has two pieces
        ((3, 9100), Split((4000, 5100), axis=1)),
    ],
    ids=str,
)
def test_long_layers_and_many_layers(shape, layers):
    params, twins = parameters([shape, (5,)]), parameters([shape, (5,)])
    chosen = lambda _, w: layers if w.ndim == len(shape) and w.numel() > 5 else None  # noqa: E731
    train(NovoGrad(params, layers=chosen, **OPTIONS), 3)
    train(NovoGrad(twins, layers=chosen, foreach=True, **OPTIONS), 3)
    assert_close(params, twins)


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_memory_may_start_at_any_address(offset):
    """With the second offset, the views do not start at a multiple of 16 bytes."""
    storage, twin = torch.ones(2100, device=DEVICE), torch.ones(2100, device=DEVICE)
    params = [storage[offset : offset + 1024], storage[1100 + offset : 1100 + offset + 999]]
    train(NovoGrad(params, fused=True, **OPTIONS), 3)
    twins = [twin[offset : offset + 1024], twin[1100 + offset : 1100 + offset + 999]]
    train(NovoGrad(twins, foreach=True, **OPTIONS), 3)
    assert_close([storage], [twin])
    assert torch.equal(storage[-1], twin[-1])


def test_the_same_gradients_give_the_same_bits():
    results = []
    for _ in range(2):
        params = parameters([(20000,), (60, 200), (7,)])
        train(NovoGrad(params, layers=lambda _, w: Rows() if w.ndim == 2 else None), 3)
        results.append(params)
    assert all(map(torch.equal, *results))


def test_complex_parameters_step_like_foreach():
    (pairs,) = parameters([(9, 2)])
    w = torch.nn.Parameter(torch.view_as_complex(pairs.detach()))
    twin = torch.nn.Parameter(w.detach().clone())
    gradient = torch.randn(9, 2, device=DEVICE)
    for param, options in ((w, {"fused": True}), (twin, {"foreach": True})):
        param.grad = torch.view_as_complex(gradient).conj()
        NovoGrad([param], **OPTIONS | options).step()
    assert_close([w], [twin])


# The dtypes of weights, gradient and momentum buffer.
DTYPES = [
    kinds
    for kinds in itertools.product((torch.float32, torch.bfloat16, torch.float16), repeat=3)
    if kinds[0] == kinds[1] or kinds[0] == torch.float32
]


@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda kinds: "-".join(str(x)[6:] for x in kinds))
def test_all_dtypes_step_like_the_eager_backend(dtypes):
    generator = torch.Generator().manual_seed(0)
    w, g, m = (torch.randn(1030, generator=generator).to(DEVICE, x) for x in dtypes)
    options = NovoGrad([w], **OPTIONS).param_groups[0]
    part = Part(w, g, m, torch.tensor(2.0, device=DEVICE))
    twin = Part(w.clone(), g.clone(), m.clone(), part.exp_avg_sq.clone())
    triton.PreparedByTriton([part]).step(options)
    eager.step([twin], options)
    # Allows one rounding to the dtype of the tensor; in float32 the order of additions differs.
    for x, y in zip(part[:4], twin[:4], strict=True):
        torch.testing.assert_close(x, y, rtol=max(1e-6, torch.finfo(x.dtype).eps), atol=1e-6)
    assert torch.equal(part.grad, twin.grad)


# -- numbers on the device -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(variants.VARIANTS))
def test_the_numbers_of_a_variant_depend_linearly_on_the_learning_rate(name):
    """The kernels use the numbers at rate 0 and their increase for each unit of the rate."""
    for maximize, decay in itertools.product((False, True), (0.0, 0.3)):
        (group,) = NovoGrad(
            [torch.zeros(1)], lr=0.1, variant=name, maximize=maximize, weight_decay=decay
        ).param_groups
        at = {lr: torch.tensor(numbers_of(group | {"lr": lr}, 3.0)) for lr in (0.0, 0.7, 1.0)}
        torch.testing.assert_close(at[0.0] + 0.7 * (at[1.0] - at[0.0]), at[0.7])
        before = Numbers._fields.index("a")
        assert torch.equal(at[0.0][:before], at[1.0][:before])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", ["documented", "nvidia-decoupled", "apex"])
def test_the_learning_rate_may_be_in_a_tensor(variant, dtype):
    lr = torch.zeros((), dtype=dtype, device=DEVICE)
    params, twins = parameters([(300,), (4,)]), parameters([(300,), (4,)])
    optimizer = NovoGrad(params, lr=lr, variant=variant, weight_decay=0.1, fused=True)
    twin = NovoGrad(twins, lr=0.0, variant=variant, weight_decay=0.1, foreach=True)
    for step in range(4):
        lr.fill_(0.25 * 0.5**step)
        twin.param_groups[0]["lr"] = 0.25 * 0.5**step
        train(optimizer, 1, start=step)
        train(twin, 1, start=step)
    assert_close(params, twins)


def test_a_step_never_waits_for_the_device(monkeypatch):
    """No tensor is read back, even if the variant counts steps or a gradient is missing."""
    params = parameters([(300,), (4,)])
    lr = torch.tensor(0.1, device=DEVICE)
    for variant in ("documented", "apex"):
        optimizer = NovoGrad(params, lr=lr, variant=variant, skip_nonfinite=True, fused=True)
        set_gradients(params, 0)
        step_without_waiting(optimizer, monkeypatch)
        set_gradients(params, 1)
        params[1].grad = None
        step_without_waiting(optimizer, monkeypatch)


# -- loss scaling --------------------------------------------------------------------------------


def scaled_training(options, infinite=(), clip=False, variant="documented"):
    """Trains with a GradScaler; returns parameters, optimizer and scaler."""
    params = parameters([(300,), (4,)])
    optimizer = NovoGrad(params, variant=variant, **OPTIONS | options)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0)
    scaler.scale(torch.ones((), device=DEVICE))  # makes the scaler's tensors
    for step in range(5):
        set_gradients(params, step, scale=scaler.get_scale())
        if step in infinite:
            params[1].grad[2] = float("inf")
        if clip:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    return params, optimizer, scaler


@pytest.mark.parametrize("clip", [False, True], ids=["scaled", "unscaled before"])
@pytest.mark.parametrize("variant", ["documented", "apex"])
def test_loss_scaling_changes_no_result(variant, clip):
    infinite = {0, 3}
    params, optimizer, scaler = scaled_training({"fused": True}, infinite, clip, variant)
    assert optimizer._step_supports_amp_scaling
    assert not hasattr(optimizer, "found_inf")
    twins = parameters([(300,), (4,)])
    twin = NovoGrad(twins, variant=variant, foreach=True, **OPTIONS)
    for step in {*range(5)} - infinite:
        train(twin, 1, start=step)
    assert scaler.get_scale() == 256.0
    assert_close(params, twins)
    for w, x in zip(params, twins, strict=True):
        for name, value in twin.state[x].items():
            torch.testing.assert_close(optimizer.state[w][name], value)


def test_a_skipped_step_changes_nothing():
    params = parameters([(300,), (4,)])
    optimizer = NovoGrad(params, variant="apex", fused=True)
    train(optimizer, 3)
    before = copy.deepcopy([optimizer.state_dict()["state"], [w.detach() for w in params]])
    set_gradients(params, 3)
    gradients = [w.grad.clone() for w in params]
    optimizer.grad_scale = torch.tensor(2.0, device=DEVICE)
    optimizer.found_inf = torch.tensor(1.0, device=DEVICE)
    optimizer.step()
    after = [optimizer.state_dict()["state"], [w.detach() for w in params]]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    optimizer.found_inf.zero_()
    optimizer.step()
    assert not torch.equal(params[0], before[1][0])
    assert all(torch.equal(w.grad, x) for w, x in zip(params, gradients, strict=True))


@pytest.mark.parametrize("options", [{"variant": "nvidia-amsgrad"}, {"foreach": True}])
def test_the_scaler_unscales_if_another_backend_takes_part(options):
    params = parameters([(300,), (4,)])
    optimizer = NovoGrad(params, **OPTIONS | options)
    set_gradients(params, 0)
    assert not optimizer._step_supports_amp_scaling


@pytest.mark.filterwarnings("ignore:overflow encountered")  # by NumPy, in the interpreter
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_gradient_with_a_norm_beyond_float32_has_no_effect(clip):
    variant = replace(variants.DOCUMENTED, clip=clip)
    params = parameters([(30,)])
    optimizer = NovoGrad(params, lr=0.1, variant=variant, fused=True)
    train(optimizer, 1)
    before, state = params[0].detach().clone(), copy.deepcopy(optimizer.state[params[0]])
    set_gradients(params, 1, scale=1e30)
    optimizer.step()
    after = optimizer.state[params[0]]
    assert torch.equal(after["exp_avg_sq"], state["exp_avg_sq"])
    assert_close([after["exp_avg"]], [0.95 * state["exp_avg"]])
    assert_close([params[0].detach()], [before - after["exp_avg"]])


# -- inputs that the kernels do not support ------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda x: x.T[::2], {}, "it is not contiguous, or its memory layout differs"),
        (lambda x: x, {"variant": "apex-inf"}, "no kernel for variant 'apex-inf'"),
        (lambda x: x, {"variant": "nvidia-amsgrad"}, "no kernel for variant"),
    ],
)
def test_unsupported_gradients_are_refused_by_name(make, options, said):
    w = torch.nn.Parameter(make(torch.zeros(3, 4, device=DEVICE)))
    w.grad = torch.zeros_like(w)
    optimizer = NovoGrad([("other", w)], fused=True, **options)
    with pytest.raises(
        RuntimeError, match=f"fused=True the gradient of parameter 'other': .*{said}"
    ):
        optimizer.step()
    assert not optimizer.state
    NovoGrad([w], **options).step()  # foreach supports it


def test_fused_steps_are_not_compiled():
    torch.compiler.reset()
    params, twins = parameters([(30,)]), parameters([(30,)])
    optimizer = NovoGrad(params, fused=True)
    compiled = torch.compile(optimizer.step, backend="eager")
    set_gradients(params, 0)
    compiled()
    train(NovoGrad(twins, fused=True), 1)
    assert torch.equal(params[0], twins[0])
