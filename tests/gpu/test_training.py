"""Training of models: with autocast and a GradScaler, and sharded over a mesh of devices."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from novograd.layers import Rows, Split
from novograd.torch import NovoGrad
from novograd.torch.backends import triton

DEVICE = "cpu" if triton.INTERPRETED else "cuda"
OPTIONS = {"lr": 0.02, "weight_decay": 0.05}


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 33), nn.Tanh(), nn.Linear(33, 7)).to(DEVICE)


def loss_of(model, step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 6, generator=generator).to(DEVICE)
    return model(x).float().square().mean()


def rows(_, w):
    return Rows() if w.ndim == 2 else None


def assert_close(actual, expected):
    """Compares weights; allows only rounding differences of sums in another order."""
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-6, atol=1e-6)


# -- mixed precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [None, rows])
@pytest.mark.parametrize("variant", ["documented", "apex"])
def test_training_with_autocast_equals_foreach(variant, layers):
    """The first scale is too large: float16 gradients become infinite, and steps are skipped."""
    options = OPTIONS | {"variant": variant, "layers": layers}
    model, twin = model_of(), model_of()
    optimizer = NovoGrad(model.parameters(), fused=True, **options)
    other = NovoGrad(twin.parameters(), foreach=True, **options)
    scaler, twin_scaler = (torch.amp.GradScaler(DEVICE, init_scale=2.0**26) for _ in range(2))
    steps, infinite = 12, 0
    for step in range(steps):
        with torch.autocast(DEVICE, torch.float16):
            loss = loss_of(model, step)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        twin_scaler.scale(loss.detach())
        for w, x in zip(model.parameters(), twin.parameters(), strict=True):
            x.grad = w.grad.clone()
        infinite += any(not w.grad.isfinite().all() for w in model.parameters())
        for each, takes in ((scaler, optimizer), (twin_scaler, other)):
            each.step(takes)
            each.update()
    assert 0 < infinite < steps - 3
    assert scaler.get_scale() == twin_scaler.get_scale() == 2.0 ** (26 - infinite)
    for w, x, before in zip(
        model.parameters(), twin.parameters(), model_of().parameters(), strict=True
    ):
        assert_close(w, x)
        assert not torch.equal(w, before)


# -- sharded parameters --------------------------------------------------------------------------


def join(rank, world, folder):
    """Makes this process a member of the default process group."""
    device = None
    if DEVICE == "cuda":
        torch.cuda.set_device(rank)
        device = torch.device("cuda", rank)
    dist.init_process_group(
        "gloo" if DEVICE == "cpu" else "nccl",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world,
        device_id=device,
    )


@pytest.fixture
def world(tmp_path):
    """Makes this process the only member of a process group."""
    join(0, 1, tmp_path)
    yield 1
    dist.destroy_process_group()


def check_fully_shard(world, layers=None):
    """Checks three steps of a model that ``fully_shard`` has sharded; each process has all data."""
    model, twin = model_of(), model_of()
    fully_shard(model, mesh=init_device_mesh(DEVICE, (world,)))
    optimizer = NovoGrad(model.named_parameters(), layers=layers, fused=True, **OPTIONS)
    other = NovoGrad(twin.named_parameters(), layers=layers, fused=True, **OPTIONS)
    for step in range(3):
        for each, takes in ((model, optimizer), (twin, other)):
            takes.zero_grad()
            loss_of(each, step).backward()
            takes.step()
    for w, x in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(w.full_tensor(), x)


# Shapes and layers. With two processes, a shard of the third is empty.
SHARDED = [((5, 300), Rows()), ((9, 40), Split((4, 5))), ((1, 7), None), ((9001,), None)]


def check_dtensors(world):
    """Checks three steps of DTensors that are cut along the first axis."""
    mesh = init_device_mesh(DEVICE, (world,))
    generator = torch.Generator().manual_seed(0)

    def drawn():
        return [torch.randn(shape, generator=generator).to(DEVICE) for shape, _ in SHARDED]

    def spread(x):
        return distribute_tensor(x, mesh, [Shard(0)])

    twins = [nn.Parameter(x) for x in drawn()]
    params = [nn.Parameter(spread(x.detach().clone())) for x in twins]
    optimizers = []
    for each in (params, twins):
        chosen = dict(zip(each, (layers for _, layers in SHARDED), strict=True))
        optimizers.append(NovoGrad(each, layers=lambda _, w, x=chosen: x[w], fused=True, **OPTIONS))
    for _ in range(3):
        for param, x, gradient in zip(params, twins, drawn(), strict=True):
            param.grad, x.grad = spread(gradient), gradient
        for optimizer in optimizers:
            optimizer.step()
    for param, x in zip(params, twins, strict=True):
        assert_close(param.full_tensor(), x)


@pytest.mark.parametrize("layers", [None, rows])
def test_fully_sharded_training_on_a_mesh_of_one(world, layers):
    check_fully_shard(world, layers)


def test_dtensors_on_a_mesh_of_one(world):
    check_dtensors(world)


def _check(rank, world, folder):
    join(rank, world, folder)
    check_fully_shard(world)
    check_fully_shard(world, rows)
    check_dtensors(world)
    dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_sharded_training_on_two_devices(tmp_path):
    torch.multiprocessing.spawn(_check, (2, str(tmp_path)), nprocs=2)
