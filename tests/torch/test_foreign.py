"""Each argument of a published class for PyTorch is taken, or the error says what to use."""

import inspect

import pytest
import torch

from novograd.torch import NovoGrad
from tests.torch.test_peers import NAMES

TAKEN = {*inspect.signature(NovoGrad).parameters}


def test_the_signature_is_that_of_the_class():
    assert {"params", "lr", "betas", "variant", "layers"} <= TAKEN
    assert "kwargs" not in TAKEN


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_of_a_peer_is_taken_or_explained(name):
    parameters = inspect.signature(NAMES[name]().__init__).parameters
    others = {*parameters} - TAKEN - {"self", "kwargs"}
    assert others
    for argument in others:
        with pytest.raises(TypeError, match=f"^NovoGrad does not take {argument}: "):
            NovoGrad([torch.zeros(1)], variant=name, **{argument: True})


def test_an_argument_that_no_optimizer_has_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        NovoGrad([torch.zeros(1)], speed=3)  # type: ignore
