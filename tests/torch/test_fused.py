"""The native kernels check their tensors and work with the other features of torch."""

import copy
import itertools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import novograd.native
from novograd.layers import Rows
from novograd.torch import NovoGrad
from novograd.torch.backends import native
from novograd.torch.norms import numbers_of
from novograd.torch.parts import Part
from tests.helpers.torch import parameters, set_gradients, states_of, train
from tests.torch.ranks import run


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.zeros(3, 4).T[::2], "it is not contiguous, or its memory layout differs"),
        (lambda: torch.zeros(1).expand(3), "it is not contiguous, or its memory layout differs"),
        (lambda: torch.zeros(3, dtype=torch.float8_e4m3fn), "no kernel for torch.float8_e4m3fn"),
        (lambda: torch.zeros(3, device="meta"), "on meta, and the kernels are for the CPU"),
    ],
)
def test_unsupported_gradients_are_refused_by_name_before_anything_changes(make, said):
    fine, other = parameters([(3, 5)])[0], torch.nn.Parameter(make())
    optimizer = NovoGrad([("fine", fine), ("other", other)], fused=True)
    fine.grad, other.grad = torch.ones_like(fine), torch.zeros_like(other)
    before = fine.detach().clone()
    with pytest.raises(
        RuntimeError, match=f"fused=True the gradient of parameter 'other': .*{said}"
    ):
        optimizer.step()
    assert torch.equal(fine.detach(), before)
    assert not optimizer.state


def test_foreach_updates_a_gradient_with_another_memory_layout():
    w, twin = parameters([(4, 3, 5, 5)])[0], parameters([(4, 3, 5, 5)])[0]
    gradient = torch.randn(4, 3, 5, 5)
    w.grad, twin.grad = gradient.to(memory_format=torch.channels_last), gradient
    NovoGrad([w]).step()
    NovoGrad([twin]).step()
    torch.testing.assert_close(w, twin)
    part = Part(w, w.grad, torch.zeros_like(w), torch.tensor(0.0))
    assert native.problem(part, NovoGrad([w]).param_groups[0])


def test_tensors_that_share_memory_are_refused_before_anything_changes():
    storage = torch.zeros(10)
    groups = [{"params": parameters([(3, 5)])}, {"params": [storage[:6], storage[4:]]}]
    optimizer = NovoGrad(groups)
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.ones_like(param)
    before = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    with pytest.raises(RuntimeError, match=r"share memory; shapes: \(6,\) and \(6,\)"):
        optimizer.step()
    after = [p for group in optimizer.param_groups for p in group["params"]]
    for one, other in zip(after, before, strict=True):
        assert torch.equal(one, other)


def test_parts_of_one_storage_may_be_trained_if_they_do_not_overlap():
    storage, twin = torch.zeros(10), torch.zeros(10)
    gradients = torch.randn(10)
    params = [storage[:6], storage[6:]]
    for param, gradient in zip(params, (gradients[:6], gradients[6:]), strict=True):
        param.grad = gradient
    NovoGrad(params, fused=True).step()
    apart = [twin[:6].clone(), twin[6:].clone()]
    for param, gradient in zip(apart, (gradients[:6], gradients[6:]), strict=True):
        param.grad = gradient.clone()
    NovoGrad(apart, fused=True).step()
    assert torch.equal(storage, torch.cat(apart))


@pytest.mark.parametrize("variant", ["rows", "nvidia-amsgrad", "apex"])
@pytest.mark.parametrize("moment", [None, torch.int8], ids=str)
@pytest.mark.parametrize(
    "shape", [(150, 1000), (40, 300), (3, 3, 20, 64), (2, 16, 40, 60)], ids=str
)
def test_layers_may_be_columns(shape, moment, variant):
    results = []
    for backend in ({"fused": True}, {"foreach": True}):
        params = parameters([shape], torch.float64)
        layers = Rows(axes=-1)
        optimizer = NovoGrad(
            params, lr=0.1, variant=variant, layers=layers, moment_dtype=moment, **backend
        )
        train(optimizer, 3)
        results.append((params, states_of(optimizer)))
    (params, state), (others, other) = results
    torch.testing.assert_close(params, others, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(state, other, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            close = {"rtol": 0, "atol": 0} if value.dtype == torch.int8 else {}
            torch.testing.assert_close(value, theirs[name], **close)


def test_complex_columns_need_another_backend():
    params = parameters([(40, 300)], torch.complex64)
    set_gradients(params, 0)
    said = "the elements of a layer are too far apart in memory"
    with pytest.raises(RuntimeError, match=said):
        NovoGrad(params, layers=Rows(axes=-1), fused=True).step()


def test_autograd_sees_that_the_weights_have_changed():
    (w,) = parameters([(3, 5)])
    loss = (w**2).sum()
    w.grad = torch.ones_like(w)
    NovoGrad([w], fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_results_do_not_depend_on_the_number_of_threads():
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            params = parameters([(700, 600), (129, 3), (50,)])
            train(NovoGrad(params, weight_decay=0.1, fused=True), 3)
            results.append(params)
    finally:
        torch.set_num_threads(before)
    for one, other in itertools.combinations(results, 2):
        assert all(map(torch.equal, one, other))


def test_all_threads_flush_subnormal_numbers_if_the_caller_does():
    def moments(threads):
        w = torch.nn.Parameter(torch.zeros(1_000_000))
        optimizer = NovoGrad([w], fused=True)
        torch.set_num_threads(threads)
        for scale in (1.0, 0.0):
            w.grad = torch.full_like(w, scale)
            optimizer.step()
            optimizer.state[w]["exp_avg"].fill_(1e-38)
        w.grad = torch.zeros_like(w)
        optimizer.step()
        return optimizer.state[w]["exp_avg"]

    before = torch.get_num_threads()
    try:
        kept = moments(3)
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot flush subnormal numbers")
        assert torch.equal(moments(1), torch.zeros(1_000_000))
        assert torch.equal(moments(3), torch.zeros(1_000_000))
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
    assert torch.all(kept > 0)


@pytest.mark.parametrize("backend", [{"fused": True}, {"foreach": True}])
def test_gradients_may_be_lazy_views(backend):
    values = torch.randn(6, dtype=torch.complex64)
    for lazy in (values.conj(), torch._neg_view(torch.randn(6))):
        assert lazy.is_conj() or lazy.is_neg()
        w, twin = (torch.nn.Parameter(torch.ones_like(lazy).clone()) for _ in range(2))
        w.grad, twin.grad = lazy, lazy.resolve_conj().resolve_neg()
        NovoGrad([w], **backend).step()
        NovoGrad([twin], foreach=False).step()
        torch.testing.assert_close(w, twin)


def test_the_operation_passes_torchs_checks():
    def arguments(dtype):
        params = [torch.randn(3, 5, dtype=dtype), torch.randn(7, dtype=dtype)]
        grads, exp_avgs = ([torch.randn_like(p) for p in params] for _ in range(2))
        exp_avg_sqs = [torch.zeros(3, 1), torch.tensor(2.0)]
        rule = numbers_of(NovoGrad(params, lr=0.1, weight_decay=0.1).param_groups[0])
        numbers = torch.tensor(novograd.native.arguments(rule), dtype=torch.float64)
        return params, grads, exp_avgs, exp_avg_sqs, [1.0, 0.5], numbers

    for dtype in (torch.float32, torch.bfloat16):
        torch.library.opcheck(torch.ops.novograd.step_.default, arguments(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_compiled_step_is_one_operation(dtype):
    torch.compiler.reset()
    params = parameters(dtype=dtype)
    twins = copy.deepcopy(params)
    options = {"lr": torch.tensor(0.1), "weight_decay": 0.1, "nesterov": True}
    graphs = []

    def backend(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    compiled = torch.compile(NovoGrad(params, **options).step, backend=backend)
    eager = NovoGrad(twins, **options)
    for step in range(3):
        set_gradients(params, step)
        set_gradients(twins, step)
        compiled()
        eager.step()
    assert all(map(torch.equal, params, twins))
    assert [sum("novograd" in name for name in graph) for graph in graphs] == [1]


def test_a_training_step_compiles_to_one_graph():
    torch.compiler.reset()
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer = NovoGrad(model.parameters(), lr=torch.tensor(0.01))
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def step():
        optimizer.step()

    for _ in range(3):
        step()
    assert counter.frame_count == 1


def test_without_the_extension_foreach_steps_after_a_warning(monkeypatch):
    monkeypatch.setattr(novograd.native, "kernels", None)
    monkeypatch.setattr(novograd.native, "PROBLEM", "the native kernels are not installed")
    monkeypatch.setattr(novograd.native, "_warn_once", lambda: said.append("slow"))
    said = []
    params, twins = parameters(), parameters()
    NovoGrad(twins, foreach=True)
    NovoGrad(twins, fused=False)
    NovoGrad([torch.zeros(3, device="meta")])
    assert not said
    train(NovoGrad(params), 3)
    assert said == ["slow"]
    train(NovoGrad(twins, foreach=True), 3)
    assert all(map(torch.equal, params, twins))
    with pytest.raises(RuntimeError, match="fused=True is not possible: the native kernels are"):
        NovoGrad(params, fused=True)


def network():
    torch.manual_seed(0)
    layers = torch.nn.Linear(40, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1)
    return torch.nn.Sequential(*layers), torch.randn(8, 40)


def in_parallel():
    model, data = network()
    rank = torch.distributed.get_rank()
    wrapped = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = NovoGrad(wrapped.parameters(), weight_decay=0.1, fused=True)
    for _ in range(20):
        optimizer.zero_grad()
        wrapped(data[4 * rank : 4 * rank + 4]).square().mean().backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def test_distributed_data_parallel_equals_one_process(tmp_path):
    """Gradients are views of buckets. Two processes get the same result as one."""
    model, data = network()
    optimizer = NovoGrad(model.parameters(), weight_decay=0.1, foreach=False)
    for _ in range(20):
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()
    for actual in run(2, in_parallel, tmp_path):
        torch.testing.assert_close(actual, [p.detach() for p in model.parameters()])
