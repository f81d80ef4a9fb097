"""Stochastic rounding of sharded weights in real processes: the bits of one process."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from novograd.layers import Rows
from novograd.torch import NovoGrad
from tests.helpers.parameters import some
from tests.torch.ranks import run
from tests.torch.sharded import assert_same, everything, shard, train

HALF, WHOLE = 3, 6
OPTIONS = {"lr": 0.02, "weight_decay": 0.1, "stochastic_rounding": True}
pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:.*:UserWarning")


class Model(nn.Module):
    """Parameters that divide evenly, unevenly, and into empty shards."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(33, 13).bfloat16())
        self.wide = nn.Parameter(torch.randn(12, 250).bfloat16())
        self.experts = nn.Parameter(torch.randn(8, 9, 14).bfloat16())
        self.bias = nn.Parameter(torch.randn(5).bfloat16())
        self.one = nn.Parameter(torch.randn(1).bfloat16())


def made(shape, placements=None, **options):
    """Returns a model and its optimizer: sharded by FSDP, by the given placements, or not."""
    model = Model()
    shard(model, shape, placements)
    # If a process has several layers, each along one axis, their sums of squares are exact.
    layers = {"matrix": Rows(scale="rms"), "wide": Rows(), "experts": Rows((0, 1))}
    optimizer = NovoGrad(
        model.named_parameters(), layers=lambda name, _: layers.get(name), **OPTIONS | options
    )
    return model, optimizer


def trained(shape, placements=None, options=None, seed=0):
    model, optimizer = made(shape, placements, **options or {})
    torch.manual_seed(seed + torch.distributed.get_rank() if shape else seed)
    train(model, optimizer, range(WHOLE))
    return everything(model, optimizer)


BACKENDS = [{"foreach": False}, {"foreach": True}, {}]


@pytest.mark.parametrize("options", some(BACKENDS, kept=[{}]))
@pytest.mark.parametrize("world", [2, 4])
def test_sharded_training_gives_the_same_bits(tmp_path, world, options):
    expected = trained((), options=options)
    for actual in run(world, trained, tmp_path, (world,), None, options):
        assert_same(actual, expected)


MESH = {
    "matrix": (Shard(0), Shard(0)),
    "wide": (Shard(1), Shard(1)),
    "experts": (Shard(0), Shard(2)),
    "bias": (Shard(0), Replicate()),
    "one": (Shard(0), Shard(0)),
}
ALONG_ROWS = {
    "matrix": (Shard(1),),
    "wide": (Shard(1),),
    "experts": (Shard(1),),
    "bias": (Replicate(),),
    "one": (Shard(0),),
}


@pytest.mark.parametrize(("shape", "placements"), [((2, 2), MESH), ((2,), ALONG_ROWS)])
@pytest.mark.parametrize("options", some(BACKENDS, kept=[{}]))
def test_other_shards_give_the_same_bits(tmp_path, shape, placements, options):
    expected = trained((), options=options)
    for actual in run(torch.Size(shape).numel(), trained, tmp_path, shape, placements, options):
        assert_same(actual, expected)


class Network(nn.Module):
    """Two layers whose weights are sharded along the first and the second axis."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)


def two_dimensions(shape):
    """Trains with tensor parallelism, and with ``fully_shard`` on top of it."""
    network = Network().bfloat16()
    if shape:
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "tensor"))
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(network, mesh["tensor"], plan)
        fully_shard(network, mesh=mesh["data"])
    optimizer = NovoGrad(network.named_parameters(), foreach=False, **OPTIONS)
    train(network, optimizer, range(WHOLE))
    return everything(network, optimizer)


@pytest.mark.parametrize("shape", some([(2, 2), (4, 1), (1, 4)], kept=[(2, 2)]))
def test_tensor_parallelism_with_fsdp_gives_the_same_bits(tmp_path, shape):
    """``fully_shard`` cuts the shards of the first axis again: ``_StridedShard``."""
    expected = two_dimensions(())
    for actual in run(4, two_dimensions, tmp_path, shape):
        assert_same(actual, expected)


def replicas():
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(40, 30).bfloat16())
    torch.manual_seed(torch.distributed.get_rank())
    optimizer = NovoGrad(model.parameters(), **OPTIONS)
    for step in range(WHOLE):
        x = torch.randn(8, 40, generator=torch.Generator().manual_seed(step)).bfloat16()
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [w.detach() for w in model.parameters()], torch.initial_seed()


def test_replicas_whose_processes_have_other_seeds_stay_equal(tmp_path):
    (one, seed), (other, other_seed) = run(2, replicas, tmp_path)
    assert seed != other_seed
    assert all(map(torch.equal, one, other))


def save(shape, folder):
    model, optimizer = made(shape)
    train(model, optimizer, range(HALF))
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"weights": weights, "optimizer": state}, checkpoint_id=folder)


def resume(shape, folder):
    model, optimizer = made(shape)
    with torch.no_grad():
        for w in model.parameters():
            w.zero_()
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"weights": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    train(model, optimizer, range(HALF, WHOLE))
    return everything(model, optimizer)


def test_a_checkpoint_continues_on_fewer_processes_with_the_same_bits(tmp_path):
    expected = trained(())
    folder = str(tmp_path / "checkpoint")
    run(4, save, tmp_path, (4,), folder)
    for world in (2, 1):
        for actual in run(world, resume, tmp_path, (world,), folder):
            assert_same(actual, expected)
