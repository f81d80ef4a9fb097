"""``rows_of``: each output unit is a layer, also in transposed convolutions."""

import copy
import pickle

import pytest
import torch
from torch import nn

from novograd.torch import NovoGrad, no_decay, rows_of


class UNet(nn.Module):
    """The kinds of modules of a U-Net, and a transposed convolution of each number of groups."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.down = nn.Conv3d(4, 6, 2)
        self.up = nn.Sequential(nn.ConvTranspose3d(6, 3, 2), nn.PReLU())
        self.deep = nn.ConvTranspose1d(4, 8, 5, groups=4)
        self.grouped = nn.ConvTranspose2d(6, 8, 3, groups=2)


EXPECTED = {
    "embed.weight": (7, 1),
    "down.weight": (6, 1, 1, 1, 1),
    "down.bias": (6,),
    "up.0.weight": (1, 3, 1, 1, 1),
    "up.0.bias": (3,),
    "up.1.weight": (1,),
    "deep.weight": (4, 2, 1),
    "deep.bias": (8,),
    "grouped.weight": (1, 4, 1, 1),
    "grouped.bias": (8,),
}


def step(optimizer, model):
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()


def shapes(optimizer, model):
    state = optimizer.state
    return {name: tuple(state[w]["exp_avg_sq"].shape) for name, w in model.named_parameters()}


@pytest.mark.parametrize("named", [nn.Module.named_parameters, lambda model: no_decay(model, 0.1)])
def test_each_output_unit_is_a_layer(named):
    model = UNet()
    optimizer = NovoGrad(named(model), lr=0.1, variant="rows", layers=rows_of(model))
    step(optimizer, model)
    assert shapes(optimizer, model) == EXPECTED


def test_a_transposed_convolution_takes_the_step_of_its_transposed_weight():
    """The layout of a weight must not change its step."""
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(6, 3, 2, bias=False)
    twin = nn.Conv2d(6, 3, 2, bias=False)
    twin.weight.data = up.weight.detach().transpose(0, 1).contiguous()
    ours = NovoGrad(up.named_parameters(), lr=0.1, variant="rows", layers=rows_of(up))
    theirs = NovoGrad(twin.parameters(), lr=0.1, variant="rows")
    for _ in range(3):
        up.weight.grad = torch.randn_like(up.weight)
        twin.weight.grad = up.weight.grad.transpose(0, 1).contiguous()
        ours.step()
        theirs.step()
    torch.testing.assert_close(up.weight.detach(), twin.weight.detach().transpose(0, 1))


def test_a_lazy_convolution_has_its_groups():
    model = nn.Sequential(nn.LazyConvTranspose1d(8, 3, groups=4))
    optimizer = NovoGrad(model.named_parameters(), lr=0.1, variant="rows", layers=rows_of(model))
    model(torch.ones(2, 4, 5))
    step(optimizer, model)
    assert shapes(optimizer, model) == {"0.weight": (4, 2, 1), "0.bias": (8,)}


def test_shared_modules_have_their_layers_by_any_name():
    model = nn.ModuleDict({"a": nn.ConvTranspose1d(4, 3, 2)})
    model["b"] = model["a"]
    layers = rows_of(model)
    assert layers("a.weight", model["a"].weight) == layers("b.weight", model["a"].weight)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_an_optimizer_with_these_layers_can_be_copied(copied):
    model = UNet()
    optimizer = NovoGrad(model.named_parameters(), lr=0.1, variant="rows", layers=rows_of(model))
    model, optimizer = copied((model, optimizer))
    step(optimizer, model)
    assert shapes(optimizer, model) == EXPECTED


def test_parameters_without_a_known_name_are_refused():
    model = UNet()
    with pytest.raises(TypeError, match=r"rows_of needs the names.*model\.named_parameters\(\)"):
        NovoGrad(model.parameters(), lr=0.1, layers=rows_of(model))
    with pytest.raises(ValueError, match=r"the model that rows_of got has no parameter 'embed."):
        NovoGrad(model.named_parameters(), lr=0.1, layers=rows_of(model.up))


def test_the_scale_is_checked():
    assert rows_of(UNet(), scale="norm")("up.0.weight", torch.ones(6, 3, 2, 2, 2)).scale == "norm"
    with pytest.raises(ValueError, match="scale must be 'norm' or 'rms', got 'l2'"):
        rows_of(UNet(), scale="l2")
