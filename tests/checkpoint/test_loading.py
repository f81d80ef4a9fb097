"""The printed lines load the written file, and a full disk destroys nothing."""

from dataclasses import replace

import numpy as np
import pytest

from novograd.checkpoint import TARGETS, Group, how_to_load
from tests.checkpoint.samples import made
from tests.helpers import loading


def test_there_is_a_check_for_every_target():
    """The tests of each framework run its check."""
    assert {*loading.CHECKS} == {*TARGETS}


def test_the_printed_lines_load_the_file_and_a_full_disk_destroys_nothing(tmp_path, monkeypatch):
    loading.check_target("safetensors", tmp_path, monkeypatch)


def test_the_printed_lines_name_missing_arguments():
    checkpoint = made("optax")  # two groups, and rows as layers
    first, *rest = how_to_load(checkpoint, "state.pt", "torch").splitlines()
    assert first == (
        "optimizer = novograd.torch.NovoGrad(groups, lr=0.1, variant='optax')  "
        "# with the 2 groups and the layers of the source"
    )
    assert rest == [
        "optimizer.load_state_dict(torch.load('state.pt', weights_only=True)['optimizer'])",
        "model.load_state_dict(torch.load('state.pt', weights_only=True)['model'])",
    ]
    entries = {name: replace(x, v=np.float32(1)) for name, x in checkpoint.entries.items()}
    plain = replace(checkpoint, entries=entries)
    first, *_ = how_to_load(plain, "state", "jax").splitlines()
    assert first.endswith(
        "grad_averaging=True, variant='optax')  # with the options of all groups, which differ, "
        "of the source"
    )
    assert "weight_decay" not in first
    numbered = replace(
        plain,
        entries={"0": plain.entries["block0/kernel"]},
        groups=(Group(("0",)),),
    )
    assert "NovoGrad(model.parameters(), lr=lr, variant='optax')" in how_to_load(
        numbered, "state", "torch"
    )


def test_the_lines_for_jax_name_the_options_that_the_source_does_not_hold():
    known = made("optax", weights=False)
    assert "does not hold" not in how_to_load(known, "state", "jax")
    lines = how_to_load(replace(known, groups=(Group(known.names),)), "state", "jax")
    assert "b1, b2, eps, weight_decay, grad_averaging, nesterov, mask: give those" in lines


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"kind must be one of torch, .* got 'timm'"):
        how_to_load(made(), "state", "timm")
