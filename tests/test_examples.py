"""The examples for host frameworks: each trains, in a separate process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.parameters import some

HOSTS = Path(__file__).parents[1] / "examples" / "hosts"
CLI = (
    "cli",
    "fit",
    "--optimizer=novograd.torch.NovoGrad",
    "--optimizer.lr=0.01",
    "--trainer.max_epochs=2",
)
RUNS = {path.stem: (path,) for path in sorted(HOSTS.glob("*.py"))}
RUNS["lightning_module, cli"] = (HOSTS / "lightning_module.py", *CLI)


# The others need 4 to 9 s each. Other tests train with Keras's ``fit`` and with Lightning.
@pytest.mark.parametrize("name", some(RUNS, kept=["clara_train", "flax_nnx"]))
def test_an_example_lowers_its_loss_and_leaves_no_files(tmp_path, name):
    environment = os.environ | {"KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *RUNS[name]], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the native kernels of novograd are not installed" not in done.stderr
    before, after = map(float, re.search(r"loss (\S+) -> (\S+)", done.stdout).groups())
    assert after < before
    assert not list(tmp_path.iterdir())


def test_every_example_is_named_on_the_page():
    page = (HOSTS.parents[1] / "docs" / "hosts.md").read_text(encoding="utf-8")
    for path in HOSTS.glob("*.py"):
        assert f"examples/hosts/{path.name}" in page, path.name
