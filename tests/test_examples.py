"""The examples train, each as a process."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.parameters import some

ROOT = Path(__file__).parents[1]
HOSTS, ROWS, TENSORBOARD, SHARDING = (
    ROOT / "examples" / name for name in ("hosts", "rows", "tensorboard", "sharding")
)
CLI = (
    "cli",
    "fit",
    "--optimizer=novograd.torch.NovoGrad",
    "--optimizer.lr=0.01",
    "--trainer.max_epochs=2",
)
RUNS = {path.stem: (path,) for folder in (HOSTS, ROWS) for path in sorted(folder.glob("*.py"))}
RUNS["lightning_module, cli"] = (HOSTS / "lightning_module.py", *CLI)


def output(*command, cwd):
    """Runs an example, and returns its output."""
    environment = os.environ | {"KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the native kernels of novograd are not installed" not in done.stderr
    return done.stdout


def trained(*command, cwd):
    """Runs an example, and returns its output and the losses before and after."""
    printed = output(*command, cwd=cwd)
    before, after = map(float, re.search(r"loss (\S+) -> (\S+)", printed).groups())
    return printed, before, after


# The others need 4 to 9 s each. Other tests train with Keras's ``fit`` and with Lightning.
@pytest.mark.parametrize("name", some(RUNS, kept=["clara_train", "flax_nnx", "train_torch"]))
def test_an_example_lowers_its_loss_and_leaves_no_files(tmp_path, name):
    _, before, after = trained(*RUNS[name], cwd=tmp_path)
    assert after < before
    assert not list(tmp_path.iterdir())


LOGGED = {
    "plain_loop": b"clipped/0.weight",
    "lightning_callback": b"clipped/model.0.weight",
    "keras_callback": b"update_ratio/sequential/dense/kernel",
}


@pytest.mark.parametrize("name", some(LOGGED, kept=["plain_loop"]))
def test_an_example_logs_the_statistics_to_tensorboard(tmp_path, name):
    _, before, after = trained(TENSORBOARD / f"{name}.py", tmp_path, cwd=tmp_path)
    assert after < before
    events = b"".join(path.read_bytes() for path in tmp_path.rglob("*tfevents*"))
    assert LOGGED[name] in events


def sharded(folder, processes, result=trained):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    return result(*launcher, SHARDING / "fsdp2.py", folder, cwd=folder)


@pytest.mark.full  # it starts torchrun three times, and imports torch in each process
def test_the_sharded_example_resumes_to_the_same_bits(tmp_path):
    whole, before, after = sharded(tmp_path, 2)
    assert after < before / 2
    shutil.rmtree(tmp_path / "step-000040")
    resumed, _, again = sharded(tmp_path, 2)
    assert "steps 0 to 40" in whole
    assert "steps 20 to 40" in resumed
    assert again == after
    assert "already finished" in sharded(tmp_path, 2, output)


@pytest.mark.full
def test_the_sharded_example_resumes_with_another_number_of_processes(tmp_path):
    sharded(tmp_path, 2)
    shutil.rmtree(tmp_path / "step-000040")
    resumed, before, after = sharded(tmp_path, 1)
    assert "steps 20 to 40" in resumed
    assert after < before


@pytest.mark.parametrize(
    ("folder", "page"),
    [
        (HOSTS, "hosts.md"),
        (ROWS, "choose.md"),
        (TENSORBOARD, "statistics.md"),
        (SHARDING, "sharding.md"),
    ],
)
def test_every_example_is_named_on_the_page(folder, page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for path in folder.glob("*.py"):
        assert f"examples/{folder.name}/{path.name}" in text, path.name
