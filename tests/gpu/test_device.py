"""Tests that need a real device: graphs, memory, sizes beyond 32 bits, several devices."""

import pytest
import torch

from novograd.torch import NovoGrad
from novograd.torch.backends import triton

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(triton.INTERPRETED, reason="needs a CUDA device")


@pytest.mark.parametrize("variant", ["documented", "apex"])
def test_replays_of_a_graph_equal_the_steps_of_an_eager_optimizer(variant):
    ends = []
    for captured in (False, True):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(n, device=DEVICE)) for n in (20000, 7, 300)]
        lr = torch.tensor(0.1, device=DEVICE)
        optimizer = NovoGrad(params, lr=lr, variant=variant, weight_decay=0.1, fused=True)
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer.step()  # compiles kernels and makes the state, for the graph
        step = optimizer.step
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            step = graph.replay
            # An eager step sends other data to the device, which must not change the graph.
            other = [torch.nn.Parameter(torch.randn_like(param)) for param in params]
            for param in other:
                param.grad = torch.randn_like(param)
            NovoGrad(other, fused=True).step()
        for step_number in range(4):
            lr.fill_(0.1 * 0.5**step_number)
            for param in params:
                param.grad.mul_(-0.5)
            step()
        ends.append([param.detach().clone() for param in params])
    for eager, replayed in zip(*ends, strict=True):
        assert torch.equal(eager, replayed)


def test_a_step_does_not_synchronise():
    params = [torch.nn.Parameter(torch.randn(n, device=DEVICE)) for n in (20000, 7)]
    optimizer = NovoGrad(params, lr=torch.tensor(0.1, device=DEVICE), variant="apex", fused=True)
    for _ in range(2):
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer.step()
    optimizer.found_inf = torch.zeros((), device=DEVICE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


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


def test_a_tensor_may_have_more_than_2_to_the_31_elements():
    size = 2**31 + 9001
    param = torch.nn.Parameter(torch.ones(size, dtype=torch.bfloat16, device=DEVICE))
    param.grad = torch.zeros_like(param)
    param.grad[-5:] = 1.0
    NovoGrad([param], lr=0.5 * 5**0.5, fused=True).step()
    assert param.detach()[-6:].tolist() == [1.0] + 5 * [0.5]
    assert torch.equal(param.detach()[:-5].min(), torch.tensor(1.0, device=DEVICE).bfloat16())


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
