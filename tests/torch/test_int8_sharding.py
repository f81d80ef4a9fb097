"""Momentum buffers in 8 bits, sharded in real processes: the bits equal those of one process."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from novograd.layers import Rows
from novograd.torch import NovoGrad
from tests.torch.ranks import full, run
from tests.torch.sharded import assert_same, everything, shard, train

HALF, WHOLE = 3, 6
OPTIONS = {"lr": 0.02, "weight_decay": 0.1, "moment_dtype": torch.int8}
NAMES = ("exp_avg", "exp_avg_scale", "exp_avg_sq", "step")
pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:.*:UserWarning")


class Model(nn.Module):
    """Rows that divide evenly, unevenly, and into empty shards, and one with a short last axis."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(33, 131))
        self.wide = nn.Parameter(torch.randn(2, 2050))
        self.convolution = nn.Parameter(torch.randn(10, 50, 3, 3))
        self.experts = nn.Parameter(torch.randn(8, 9, 130))
        self.bias = nn.Parameter(torch.randn(5000))


def made(shape, placements=None, backend=None, **options):
    """Returns a model and its optimizer: sharded by FSDP, by the given placements, or not."""
    model = Model()
    shard(model, shape, placements)
    layers = {"matrix": Rows(scale="rms"), "experts": Rows((0, 1))}
    optimizer = NovoGrad(
        model.named_parameters(), layers=lambda name, _: layers.get(name), **OPTIONS | options
    )
    return model, optimizer


def trained(shape, placements=None, backend=None):
    model, optimizer = made(shape, placements, **backend or {})
    train(model, optimizer, range(WHOLE))
    spread = optimizer.state[model.matrix]["exp_avg_scale"]
    return everything(model, optimizer), isinstance(spread, DTensor)


@pytest.mark.parametrize("backend", [{"foreach": False}, {"foreach": True}, {}], ids=str)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_sharded_training_gives_the_same_bits(tmp_path, world, backend):
    expected, _ = trained((), backend=backend)
    for actual, spread in run(world, trained, tmp_path, (world,), None, backend):
        assert spread
        assert_same(actual, expected)


MESH = {
    "matrix": (Shard(0), Shard(0)),
    "wide": (Replicate(), Replicate()),
    "convolution": (Shard(0), Replicate()),
    "experts": (Shard(0), Shard(1)),
    "bias": (Shard(0), Replicate()),
}
ALONG_ROWS = {
    "matrix": (Replicate(),),
    "wide": (Shard(0),),
    "convolution": (Shard(0),),
    "experts": (Shard(1),),
    "bias": (Shard(0),),
}


@pytest.mark.parametrize(("shape", "placements"), [((2, 2), MESH), ((2,), ALONG_ROWS)])
def test_other_shards_give_the_same_bits(tmp_path, shape, placements):
    one = {"foreach": False}  # the kernels do not support all shards, and round in another order
    expected, _ = trained((), backend=one)
    for actual, _ in run(torch.Size(shape).numel(), trained, tmp_path, shape, placements, one):
        assert_same(actual, expected)


def blocks(size):
    """Shards the last axis over two processes."""
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    whole = torch.randn(20, size)
    w = nn.Parameter(distribute_tensor(whole, mesh, (Shard(1),)))
    w.grad = distribute_tensor(whole.sign(), mesh, (Shard(1),))
    try:
        optimizer = NovoGrad([("w", w)], **OPTIONS)
    except ValueError as error:
        return str(error)
    optimizer.step()
    state = optimizer.state[w]
    return {name: full(x) for name, x in [("w", w), *state.items()]}


def test_the_last_axis_can_be_sharded_between_blocks(tmp_path):
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(20, 512))
    w.grad = w.detach().sign()
    optimizer = NovoGrad([w], **OPTIONS)
    optimizer.step()
    for actual in run(2, blocks, tmp_path, 512):
        assert_same(actual, {"w": w.detach()} | optimizer.state[w])


@pytest.mark.parametrize("size", [500, 300])
def test_the_last_axis_cannot_be_sharded_inside_a_block(tmp_path, size):
    for message in run(2, blocks, tmp_path, size):
        assert message.startswith("parameter 'w': moment_dtype=torch.int8 has blocks of 128 elem")
        assert f"axis 1 of shape (20, {size}) is sharded over 2 processes inside a block" in message


def save(shape, folder):
    model, optimizer = made(shape)
    train(model, optimizer, range(HALF))
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"weights": weights, "optimizer": state}, checkpoint_id=folder)


def resume(shape, folder, options=None):
    model, optimizer = made(shape, **options or {})
    with torch.no_grad():
        for w in model.parameters():
            w.zero_()
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"weights": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    train(model, optimizer, range(HALF, WHOLE))
    return everything(model, optimizer)


def test_a_checkpoint_continues_on_fewer_processes_with_the_same_bits(tmp_path):
    expected, _ = trained(())
    folder = str(tmp_path / "checkpoint")
    run(4, save, tmp_path, (4,), folder)
    for world in (2, 1):
        for actual in run(world, resume, tmp_path, (world,), folder):
            assert_same(actual, expected)


def test_blocks_are_not_loaded_as_numbers(tmp_path):
    """Torch would copy the whole numbers of a block into a buffer of floating numbers."""
    folder = str(tmp_path / "checkpoint")
    run(1, save, tmp_path, (1,), folder)
    with pytest.raises(AssertionError, match=r"'exp_avg_scale'|must have dtype torch.int8"):
        run(1, resume, tmp_path, (1,), folder, {"moment_dtype": None})
