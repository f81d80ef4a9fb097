"""The helper that makes groups without weight decay for biases and norms."""

import pytest
import torch
from torch import nn

from novograd.torch import NovoGrad, no_decay


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)
        self.norms = nn.ModuleList(
            [
                nn.BatchNorm2d(2),
                nn.InstanceNorm2d(2, affine=True),
                nn.SyncBatchNorm(2),
                nn.GroupNorm(1, 2),
                nn.LayerNorm(2),
                nn.RMSNorm(2),
            ]
        )
        self.slope = nn.PReLU()
        self.attention = nn.MultiheadAttention(4, 2)
        self.rnn = nn.LSTM(2, 2)
        self.position = nn.Parameter(torch.zeros(3))


def names(group):
    return [name for name, _ in group["params"]]


def test_biases_norms_and_slopes_have_no_weight_decay():
    model = Block()
    decayed, spared = no_decay(model, 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert names(decayed) == [
        "position",
        "conv.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l0",
    ]
    everything = [name for name, _ in model.named_parameters()]
    assert sorted(names(decayed) + names(spared)) == sorted(everything)


def test_a_single_layer_has_groups_too():
    assert names(no_decay(nn.Linear(2, 2), 0.1)[1]) == ["bias"]
    assert names(no_decay(nn.LSTM(2, 2), 0.1)[1]) == ["bias_ih_l0", "bias_hh_l0"]
    assert names(no_decay(nn.LayerNorm(2), 0.1)[0]) == []


def test_types_and_names_can_be_given():
    decayed, spared = no_decay(Block(), 0.1, modules=(nn.Conv2d,), names=["pos*"])
    assert names(spared) == ["position", "conv.weight", "conv.bias"]
    assert "norms.0.weight" in names(decayed)


def test_shared_parameters_appear_once():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4))
    model[1].weight = model[0].weight
    assert names(no_decay(model, 0.1)[0]) == ["0.weight"]


def test_a_single_string_is_refused():
    with pytest.raises(TypeError, match="names must be a collection of patterns, got the string"):
        no_decay(nn.Linear(2, 2), 0.1, names="bias")


@pytest.mark.parametrize("optimizer", [NovoGrad, torch.optim.AdamW])
def test_torchs_optimizers_accept_the_groups(optimizer):
    made = optimizer(no_decay(Block(), 0.1), lr=0.1)
    assert [group["weight_decay"] for group in made.param_groups] == [0.1, 0.0]
    assert made.param_groups[0]["param_names"][0] == "position"
