"""``novograd convert`` as a user meets it."""

import json
import sys
from dataclasses import replace

import pytest
from samples import assert_same_bits, made
from test_neutral import small
from typer.testing import CliRunner

from novograd import cli
from novograd.checkpoint import Group, read, write


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(made(weights=False), tmp_path / "source", "safetensors")
    return lambda *arguments: CliRunner().invoke(cli.app, ["convert", *map(str, arguments)])


def said(result):
    return " ".join((result.output + result.stderr).split())


def test_there_and_back(command, tmp_path):
    there = command("source", "state", "--from", "safetensors", "--to", "jax")
    assert there.exit_code == 0, said(there)
    assert said(there).startswith("state: 16 weights at step 12, variant documented")
    back = command("state", "again", "--from", "jax", "--to", "safetensors")
    assert back.exit_code == 0, said(back)
    assert_same_bits(read("again", "safetensors"), read("source", "safetensors"))


@pytest.mark.parametrize("as_list", [False, True])
def test_names_from_a_file(command, tmp_path, as_list):
    new = {old: old.replace("/", ".") for old in made().names}
    (tmp_path / "names.json").write_text(json.dumps([*new.values()] if as_list else new))
    way = "--from", "safetensors", "--to", "safetensors", "--names", "names.json"
    result = command("source", "target", *way)
    assert result.exit_code == 0, said(result)
    assert list(read("target", "safetensors").entries) == [*new.values()]


def test_another_variant(command):
    write(small("openseq2seq", lr=None), "lone", "safetensors")
    way = "--from", "safetensors", "--to", "safetensors", "--variant", "documented"
    result = command("lone", "target", *way)
    assert result.exit_code == 1
    assert "goes into the moment: give lr" in said(result)
    result = command("lone", "target", *way, "--lr", "0.5")
    assert result.exit_code == 0, said(result)
    target = read("target", "safetensors")
    assert target.variant.name == "documented"
    assert target.entries["w"].moment.tolist() == [1.5, 2.0]
    assert target.groups[0].hyperparameters.lr == 0.5


def test_the_target_is_replaced_only_by_force(command, tmp_path):
    (tmp_path / "target").write_bytes(b"mine")
    way = "source", "target", "--from", "safetensors", "--to", "safetensors"
    result = command(*way)
    assert result.exit_code == 2
    assert "target is there already; --force replaces it" in said(result)
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert command(*way, "--force").exit_code == 0
    assert read("target", "safetensors").step == 12


def test_a_damaged_file(command, tmp_path):
    (tmp_path / "cut").write_bytes((tmp_path / "source").read_bytes()[:-1])
    result = command("cut", "target", "--from", "safetensors", "--to", "jax")
    assert result.exit_code == 1
    assert "cut, as safetensors: it is damaged" in said(result)
    assert not (tmp_path / "target").exists()


def test_what_the_target_cannot_hold(command, tmp_path):
    checkpoint = replace(made(), groups=(*made().groups, Group(("frozen",))))
    write(checkpoint, "frozen", "safetensors")
    result = command("frozen", "target", "--from", "safetensors", "--to", "jax")
    assert result.exit_code == 1
    assert "target, as jax: JAX has state for every weight, and there is none of 'frozen'" in said(
        result
    )
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("source", "x", "--from", "tim", "--to", "jax"), "did you mean 'timm'?"),
        (("source", "x", "--from", "jax", "--to", "tensorflwo"), "did you mean 'tensorflow'?"),
        (("missing", "x", "--from", "jax", "--to", "jax"), "there is no file missing"),
        (("missing", "x", "--from", "tf1", "--to", "jax"), "there is no file missing.index"),
        (("source", "no/x", "--from", "jax", "--to", "jax"), "there is no directory no"),
        (("source", "x", "--from", "jax", "--to", "jax", "--lr", "-1"), "not a positive number"),
        (("source", "x", "--from", "jax", "--to", "jax", "--variant", "optx"), "'optax'?"),
        (("source", "x", "--from", "jax", "--to", "jax", "--names", "missing"), "missing"),
        (("source", "x", "--from", "jax", "--to", "jax", "--names", "3"), "object of strings"),
    ],
)
def test_wrong_command_lines(command, tmp_path, arguments, message):
    (tmp_path / "3").write_text("3")
    result = command(*arguments)
    assert result.exit_code == 2
    assert message in said(result)
    assert not (tmp_path / "x").exists()


def test_what_is_not_installed_is_named(command, monkeypatch):
    module = sys.modules["novograd.cli.convert"]  # whose name in the package is the command
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "torch" else name)
    result = command("source", "x", "--from", "timm", "--to", "jax")
    assert result.exit_code == 2
    assert "torch needs torch: pip install novograd-optimizer[checkpoint,torch]" in said(result)


def test_a_folder_is_no_file(command, tmp_path):
    (tmp_path / "folder").mkdir()
    result = command("folder", "x", "--from", "jax", "--to", "jax")
    assert result.exit_code == 1
    assert "Is a directory: 'folder'" in said(result)
