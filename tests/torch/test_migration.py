"""On the pages for those who change: the code before and after trains to the same weights."""

import importlib
import sys
from types import ModuleType

import pytest
import torch

from tests.helpers.examples import before_and_after
from tests.torch.test_peers import nemo, timm

# These packages need others that are not installed here; the classes are the published ones.
STAND_INS = {
    "nemo.core.optim.novograd": ("Novograd", nemo),
    "timm.optim.nvnovograd": ("NvNovoGrad", timm),
}


@pytest.mark.parametrize("page", ["monai.md", "nemo.md", "timm.md"])
def test_the_weights_stay_the_same(page, monkeypatch):
    for path, (name, load) in STAND_INS.items():
        for end in [i for i, letter in enumerate(path) if letter == "."]:
            monkeypatch.setitem(sys.modules, path[:end], ModuleType(path[:end]))
        module = ModuleType(path)
        setattr(module, name, load())
        monkeypatch.setitem(sys.modules, path, module)
        assert importlib.import_module(path) is module
    before, after = before_and_after(page)
    torch.manual_seed(0)
    initial = torch.nn.Linear(3, 2).weight
    old, new = before["model"].weight, after["model"].weight
    assert type(before["optimizer"]) is not type(after["optimizer"])
    moved = (new - initial).abs().max().item()
    torch.testing.assert_close(new, old, rtol=0, atol=1e-5 * moved)
    assert moved > 1e-3
