"""``novograd convert`` on the command line."""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from novograd import cli
from novograd.checkpoint import Group, how_to_load, read, write
from tests.checkpoint.samples import assert_same_bits, made
from tests.checkpoint.test_neutral import small


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(made(weights=False), tmp_path / "source", "safetensors")
    return lambda *arguments: CliRunner().invoke(cli.app, ["convert", *map(str, arguments)])


def text(result):
    return " ".join((result.output + result.stderr).split())


def test_a_conversion_there_and_back_keeps_every_bit(command, tmp_path):
    there = command("source", "state", "--from", "safetensors", "--to", "jax")
    assert there.exit_code == 0, text(there)
    assert text(there).startswith("state: 16 weights at step 12, variant documented")
    back = command("state", "again", "--from", "jax", "--to", "safetensors")
    assert back.exit_code == 0, text(back)
    assert_same_bits(read("again", "safetensors"), read("source", "safetensors"))


@pytest.mark.parametrize("as_list", [False, True])
def test_names_are_read_from_a_file(command, tmp_path, as_list):
    new = {old: old.replace("/", ".") for old in made().names}
    (tmp_path / "names.json").write_text(json.dumps([*new.values()] if as_list else new))
    way = "--from", "safetensors", "--to", "safetensors", "--names", "names.json"
    result = command("source", "target", *way)
    assert result.exit_code == 0, text(result)
    assert list(read("target", "safetensors").entries) == [*new.values()]


def test_a_conversion_to_another_variant_may_need_a_learning_rate(command):
    write(small("openseq2seq", lr=None), "lone", "safetensors")
    way = "--from", "safetensors", "--to", "safetensors", "--variant", "documented"
    result = command("lone", "target", *way)
    assert result.exit_code == 1
    assert "multiplied by the learning rate: give lr" in text(result)
    result = command("lone", "target", *way, "--lr", "0.5")
    assert result.exit_code == 0, text(result)
    target = read("target", "safetensors")
    assert target.variant.name == "documented"
    assert target.entries["w"].moment.tolist() == [1.5, 2.0]
    assert target.groups[0].hyperparameters.lr == 0.5


def test_an_unknown_number_of_steps_is_said_where_a_schedule_depends_on_it(command):
    """A state of PyTorch has no number of steps, unless its variant counts them."""
    said = "does not contain the number of steps: the target begins with 0"
    counted = command("source", "counted", "--from", "safetensors", "--to", "jax")
    assert said not in text(counted)
    assert command("source", "state.pt", "--from", "safetensors", "--to", "torch").exit_code == 0
    unknown = command("state.pt", "unknown", "--from", "torch", "--to", "jax")
    assert unknown.exit_code == 0, text(unknown)
    assert said in text(unknown)


def test_the_target_is_replaced_only_with_force(command, tmp_path):
    (tmp_path / "target").write_bytes(b"mine")
    way = "source", "target", "--from", "safetensors", "--to", "safetensors"
    result = command(*way)
    assert result.exit_code == 2
    assert "target already exists; --force replaces it" in text(result)
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert command(*way, "--force").exit_code == 0
    assert read("target", "safetensors").step == 12


def test_a_damaged_file_is_refused(command, tmp_path):
    (tmp_path / "cut").write_bytes((tmp_path / "source").read_bytes()[:-1])
    result = command("cut", "target", "--from", "safetensors", "--to", "jax")
    assert result.exit_code == 1
    assert "cut, as safetensors: it is damaged" in text(result)
    assert not (tmp_path / "target").exists()


def test_a_checkpoint_that_the_target_cannot_hold_is_refused(command, tmp_path):
    checkpoint = replace(made(), groups=(*made().groups, Group(("frozen",))))
    write(checkpoint, "frozen", "safetensors")
    result = command("frozen", "target", "--from", "safetensors", "--to", "jax")
    assert result.exit_code == 1
    message = "target, as jax: JAX needs a state for every weight, but 'frozen' has none"
    assert message in text(result)
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
def test_wrong_command_lines_are_refused(command, tmp_path, arguments, message):
    (tmp_path / "3").write_text("3")
    result = command(*arguments)
    assert result.exit_code == 2
    assert message in text(result)
    assert not (tmp_path / "x").exists()


def test_the_message_names_the_package_that_is_not_installed(command, monkeypatch):
    module = sys.modules["novograd.cli.convert"]  # in the package this is the command
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "torch" else name)
    result = command("source", "x", "--from", "timm", "--to", "jax")
    assert result.exit_code == 2
    assert 'torch needs torch: pip install "novograd-optimizer[checkpoint,torch]"' in text(result)


def test_the_output_shows_how_to_load_the_target(command):
    result = command("source", "target", "--from", "safetensors", "--to", "jax")
    last = how_to_load(read("source", "safetensors"), "target", "jax")
    assert result.output.endswith(f"To load it:\n{last}\n")


# -- errors of the operating system --------------------------------------------------------------

SAME = "--from", "safetensors", "--to", "safetensors"


def fails(result, *parts):
    """Checks that a command failed and text its error on one line."""
    assert result.exit_code == 1, text(result)
    assert isinstance(result.exception, SystemExit)
    assert all(part in text(result) for part in parts), text(result)
    assert len(result.stderr.splitlines()) == 1


LONG = 300 * "x"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("folder", "x", *SAME), "Is a directory: 'folder'"),
        (("source", "folder", *SAME, "--force"), "Is a directory: 'folder'"),
        (("folder", "x", "--from", "keras", "--to", "jax"), "Is a directory: 'folder'"),
        ((LONG, "x", *SAME), f"File name too long: '{LONG}'"),
        (("source", LONG, *SAME), f"File name too long: '{LONG}'"),
        (("source", f"{LONG}/x", *SAME), f"File name too long: '{LONG}/x'"),
        (("source/x", "x", *SAME), "there is no file source/x"),
        (("/proc/self/mem", "x", *SAME), "Input/output error: '/proc/self/mem'"),
    ],
    ids=range(8),
)
def test_paths_that_cannot_be_read_or_written_are_refused(command, tmp_path, arguments, message):
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    result = command(*arguments)
    assert result.exit_code in (1, 2)
    assert message in text(result)
    assert isinstance(result.exception, SystemExit)
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def unprivileged(monkeypatch):
    """A working directory whose permissions a test may remove."""
    folder = Path(tempfile.mkdtemp())  # tmp_path is in a folder that other users cannot enter
    monkeypatch.chdir(folder)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@contextmanager
def nobody():
    """Drops the rights of root temporarily."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("kind", ["safetensors", "jax"])
def test_missing_permissions_are_reported(command, unprivileged, kind):
    way = "--from", kind, "--to", kind
    write(made(weights=False), "source", kind)
    assert command("source", "target", *way).exit_code == 0  # also imports everything
    Path("source").chmod(0)
    unprivileged.chmod(0o755 if os.geteuid() == 0 else 0o555)
    with nobody():
        unreadable = command("source", "new", *way)
        unwritable = command("target", "new", *way)
        replaced = command("target", "target", *way, "--force")
    fails(unreadable, "Permission denied: 'source'")
    fails(unwritable, "Permission denied: 'new'")
    fails(replaced, "Permission denied: 'target'")
    assert sorted(path.name for path in unprivileged.iterdir()) == ["source", "target"]
    unprivileged.chmod(0o600 if os.geteuid() else 0)
    with nobody():
        fails(command("source", "new", *way), "Permission denied: 'new'")


def test_a_failed_write_keeps_existing_files(command, tmp_path, monkeypatch):
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "target.part").write_bytes(b"mine too")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        result = command("source", "target", *SAME, "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    fails(result, "File too large: 'target'")
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert command("source", "target", *SAME, "--force").exit_code == 0
    assert (tmp_path / "target.part").read_bytes() == b"mine too"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"source", "target", "target.part"}


def test_names_that_are_nested_too_deeply_are_refused(command, tmp_path):
    (tmp_path / "names").write_text("[" * 100_000)
    result = command("source", "target", *SAME, "--names", "names")
    assert result.exit_code == 2
    assert "names" in text(result)


def test_a_folder_is_refused_as_a_source(command, tmp_path):
    (tmp_path / "folder").mkdir()
    result = command("folder", "x", "--from", "jax", "--to", "jax")
    assert result.exit_code == 1
    assert "Is a directory: 'folder'" in text(result)
