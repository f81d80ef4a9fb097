"""Sharded training continues on other meshes from torch.distributed.checkpoint."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from novograd.layers import Rows, Split, Stacked
from novograd.torch import NovoGrad
from tests.helpers.parameters import some
from tests.torch.ranks import full, run

HALF, WHOLE = 5, 10
LAYERS = {
    "0.weight": Rows(scale="rms"),
    "0.bias": Rows(),
    "1.weight": Split((3, 2)),
    "experts": Stacked(),
}


class Model(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(6, 9), nn.Linear(9, 5), nn.Linear(5, 3))
        self.experts = nn.Parameter(torch.randn(4, 3, 3))

    def forward(self, x):
        return torch.einsum("bi,eij->bej", super().forward(x).tanh(), self.experts)


def layers_of(name, parameter):
    return LAYERS.get(name)


def made(shape):
    """Returns a model and its optimizer, sharded on a mesh of the given shape, or not sharded."""
    model = Model()
    if shape:
        names = ("replicate", "shard")[-len(shape) :]
        fully_shard(model, mesh=init_device_mesh("cpu", shape, mesh_dim_names=names))
    options = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.9, 0.9)}
    return model, NovoGrad(model.named_parameters(), layers=layers_of, **options)


def train(model, optimizer, steps):
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()


def everything(model, optimizer):
    return {
        name: (full(w), *(full(optimizer.state[w][k]) for k in ("exp_avg", "exp_avg_sq")))
        for name, w in model.named_parameters()
    }


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
    spread = isinstance(optimizer.state[model.experts]["exp_avg_sq"], DTensor)
    train(model, optimizer, range(HALF, WHOLE))
    return everything(model, optimizer), spread


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Saves a checkpoint with four processes."""
    folder = tmp_path_factory.mktemp("processes")
    run(4, save, folder, (4,), str(folder / "checkpoint"))
    return str(folder / "checkpoint")


@pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:.*:UserWarning")
@pytest.mark.parametrize("shape", some([(4,), (2,), (1,), (), (2, 2)], kept=[(2,), (2, 2)]))
def test_a_checkpoint_of_four_processes_continues_on_other_meshes(tmp_path, checkpoint, shape):
    model, optimizer = made(())
    train(model, optimizer, range(WHOLE))
    expected, before = everything(model, optimizer), dict(Model().named_parameters())
    for actual, spread in run(torch.Size(shape).numel(), resume, tmp_path, shape, checkpoint):
        assert spread == bool(shape)
        for name, (w, m, v) in expected.items():
            movement = (w - before[name]).abs().max()
            torch.testing.assert_close(actual[name][2], v, rtol=1e-5, atol=0)
            for x, y in zip(actual[name], (w, m), strict=False):
                assert (x - y).abs().max() <= 1e-6 * movement, name


def full_state(folder):
    model, optimizer = made((2,))
    train(model, optimizer, range(HALF))
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, state = get_state_dict(model, optimizer, options=options)
    if dist.get_rank() == 0:
        torch.save((weights, state), f"{folder}/full.pt")
    dist.barrier()
    model, optimizer = made((2,))
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    given = torch.load(f"{folder}/full.pt", weights_only=True) if dist.get_rank() == 0 else ({}, {})
    set_model_state_dict(model, given[0], options=options)
    set_optimizer_state_dict(model, optimizer, given[1], options=options)
    train(model, optimizer, range(HALF, WHOLE))
    return everything(model, optimizer)


@pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:.*:UserWarning")
def test_a_full_state_dict_can_be_distributed(tmp_path):
    model, optimizer = made(())
    train(model, optimizer, range(WHOLE))
    for actual in run(2, full_state, tmp_path, str(tmp_path)):
        for name, expected in everything(model, optimizer).items():
            for x, y in zip(actual[name], expected, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
