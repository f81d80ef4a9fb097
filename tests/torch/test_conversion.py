"""``novograd.checkpoint`` reads and writes files of ``torch.save``."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from novograd import variants
from novograd.checkpoint import CheckpointError, read, write
from novograd.layers import Rows, Split, Stacked, Whole
from novograd.torch import NovoGrad
from tests.helpers import loading

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64)


def trained(params, steps=3, **options):
    optimizer = NovoGrad(params, **{"lr": 0.1, **options})
    named = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        torch.manual_seed(step)
        for param in named:
            param.grad = torch.randn_like(param)
        optimizer.step()
    return optimizer


def weights():
    return [torch.nn.Parameter(torch.ones(3, 2, dtype=dtype)) for dtype in DTYPES]


def assert_same(mine, theirs):
    assert mine["param_groups"] == theirs["param_groups"]
    torch.testing.assert_close(mine["state"], theirs["state"], rtol=0, atol=0)


@pytest.mark.parametrize("way", ["directly", "by the neutral file"])
@pytest.mark.parametrize("variant", ["documented", "nvidia-amsgrad", "pytorch-optimizer-3", "rows"])
def test_a_state_dict_survives_a_conversion_bit_for_bit(tmp_path, variant, way):
    decaying, others = weights(), weights()
    groups = [{"params": others, "lr": 0.2}, {"params": decaying, "weight_decay": 0.1}]
    state = trained(groups, variant=variant, layers=Rows()).state_dict()
    torch.save(state, tmp_path / "source")
    checkpoint = read(tmp_path / "source", "torch")
    assert checkpoint.step == (3 if checkpoint.variant.counts else None)
    if way != "directly":
        write(checkpoint, tmp_path / "neutral", "safetensors")
        checkpoint = read(tmp_path / "neutral", "safetensors")
    write(checkpoint, tmp_path / "target", "torch")
    assert_same(torch.load(tmp_path / "target", weights_only=True), state)


def test_names_and_weights_are_converted(tmp_path):
    model = torch.nn.Linear(3, 2)
    state = trained(model.named_parameters()).state_dict()
    torch.save({"epoch": 3, "optimizer": state, "model": model.state_dict()}, tmp_path / "source")
    checkpoint = read(tmp_path / "source", "torch", weights=True)
    assert list(checkpoint.entries) == ["weight", "bias"]
    write(checkpoint, tmp_path / "target", "torch")
    target = torch.load(tmp_path / "target", weights_only=True)
    assert_same(target["optimizer"], state)
    torch.testing.assert_close(target["model"], dict(model.state_dict()), rtol=0, atol=0)


def test_a_parameter_without_state_keeps_its_place(tmp_path):
    params = weights()[:3]
    optimizer = NovoGrad(params)
    params[0].grad, params[2].grad = torch.ones_like(params[0]), torch.ones_like(params[2])
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "source")
    write(read(tmp_path / "source", "torch"), tmp_path / "target", "torch")
    again = NovoGrad(params)
    again.load_state_dict(torch.load(tmp_path / "target", weights_only=True))
    assert_same(again.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("kind", [None, Whole(), Rows(0, "rms"), Stacked(1), Split((2,), axis=1)])
def test_a_custom_variant_is_converted(tmp_path, kind):
    mine = replace(variants.get("nvidia"), name="mine", decay="decoupled", layers=kind, clip=2.0)
    torch.save(trained(weights(), variant=mine).state_dict(), tmp_path / "source")
    checkpoint = read(tmp_path / "source", "torch")
    assert checkpoint.variant == mine
    write(checkpoint, tmp_path / "target", "torch")
    assert read(tmp_path / "target", "torch").variant == mine
    loaded = torch.load(tmp_path / "target", weights_only=True)
    assert loaded["param_groups"][0]["variant"] == mine


# -- apex, whose norms are in its groups ---------------------------------------------------------


def apex(dtypes, norms, **options):
    group = {
        "lr": 0.1,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "grad_averaging": True,
        "bias_correction": True,
        "norm_type": 2,
        "init_zero": False,
        "step": 7,
        "exp_avg_sq": [torch.tensor(x, dtype=torch.float32) for x in norms],
        "params": list(range(len(dtypes))),
    }
    state = {
        number: {"exp_avg": torch.full((2,), float(number), dtype=dtype)}
        for number, dtype in enumerate(dtypes)
        if dtype is not None
    }
    return {"state": state, "param_groups": [group | options]}


def test_norms_of_apex_are_assigned_to_their_weights(tmp_path):
    # Weights in float16 and float32, and one that never had a gradient.
    dtypes = [torch.float16, torch.float32, None, torch.float32, torch.float16]
    torch.save(apex(dtypes, ([2.0, 3.0], [5.0, 7.0])), tmp_path / "source")
    checkpoint = read(tmp_path / "source", "apex", variant="apex")
    assert {name: float(x.v) for name, x in checkpoint.entries.items()} == {
        "0": 4.0,
        "1": 25.0,
        "3": 49.0,
        "4": 9.0,
    }
    assert checkpoint.entries["4"].moment.tolist() == [4.0, 4.0]
    assert checkpoint.step == 7
    torch.save(apex(dtypes, ([2.0, 3.0], [5.0, 7.0]), norm_type=0), tmp_path / "source")
    checkpoint = read(tmp_path / "source", "apex", variant="apex-inside-inf")
    assert [float(x.v) for x in checkpoint.entries.values()] == [2.0, 5.0, 7.0, 3.0]


def test_apex_without_bias_correction_is_its_own_variant(tmp_path):
    torch.save(apex([torch.float32], ([], [5.0]), bias_correction=False), tmp_path / "source")
    variant = read(tmp_path / "source", "apex", variant="apex-inside").variant
    assert (variant.name, variant.bias_correction) == ("apex-inside-uncorrected", None)


@pytest.mark.parametrize(
    ("content", "variant", "message"),
    [
        (apex([torch.float32], ([], [5.0])), None, "does not save reg_inside_moment"),
        (apex([torch.float32], ([], [5.0])), "apex-inf", "norm_type is 2, give variant 'apex'"),
        (apex([torch.float32] * 2, ([], [5.0])), "apex", "1 norms of torch.float32 weights, but 2"),
        (apex([torch.float64], ([], [])), "apex", "neither float16 nor float32"),
        (apex([torch.float32], ([], [5.0]), init_zero=True), "apex", "has init_zero=True"),
        (apex([torch.float32], ([], [5.0]), exp_avg_sq=None), "apex", "has not taken a step"),
    ],
)
def test_apex_files_that_cannot_be_converted_are_refused(tmp_path, content, variant, message):
    torch.save(content, tmp_path / "source")
    with pytest.raises(CheckpointError, match=message) as error:
        read(tmp_path / "source", "apex", variant=variant)
    assert str(tmp_path / "source") in str(error.value)


# -- files that are wrong ------------------------------------------------------------------------


def nvidia(**options):
    group = {"lr": 0.1, "betas": (0.9, 0.5), "eps": 1e-8, "weight_decay": 0.1, "params": [0]}
    state = {"step": 1, "exp_avg": torch.zeros(3), "exp_avg_sq": torch.tensor(4.0)}
    return {"state": {0: state}, "param_groups": [group | {"grad_averaging": False} | options]}


def changed(**state):
    content = nvidia()
    content["state"][0] |= state
    return content


def mixed():
    content = nvidia()
    others = content["param_groups"][0] | {"params": [1], "amsgrad": True}
    return content | {"param_groups": [*content["param_groups"], others]}


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("timm", {"epoch": 3}, "not an optimizer's state dict.*it has epoch"),
        ("nemo", {"optimizer_states": [nvidia()] * 2}, "the states of 2 optimizers"),
        ("timm", torch.zeros(3), "not an optimizer's state dict"),
        ("torch", nvidia(), r"param_groups\[0\] is of another library, not of torch"),
        ("apex", nvidia(), "no 'norm_type', so it is not of apex's"),
        ("monai", torch.optim.SGD([torch.ones(1)]).state_dict(), "no 'betas'"),
        ("pytorch-optimizer", nvidia(), "the state of '0' .* has no 'moments'"),
        ("timm", changed(exp_avg=None), "the state of '0' .* has no 'exp_avg'"),
        ("timm", changed(exp_avg_sq=torch.zeros(3)), r"'exp_avg_sq' of '0' .* has shape \(3,\)"),
        ("timm", nvidia(amsgrad=True), "'0' has no maximum of v"),
        ("timm", nvidia(decoupled_decay=True, corrected_weight_decay=True), "corrected_weight"),
        ("pytorch-optimizer", nvidia(weight_decouple=True, fixed_decay=True), "fixed_decay"),
        ("pytorch-optimizer", nvidia(adam_debias=True), "adam_debias"),
        ("timm", nvidia(maximize=True), "maximize=True"),
        ("timm", nvidia() | {"state": {}}, "has not taken a step"),
        ("timm", mixed(), "another variant than the groups before: 'nvidia' and 'nvidia-amsgrad'"),
        ("timm", nvidia() | {"state": [1]}, "not laid out as expected"),
        ("timm", nvidia() | {"param_groups": 3}, "not laid out as expected"),
        ("timm", nvidia(param_names=["a", "b"]), "not laid out as expected"),
        ("timm", nvidia(betas=None), "not laid out as expected"),
    ],
)
def test_files_with_other_content_are_refused(tmp_path, kind, content, message):
    torch.save(content, tmp_path / "source")
    with pytest.raises(CheckpointError, match=message) as error:
        read(tmp_path / "source", kind)
    assert str(tmp_path / "source") in str(error.value)


def test_a_file_of_ours_is_not_read_as_a_peers(tmp_path):
    torch.save(trained(weights()).state_dict(), tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"is of novograd\.torch, not of timm"):
        read(tmp_path / "source", "timm")


def test_nothing_in_a_file_is_executed(tmp_path):
    class Make:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save(nvidia() | {"hyper_parameters": Make()}, tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"it contains .*mkdir, which was not executed"):
        read(tmp_path / "source", "nemo")
    assert not (tmp_path / "made").exists()


def test_truncated_files_are_refused(tmp_path):
    torch.save(nvidia(), tmp_path / "source")
    whole = (tmp_path / "source").read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "source").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="it is damaged"):
            read(tmp_path / "source", "timm")
    (tmp_path / "source").write_bytes(b"something else" * 100)
    with pytest.raises(CheckpointError, match="it is damaged") as error:
        read(tmp_path / "source", "timm")
    # torch advises to set weights_only to False, which is unsafe.
    assert "weights_only" not in str(error.value)


def test_the_learning_rate_must_be_known(tmp_path):
    torch.save(nvidia(), tmp_path / "source")
    write(read(tmp_path / "source", "timm"), tmp_path / "state", "jax")
    with pytest.raises(CheckpointError, match="has no learning rate: give the current one as lr"):
        write(read(tmp_path / "state", "jax"), tmp_path / "target", "torch")
    assert not (tmp_path / "target").exists()
    write(read(tmp_path / "state", "jax", lr=0.5), tmp_path / "target", "torch")
    (group,) = torch.load(tmp_path / "target", weights_only=True)["param_groups"]
    assert (group["lr"], group["betas"]) == (0.5, (0.95, 0.98))


def test_float16_second_moments_become_float32(tmp_path):
    torch.save(changed(exp_avg_sq=torch.tensor(4.0).bfloat16()), tmp_path / "source")
    assert read(tmp_path / "source", "timm").entries["0"].v.dtype == np.float32


def test_the_printed_lines_load_the_file_and_a_full_disk_keeps_the_old_one(tmp_path, monkeypatch):
    loading.check_target("torch", tmp_path, monkeypatch)
