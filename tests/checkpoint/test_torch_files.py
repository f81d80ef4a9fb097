"""Files of PyTorch from real programs: other keys, schedulers, parameters without names."""

import importlib
import json

import pytest
import torch
from typer.testing import CliRunner

from novograd import cli
from novograd.checkpoint import CheckpointError, lost, read, write
from novograd.torch import NovoGrad


def convert(*arguments):
    return CliRunner().invoke(cli.app, ["convert", *map(str, arguments)])


def text(result):
    return " ".join((result.output + result.stderr).split())


def trained(params, steps=3, scheduled=True, **options):
    optimizer = NovoGrad(params, **{"lr": 0.5, **options})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if scheduled else None
    for _ in range(steps):
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.ones_like(param)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return optimizer


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))


# -- keys ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


WAY = "--from", "torch", "--to", "torch"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (lambda state: {"model": {}, "optim": state}, "optim"),
        (lambda state: {"trainer": {"step": 3, "opt": state}}, "trainer.opt"),
        (lambda state: {"trainer.opt": state}, "trainer.opt"),
        (lambda state: {"optimizer_states": [{}, state]}, "optimizer_states.1"),
        (lambda state: {"optimizer_states": [state]}, "optimizer_states"),
        (lambda state: {"optimizer": {}, "second": [state]}, "second"),
    ],
)
def test_a_state_may_have_any_key(folder, content, key):
    state = trained([torch.nn.Parameter(torch.ones(3))]).state_dict()
    torch.save(content(state), "source")
    result = convert("source", "target", *WAY, "--key", key)
    assert result.exit_code == 0, text(result)
    assert torch.load("target", weights_only=True)["param_groups"] == state["param_groups"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "none under optimizer, optimizer_state_dict, optimizer_states; it has model, "),
        (None, "it has model, 'two\\nlines', states; if it has one under another key, give"),
        ("optim", "there is no key 'optim'; it has model, 'two\\nlines', states"),
        ("states.2", "there is no key 'states.2': no '2'; it has 0, 1"),
        ("states.x", "there is no key 'states.x': no 'x'; it has 0, 1"),
        ("states.0.x", "there is no key 'states.0.x': no 'x'; it has a"),
        ("model", "'model' is not an optimizer's state dict; it has weight"),
        ("states", "of 2 optimizers: give the key of one (--key), such as states.0"),
    ],
)
def test_missing_keys_are_refused(folder, key, message):
    torch.save({"model": {"weight": 1}, "two\nlines": 3, "states": [{"a": 1}, {}]}, "source")
    result = convert("source", "target", *WAY, *(("--key", key) if key else ()))
    assert result.exit_code == 1
    assert message in text(result)
    assert not (folder / "target").exists()


def test_a_long_list_of_keys_is_shortened(folder):
    torch.save({f"weight{number}": number for number in range(1000)}, "source")
    result = convert("source", "target", *WAY)
    assert "weight19 and 980 more" in text(result)


def test_a_key_is_refused_for_kinds_without_keys(folder):
    (folder / "source").touch()
    result = convert("source", "target", "--from", "keras", "--to", "torch", "--key", "optim")
    assert result.exit_code == 2
    assert "files of keras have no keys; only files of PyTorch and Flax have them" in text(result)
    with pytest.raises(ValueError, match="kind is 'keras'; got 'optim'"):
        read("source", "keras", key="optim")


# -- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", [(), ("safetensors",), ("torch", "safetensors")], ids=str)
def test_a_scheduler_continues_after_conversion(folder, through):
    model = network()
    named = [*model.named_parameters()]
    groups = [
        {"params": named[:1], "name": "first", "lr_scale": 0.25},
        {"params": named[1:], "tags": ["a", {"b": None}], "weight_decay": 0.5},
    ]
    optimizer = trained(groups)
    torch.save(optimizer.state_dict(), "source")
    source = "source", "torch"
    for number, kind in enumerate((*through, "torch")):
        write(read(*source), f"target{number}", kind)
        source = f"target{number}", kind
    again = NovoGrad([{"params": params} for params in (named[:1], named[1:])])
    again.load_state_dict(torch.load(source[0], weights_only=True))
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert again.param_groups[0]["initial_lr"] == 0.5
    scheduler = torch.optim.lr_scheduler.StepLR(again, 1, 0.5, last_epoch=3)
    assert scheduler.get_last_lr() == [0.03125, 0.03125]


def test_our_options_are_kept_unless_they_have_defaults(folder):
    params = [torch.nn.Parameter(torch.ones(3))]
    options = {"skip_nonfinite": True, "foreach": True, "capturable": True}
    optimizer = trained(params, scheduled=False, **options)
    torch.save(optimizer.state_dict(), "source")
    checkpoint = read("source", "torch")
    assert checkpoint.groups[0].others == options
    assert lost(checkpoint, "torch") == []
    assert lost(checkpoint, "jax") == [*options]
    write(checkpoint, "target", "torch")
    groups = torch.load("target", weights_only=True)["param_groups"]
    assert groups == optimizer.state_dict()["param_groups"]


class Schedule:
    """An object that no target can hold."""


def test_the_output_names_content_that_is_not_kept(folder):
    state = trained([torch.nn.Parameter(torch.ones(3))], scheduled=False).state_dict()
    others = {"initial_lr": torch.tensor(0.5), "schedule": Schedule(), "curve": torch.ones(2), 3: 4}
    state["param_groups"][0].update(others)
    torch.save(state, "source")
    result = convert("source", "target", *WAY)
    assert result.exit_code == 0, text(result)
    assert "The source's groups also contain schedule, curve, 3, which the target does not" in text(
        result
    )
    (group,) = torch.load("target", weights_only=True)["param_groups"]
    assert group["initial_lr"] == 0.5
    assert not {"schedule", "curve"} & set(group)
    result = convert("source", "other", "--from", "torch", "--to", "jax")
    assert "also contain schedule, curve, 3, initial_lr, which the target does not" in text(result)


def test_options_of_a_published_optimizer_are_not_kept_as_others(folder):
    params = [torch.nn.Parameter(torch.ones(3))]
    optimizer = importlib.import_module("torch_optimizer.novograd").NovoGrad(params, lr=0.1)
    params[0].grad = torch.ones(3)
    optimizer.step()
    torch.save(optimizer.state_dict(), "source")
    assert read("source", "torch-optimizer").groups[0].others == {}


# -- names ---------------------------------------------------------------------------------------


def test_weights_of_parameters_without_names_need_names(folder):
    model = network()
    decaying = [model[0].weight, model[1].weight]
    others = [model[0].bias, model[1].bias]
    optimizer = trained([{"params": decaying, "weight_decay": 0.1}, {"params": others}])
    torch.save({"optimizer": optimizer.state_dict(), "model": model.state_dict()}, "source")
    result = convert("source", "target", *WAY, "--weights")
    assert result.exit_code == 1
    assert "the file has no weight '0'; it has 0.weight, 0.bias, 1.weight, 1.bias; " in text(result)
    assert "without names" in text(result)
    assert "--names" in text(result)
    line = result.stderr.strip().splitlines()[-1]
    exec(line, {"model": model, "optimizer": optimizer})
    assert json.loads((folder / "names.json").read_bytes()) == [
        *("0.weight", "1.weight", "0.bias", "1.bias"),
    ]
    result = convert("source", "target", *WAY, "--weights", "--names", "names.json")
    assert result.exit_code == 0, text(result)
    saved = torch.load("target", weights_only=True)
    torch.testing.assert_close(saved["model"], dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("key", ["net", "network"])
def test_weights_may_be_under_the_keys_of_monai(folder, key):
    model = network()
    state = trained(model.named_parameters()).state_dict()
    torch.save({key: model.state_dict(), "opt": state}, "source")
    found = read("source", "torch", weights=True, key="opt").entries
    for name, weight in model.named_parameters():
        assert (found[name].weights == weight.detach().numpy()).all()


def test_weights_under_another_key_are_refused(folder):
    model = network()
    state = trained(model.named_parameters()).state_dict()
    torch.save({"optimizer": state, "unet": model.state_dict()}, "source")
    with pytest.raises(
        CheckpointError, match=r"no weights under model, .*; it has optimizer, unet"
    ):
        read("source", "torch", weights=True)
    torch.save({"optimizer": state, "model": [1]}, "source")
    with pytest.raises(CheckpointError, match="'model' is not a dict of weights by name"):
        read("source", "torch", weights=True)
    assert read("source", "torch").step is None
