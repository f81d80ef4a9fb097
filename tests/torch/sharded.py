"""Training of models that are sharded in several real processes, or not at all."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tests.torch.ranks import full


def shard(model, shape, placements=None):
    """Shards a model by the given placements, or by FSDP; with an empty shape, not at all."""
    if placements:
        mesh = init_device_mesh("cpu", shape)
        for name, w in list(model.named_parameters()):
            new = nn.Parameter(distribute_tensor(w.detach(), mesh, placements.get(name)))
            setattr(model, name, new)
    elif shape:
        fully_shard(model, mesh=init_device_mesh("cpu", shape))


def set_gradients(model, step):
    """Gives each parameter a gradient whose squared norms are exact in any order of addition."""
    generator = torch.Generator().manual_seed(step)
    for w in model.parameters():
        grad = torch.randint(-8, 9, w.shape, generator=generator).to(w.dtype)
        if isinstance(w, DTensor):
            grad = distribute_tensor(grad, w.device_mesh, w.placements)
        w.grad = grad


def train(model, optimizer, steps):
    """Takes steps with such gradients."""
    for step in steps:
        set_gradients(model, step)
        optimizer.step()


def everything(model, optimizer):
    """Returns the full tensors of the weights and the state."""
    return {
        (name, key): full(x)
        for name, w in model.named_parameters()
        for key, x in [("weights", w), *optimizer.state[w].items()]
    }


def assert_same(actual, expected):
    """Compares bits."""
    assert actual.keys() == expected.keys()
    for key, x in expected.items():
        assert torch.equal(actual[key], x), key
