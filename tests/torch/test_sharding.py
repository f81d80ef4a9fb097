"""Sharded training in real processes: the result equals training in one process."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from novograd.layers import Rows
from novograd.torch import NovoGrad
from tests.helpers.torch import BACKENDS
from tests.torch.ranks import full, run

STEPS = 20
OPTIONS = {"lr": 0.02, "weight_decay": 0.05, "betas": (0.9, 0.95)}
# Allows rounding differences of sums in another order, relative to the movement of the weights.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def _one_thread():
    """Uses one thread, like the processes, so that gradients are equal bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Block(nn.Module):
    """Sizes that divide evenly, unevenly, and into empty parts."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 12)
        self.down = nn.Linear(12, 6, bias=False)
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(13, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def model_of(dtype=torch.float32):
    torch.manual_seed(0)
    return Model().to(dtype)


def backward(model, step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randint(0, 13, (16, 5), generator=generator)
    model(x).tanh().square().mean().backward()


def train(model, optimizer, steps=range(STEPS)):
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()


def train_and_count(model, optimizer):
    """Trains, and returns the number of collectives in the last step of the optimizer."""
    train(model, optimizer, range(STEPS - 1))
    optimizer.zero_grad()
    backward(model, STEPS - 1)
    with CommDebugMode() as communication:
        optimizer.step()
    return communication.get_total_counts()


def weights(model):
    return {name: full(w) for name, w in model.named_parameters()}


def alone(dtype=torch.float32, **options):
    """Returns the weights before and after training in this process."""
    model = model_of(dtype)
    before = {name: w.clone() for name, w in weights(model).items()}
    train(model, NovoGrad(model.named_parameters(), **OPTIONS | options))
    return before, weights(model)


def assert_same(actual, expected, before):
    """Compares weights, relative to their movement."""
    assert actual.keys() == expected.keys()
    for name, w in expected.items():
        movement = (w - before[name]).abs().max()
        assert movement > 0.01, name
        difference = (actual[name] - w).abs().max()
        assert difference <= TOLERANCE[w.dtype] * movement, (name, difference, movement)


# -- fully sharded data parallelism ---------------------------------------------------------------


def shard(model, mesh, **options):
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def fsdp(shape, dtype, options, layers=None):
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    model = shard(model_of(dtype), mesh)
    optimizer = NovoGrad(model.named_parameters(), layers=layers, **OPTIONS | options)
    collectives = train_and_count(model, optimizer)
    for w, state in optimizer.state.items():
        assert state["exp_avg"].placements == w.placements
        assert not isinstance(state["exp_avg_sq"], DTensor)
    empty = any(w.to_local().numel() == 0 for w in model.parameters())
    return weights(model), collectives, empty


def fsdp_by_every_backend(shape):
    return {
        name: fsdp(shape, torch.float32, {"fused": None} if name == "fused" else options)
        for name, options in BACKENDS.items()
    }


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2,), id="FSDP 2"),
        pytest.param((4,), id="FSDP 4", marks=pytest.mark.full),
        pytest.param((2, 2), id="HSDP 2x2"),
    ],
)
def test_fsdp(tmp_path, shape):
    before, expected = alone()
    ranks = run(torch.Size(shape).numel(), fsdp_by_every_backend, tmp_path, shape)
    for name in BACKENDS:
        results = [rank[name] for rank in ranks]
        for actual, collectives, _ in results:
            assert_same(actual, expected, before)
            assert collectives == 1
        assert any(empty for *_, empty in results)


def test_fsdp_of_every_backend_in_float64(tmp_path):
    before, expected = alone(torch.float64)
    for actual, *_ in run(2, fsdp, tmp_path, (2,), torch.float64, {}):
        assert_same(actual, expected, before)


VARIANTS = ("apex", "nvidia-amsgrad", "pytorch-optimizer-3")


def of_variants(shape):
    return [fsdp(shape, torch.float32, {"variant": variant})[:2] for variant in VARIANTS]


def test_fsdp_supports_variants(tmp_path):
    expected = [alone(variant=variant) for variant in VARIANTS]
    for results in run(2, of_variants, tmp_path, (2,)):
        for (actual, collectives), (before, after) in zip(results, expected, strict=True):
            assert_same(actual, after, before)
            assert collectives == 1


def largest_element():
    model = shard(model_of(), init_device_mesh("cpu", (2,)))
    optimizer = NovoGrad(model.named_parameters(), variant="apex-inf")
    backward(model, 0)
    with pytest.raises(
        RuntimeError, match=r"'embedding.weight'.* variant 'apex-inf' does not support DTensors"
    ):
        optimizer.step()


def test_variants_with_the_largest_element_are_refused(tmp_path):
    run(2, largest_element, tmp_path)


def offloaded():
    mesh = init_device_mesh("cpu", (2,))
    model = shard(model_of(), mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))
    train(model, NovoGrad(model.parameters(), **OPTIONS))
    return weights(model)


def test_fsdp_with_offloading(tmp_path):
    before, expected = alone()
    for actual in run(2, offloaded, tmp_path):
        assert_same(actual, expected, before)


def clipped(world):
    model = model_of()
    if world > 1:
        shard(model, init_device_mesh("cpu", (world,)))
    optimizer = NovoGrad(model.parameters(), **OPTIONS)
    for step in range(STEPS):
        optimizer.zero_grad()
        backward(model, step)
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    return weights(model)


def test_fsdp_after_clip_grad_norm(tmp_path):
    for actual in run(2, clipped, tmp_path, 2):
        assert_same(actual, clipped(1), weights(model_of()))


# -- tensor parallelism ---------------------------------------------------------------------------


def tensor_parallel(mesh):
    model = model_of()
    for block in model.blocks:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


def tp():
    model = tensor_parallel(init_device_mesh("cpu", (2,)))
    kinds = {isinstance(w, DTensor) for w in model.parameters()}
    collectives = train_and_count(model, NovoGrad(model.parameters(), **OPTIONS))
    return weights(model), kinds, collectives


def test_tensor_parallelism_with_plain_weights(tmp_path):
    before, expected = alone()
    for actual, kinds, collectives in run(2, tp, tmp_path):
        assert kinds == {True, False}
        assert_same(actual, expected, before)
        assert collectives == 1


def fsdp_and_tp():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    model = shard(tensor_parallel(mesh["tp"]), mesh["dp"])
    placements = {str(w.placements) for w in model.parameters()}
    optimizer = NovoGrad(model.parameters(), **OPTIONS)
    collectives = train_and_count(model, optimizer)
    return weights(model), placements, collectives


def test_fsdp_and_tensor_parallelism(tmp_path):
    before, expected = alone()
    for actual, placements, collectives in run(4, fsdp_and_tp, tmp_path):
        assert any("_StridedShard" in kind for kind in placements), placements
        assert_same(actual, expected, before)
        assert collectives == 2  # one for each dimension of the mesh


# -- copies of whole weights ----------------------------------------------------------------------


def ddp():
    model = nn.parallel.DistributedDataParallel(model_of())
    train(model, NovoGrad(model.parameters(), **OPTIONS))
    return weights(model.module)


def test_ddp_is_exact(tmp_path):
    _, expected = alone()
    for actual in run(2, ddp, tmp_path):
        for name, w in expected.items():
            torch.testing.assert_close(actual[name], w, rtol=0, atol=0)


def zero(folder):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = nn.parallel.DistributedDataParallel(model_of())
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=NovoGrad, layers=Rows(), **OPTIONS
    )
    train(model, optimizer, range(STEPS // 2))
    optimizer.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        torch.save(optimizer.state_dict(), f"{folder}/state")
    dist.barrier()
    again = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=NovoGrad, layers=Rows(), **OPTIONS
    )
    again.load_state_dict(torch.load(f"{folder}/state", weights_only=True))
    train(model, again, range(STEPS // 2, STEPS))
    return weights(model.module)


@pytest.mark.filterwarnings("ignore:.*TorchScript.*:DeprecationWarning")
def test_zero_redundancy_optimizer_is_exact_and_resumes(tmp_path):
    _, expected = alone(layers=Rows())
    for actual in run(2, zero, tmp_path, str(tmp_path)):
        for name, w in expected.items():
            torch.testing.assert_close(actual[name], w, rtol=0, atol=0)
