"""The examples for host frameworks and for the variant ``rows``: each trains, as a process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.parameters import some

ROOT = Path(__file__).parents[1]
HOSTS, ROWS = ROOT / "examples" / "hosts", ROOT / "examples" / "rows"
CLI = (
    "cli",
    "fit",
    "--optimizer=novograd.torch.NovoGrad",
    "--optimizer.lr=0.01",
    "--trainer.max_epochs=2",
)
RUNS = {path.stem: (path,) for folder in (HOSTS, ROWS) for path in sorted(folder.glob("*.py"))}
RUNS["lightning_module, cli"] = (HOSTS / "lightning_module.py", *CLI)


# The others need 4 to 9 s each. Other tests train with Keras's ``fit`` and with Lightning.
@pytest.mark.parametrize("name", some(RUNS, kept=["clara_train", "flax_nnx", "train_torch"]))
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


@pytest.mark.parametrize(("folder", "page"), [(HOSTS, "hosts.md"), (ROWS, "variants.md")])
def test_every_example_is_named_on_the_page(folder, page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for path in folder.glob("*.py"):
        assert f"examples/{folder.name}/{path.name}" in text, path.name
