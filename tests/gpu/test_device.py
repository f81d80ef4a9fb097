"""Tests that need a real device: graphs, streams, memory, sizes beyond 32 bits, several devices."""

import copy
import io

import pytest
import torch

from novograd.layers import Rows
from novograd.torch import NovoGrad
from novograd.torch.backends import triton
from tests.helpers.torch import parameters, set_gradients, states_of, train

DEVICE = "cuda"
SHAPES = ((20000,), (7,), (30, 50), (48, 128), (20, 300))
pytestmark = pytest.mark.skipif(triton.INTERPRETED, reason="needs a CUDA device")


def rows(_, w):
    return Rows() if w.ndim == 2 else None


CASES = {
    "documented": (torch.float32, {"variant": "documented", "skip_nonfinite": True}),
    "nvidia-decoupled": (torch.float32, {"variant": "nvidia-decoupled"}),
    "apex": (torch.float32, {"variant": "apex"}),
    "nesterov": (torch.float32, {"nesterov": True}),
    "rows": (torch.float32, {"layers": rows}),
    "rows, apex": (torch.float32, {"layers": rows, "variant": "apex"}),
    "rows, bfloat16": (torch.bfloat16, {"layers": rows}),
    "stochastic rounding": (torch.bfloat16, {"stochastic_rounding": True}),
    "int8": (torch.float32, {"moment_dtype": torch.int8}),
    "rows, int8": (torch.float32, {"layers": rows, "moment_dtype": torch.int8}),
    "rows, int8, stochastic rounding": (
        torch.bfloat16,
        {"variant": "rows", "moment_dtype": torch.int8, "stochastic_rounding": True},
    ),
}
in_all_cases = pytest.mark.parametrize(("dtype", "options"), CASES.values(), ids=CASES)


def fill_gradients(params, step):
    """Writes the gradients of ``set_gradients`` into the memory of the existing gradients."""
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad.copy_(torch.randn(param.shape, generator=generator, dtype=torch.float64))


# -- CUDA graphs ---------------------------------------------------------------------------------


@in_all_cases
def test_replays_of_a_graph_equal_the_steps_of_an_eager_optimizer(dtype, options):
    ends = []
    for captured in (False, True):
        params = parameters(SHAPES, dtype, device=DEVICE)
        lr = torch.tensor(0.1, device=DEVICE)
        optimizer = NovoGrad(params, lr=lr, weight_decay=0.1, fused=True, **options)
        set_gradients(params, 0)
        optimizer.step()  # compiles kernels and makes the state, for the graph
        step = optimizer.step
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            step = graph.replay
            # An eager step sends other data to the device, which must not change the graph.
            other = parameters(SHAPES, dtype, device=DEVICE)
            train(NovoGrad(other, fused=True, **options), 1)
        for number in range(1, 21):
            lr.fill_(0.1 * 0.9**number)
            fill_gradients(params, number)
            step()
        state = [x for state in states_of(optimizer) for x in state.values()]
        ends.append([x.detach().clone() for x in (*params, *state)])
    for eager, replayed in zip(*ends, strict=True):
        assert torch.equal(eager, replayed)


def test_a_graph_of_a_first_step_repeats_the_first_step():
    """The graph also captures that the state is set to zero. So take a step before the capture."""
    train(NovoGrad(parameters(SHAPES, device=DEVICE), lr=0.1, fused=True), 1)  # compiles
    params, twins = (parameters(SHAPES, device=DEVICE) for _ in range(2))
    set_gradients(params, 0)
    optimizer = NovoGrad(params, lr=0.1, fused=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for number in range(3):
        fill_gradients(params, number)
        graph.replay()
        train(NovoGrad(twins, lr=0.1, fused=True), 1, start=number)
    assert all(map(torch.equal, params, twins))


def test_an_eager_step_may_follow_a_capture_that_never_ran():
    """The optimizer has a state but no plan, so the capture divides the work."""
    params, twins = (parameters(SHAPES, device=DEVICE) for _ in range(2))
    twin = NovoGrad(twins, lr=0.1, fused=True)
    train(twin, 1)
    optimizer = NovoGrad(params, lr=0.1, fused=True)
    optimizer.load_state_dict(copy.deepcopy(twin.state_dict()))  # else they share the state
    with torch.no_grad():
        for w, x in zip(params, twins, strict=True):
            w.copy_(x)
    set_gradients(params, 1)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()
    optimizer.step()
    train(twin, 1, start=1)
    assert all(map(torch.equal, params, twins))


# -- streams and synchronisation -----------------------------------------------------------------


@pytest.mark.parametrize("in_tensor", [False, True], ids=["float lr", "tensor lr"])
@in_all_cases
def test_a_step_does_not_synchronise(dtype, options, in_tensor):
    lr = torch.tensor(0.1, device=DEVICE) if in_tensor else 0.1
    options = {"lr": lr, "weight_decay": 0.1, "fused": True, **options}
    train(NovoGrad(parameters(SHAPES, dtype, device=DEVICE), **options), 1)  # compiles
    params = parameters(SHAPES, dtype, device=DEVICE)
    optimizer = NovoGrad(params, **options)
    set_gradients(params, 0)
    found_inf = torch.zeros((), device=DEVICE)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()  # makes the state
        for _ in range(2):
            optimizer.param_groups[0]["lr"] *= 0.5
            optimizer.step()
        params[1].grad = None
        optimizer.step()
        optimizer.found_inf = found_inf
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("variant", ["documented", "apex"])
def test_a_step_runs_on_the_current_stream(variant):
    """On another stream, the kernels would read the gradients too early."""
    params, twins = (parameters(SHAPES, device=DEVICE) for _ in range(2))
    optimizer, twin = (NovoGrad(x, lr=0.1, variant=variant, fused=True) for x in (params, twins))
    train(optimizer, 1)
    train(twin, 1)
    stream = torch.cuda.Stream()
    new = [[torch.randn_like(param) for param in params] for _ in range(3)]
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for gradients in new:
            torch.cuda._sleep(20_000_000)  # about 10 ms
            for param, gradient in zip(params, gradients, strict=True):
                param.grad.copy_(gradient)
            optimizer.step()
    torch.cuda.synchronize()
    for gradients in new:
        for param, gradient in zip(twins, gradients, strict=True):
            param.grad.copy_(gradient)
        twin.step()
    assert all(map(torch.equal, params, twins))


# -- the default device --------------------------------------------------------------------------


@in_all_cases
def test_the_gpu_may_be_the_default_device(dtype, options):
    params, twins = (parameters(SHAPES, dtype, device=DEVICE) for _ in range(2))
    optimizer, twin = (NovoGrad(x, lr=0.1, fused=True, **options) for x in (params, twins))
    for step in range(2):
        set_gradients(params, step)
        with torch.device(DEVICE):
            optimizer.step()
    train(twin, 2)
    assert all(map(torch.equal, params, twins))


# -- memory --------------------------------------------------------------------------------------


def test_a_step_needs_little_temporary_memory():
    """Partial sums and coefficients need at most a thousandth of the memory of the weights."""
    param = torch.nn.Parameter(torch.randn(10_000_000, device=DEVICE))
    param.grad = torch.randn_like(param)
    optimizer = NovoGrad([param], fused=True)
    optimizer.step()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    optimizer.step()
    assert torch.cuda.max_memory_allocated() - before < 40_000


def test_a_step_with_int8_needs_little_temporary_memory():
    param = torch.nn.Parameter(torch.randn(10_000, 1000, device=DEVICE))
    param.grad = torch.randn_like(param)
    for layers in (None, Rows()):
        optimizer = NovoGrad([param], layers=layers, fused=True, moment_dtype=torch.int8)
        optimizer.step()
        assert sum(x.nbytes for x in states_of(optimizer)[0].values()) < 1.04 * param.numel()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        optimizer.step()
        assert torch.cuda.max_memory_allocated() - before < 400_000


def test_a_tensor_may_have_more_than_2_to_the_31_elements():
    size = 2**31 + 9001
    param = torch.nn.Parameter(torch.ones(size, dtype=torch.bfloat16, device=DEVICE))
    param.grad = torch.zeros_like(param)
    param.grad[-5:] = 1.0
    NovoGrad([param], lr=0.5 * 5**0.5, fused=True).step()
    assert param.detach()[-6:].tolist() == [1.0] + 5 * [0.5]
    assert torch.equal(param.detach()[:-5].min(), torch.tensor(1.0, device=DEVICE).bfloat16())


# -- several devices -----------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, None])
@pytest.mark.parametrize("stochastic_rounding", [False, True])
@pytest.mark.parametrize("variant", ["documented", "apex"])
def test_a_state_dict_may_come_from_the_cpu(variant, stochastic_rounding, fused):
    options = {"variant": variant, "lr": 0.1, "layers": rows, "fused": fused}
    options["stochastic_rounding"] = stochastic_rounding
    params = parameters(SHAPES, torch.bfloat16, device=DEVICE)
    optimizer = NovoGrad(params, **options)
    train(optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    stored = torch.load(file, map_location="cpu", weights_only=True)
    assert not any(x.is_cuda for state in stored["state"].values() for x in state.values())
    twins = [torch.nn.Parameter(param.detach().clone()) for param in params]
    twin = NovoGrad(twins, **options)
    twin.load_state_dict(stored)
    for state, before in zip(states_of(twin), states_of(optimizer), strict=True):
        assert state["exp_avg"].dtype == torch.bfloat16
        assert state["exp_avg_sq"].dtype == torch.float32
        for name, x in before.items():
            torch.testing.assert_close(state[name], x, rtol=0, atol=0)  # also compares devices
    train(optimizer, 2, start=3)
    train(twin, 2, start=3)
    assert all(map(torch.equal, params, twins))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_parameters_may_be_on_two_devices():
    ends = []
    for devices in (("cuda:0", "cuda:0"), ("cuda:0", "cuda:1")):
        params = [torch.nn.Parameter(torch.arange(5.0, device=device)) for device in devices]
        optimizer = NovoGrad(params, lr=torch.tensor(0.1, device="cuda:0"), fused=True)
        for _ in range(3):
            for param in params:
                param.grad = torch.ones_like(param)
            optimizer.step()
        ends.append([param.detach().cpu() for param in params])
    assert all(map(torch.equal, *ends))
