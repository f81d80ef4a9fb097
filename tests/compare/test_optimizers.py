"""Tests of the optimizers that can be named, and of their arguments."""

import json

import pytest
import typer

from novograd import variants
from novograd.cli.optimizers import arguments, grids, names
from novograd.compare.errors import TaskError
from novograd.compare.load import default_rate, find_class
from novograd.compare.optimizers import OPTIMIZERS, OWN, find, styles

CHOSEN = ["adamw", "novograd:rows", "torch.optim.RAdam", "mine.py:muon"]


@pytest.mark.parametrize("name", variants.BY_NAME)
def test_every_variant_can_be_named(name):
    found = find(f"novograd:{name}")
    assert (found.kind, found.variant) == ("novograd", name)
    assert names([f"novograd:{name}"]) == [f"novograd:{name}"]
    decoupled = variants.get(name).decay == "decoupled"
    assert found.settings["weight_decay"] == (0.01 if decoupled else 0.001)


def test_places_of_classes_can_be_named():
    assert names(["torch.optim.RAdam,mine.py:muon", " adamw"]) == [*CHOSEN[2:], "adamw"]
    assert [find(name).kind for name in CHOSEN[2:]] == [OWN, OWN]
    assert [find(name).title for name in CHOSEN[2:]] == ["RAdam", "muon"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nadam", "did you mean 'nadamw'?"),
        ("novograd:row", "did you mean 'novograd:rows'?"),
        ("", "'' is not one of novograd, "),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(typer.BadParameter, match="is not one of") as error:
        names([name])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (".9,.98", (0.9, 0.98)),
        ("true", True),
        ("False", False),
        ("None", None),
        ("1e-3", 1e-3),
        ("amsgrad", "amsgrad"),
        ("", ""),
        ("a=b", "a=b"),
    ],
)
def test_values_are_python_literals_or_text(text, value):
    assert arguments([f"adamw.x={text}"], CHOSEN) == {"adamw": {"x": value}}


def test_an_optimizer_may_have_dots_and_several_arguments():
    given = ["torch.optim.RAdam.betas=.9,.98", "torch.optim.RAdam.eps=1", "mine.py:muon.depth=3"]
    assert arguments([*given, "novograd:rows.clip=2"], CHOSEN) == {
        "torch.optim.RAdam": {"betas": (0.9, 0.98), "eps": 1},
        "mine.py:muon": {"depth": 3},
        "novograd:rows": {"clip": 2},
    }


@pytest.mark.parametrize("text", ["adamw", "adamw=1", "adamw.betas", "adam.eps=1", "adamw.1=2", ""])
def test_settings_of_another_form_are_refused(text):
    with pytest.raises(typer.BadParameter, match=r"must be NAME\.ARGUMENT=VALUE") as error:
        arguments([text], CHOSEN)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("argument", ["lr", "learning_rate"])
def test_a_learning_rate_is_not_an_argument(argument):
    with pytest.raises(typer.BadParameter, match=r"use --learning-rates adamw=0\.1"):
        arguments([f"adamw.{argument}=0.1"], CHOSEN)


def test_given_learning_rates_are_not_searched_beyond():
    found, searched = grids(CHOSEN[:2], ["adamw=1,0.5", "auto"], "torch", {}, quick=True)
    assert found == {"adamw": [0.5, 1.0], "novograd:rows": [0.003, 0.01, 0.03]}
    assert searched == ["novograd:rows"]
    found, _ = grids(["mine.py:muon"], [], "torch", {"mine.py:muon": 0.02}, quick=True)
    assert found["mine.py:muon"] == [0.003, 0.01, 0.03]


def test_classes_are_found_in_packages_and_files(tmp_path):
    assert find_class("json.JSONDecoder") is find_class("json:JSONDecoder") is json.JSONDecoder
    path = tmp_path / "own_optimizer.py"
    path.write_text("def muon(params, lr=0.02): ...\nnumber = 3\n")
    assert default_rate(find_class(f"{path}:muon")) == 0.02
    with pytest.raises(TypeError, match="must be a class or a function, got 3"):
        find_class(f"{path}:number")
    with pytest.raises(AttributeError, match="no attribute 'moun'"):
        find_class(f"{path}:moun")
    with pytest.raises(TaskError, match=r"no file nowhere\.py"):
        find_class("nowhere.py:muon")
    assert default_rate(lambda params: ...) is None


def test_each_optimizer_has_its_own_looks():
    looks = styles([*OPTIMIZERS, *CHOSEN[2:], "a.b", "c.d", "e.f"])
    assert len(set(looks.values())) == len(looks) == len(OPTIMIZERS) + 5
    assert len({marker for _, marker in looks.values()}) == len(looks)
