"""Tests of ``--device``: names, refusals, and that everything is on the device.

No test needs a GPU.
"""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from novograd import cli
from novograd.compare import devices, runner
from novograd.compare.tasks import BUILT_IN
from novograd.compare.worker import environment
from novograd.forks import Server
from tests.compare.made import row
from tests.compare.test_command import write
from tests.helpers.parameters import some

NAME = "NVIDIA H100 80GB HBM3"
RATE = ("--optimizers", "adam", "--learning-rates", "adam=0.1")
OPTIONS = (*RATE, "--seeds", "1", "--steps", "4", "--output", "out")


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Runs the command in an empty directory, on a machine without GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return lambda *arguments: CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


def printed(result):
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("framework", "device", "message"),
    [
        ("torch", "cuda", "there is no 'cuda'; PyTorch found: no GPU"),
        pytest.param(
            *("jax", "cuda:1", "there is no 'cuda:1'; JAX found no GPU: "), marks=pytest.mark.full
        ),
    ],
)
def test_a_missing_gpu_is_refused(invoke, tmp_path, framework, device, message):
    result = invoke("digits", "--framework", framework, "--device", device)
    assert result.exit_code == 2
    assert f"Invalid value for '--device': {message}" in printed(result)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_gpu_is_refused_for_a_custom_task(invoke, tried_here, tmp_path):
    path = write(tmp_path)
    result = invoke(path, *OPTIONS, "--device", "cuda")
    assert result.exit_code == 2
    assert "Invalid value for '--device': there is no 'cuda'" in printed(result)
    assert list(tmp_path.iterdir()) == [path]


def test_the_default_framework_supports_the_device(invoke, monkeypatch):
    asked = []

    async def describe(*arguments):
        asked.append(arguments)
        return {"event": "result", "status": "failed", "error": "none", "refused": "--device"}

    monkeypatch.setattr(runner, "describe", describe)
    assert invoke("digits", "--device", "cuda").exit_code == 2
    assert asked == [(None, "torch", "cuda")]


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is a GPU; returns its description and the requests of the runs."""
    here = {"event": "device", "device": NAME, "requests": []}

    async def describe(*_):
        return here

    async def events(_, request):
        here["requests"].append(request)
        done = row("adam", 0.1, 0, 0.5)
        for loss in done.pop("loss"):
            yield {"event": "step", "step": 1, "loss": loss}
        for evaluation in done.pop("evaluations"):
            yield {"event": "evaluation", **evaluation}
        yield {"event": "result", **done}

    monkeypatch.setattr(runner, "describe", describe)
    monkeypatch.setattr(Server, "events", events)
    return here


def test_results_name_the_gpu_and_resume_refuses_another_one(invoke, tmp_path, gpu):
    options = ("digits", "--framework", "torch", *OPTIONS)
    result = invoke(*options, "--device", "cuda")
    assert result.exit_code == 0, result.output
    assert f"digits with torch on {NAME}: " in printed(result)
    assert [request["device"] for request in gpu["requests"]] == ["cuda"]
    path = tmp_path / "out" / runner.RESULTS
    results = json.loads(path.read_text())
    assert results["settings"]["device"] == "cuda"
    assert results["machine"]["device"] == NAME
    assert f"<dt>device</dt><dd>{NAME}</dd>" in (tmp_path / "out" / "report.html").read_text()

    result = invoke(*options, "--resume")
    assert result.exit_code == 2
    assert "settings.device is 'cuda' in the file and 'cpu' now" in printed(result)
    gpu["device"] = "NVIDIA L4"
    result = invoke(*options, "--device", "cuda", "--resume")
    assert result.exit_code == 2
    assert f"machine.device is '{NAME}' in the file and 'NVIDIA L4' now" in printed(result)
    assert json.loads(path.read_text()) == results


def test_the_cpu_may_be_named(invoke, tried_here, tmp_path):
    result = invoke(write(tmp_path), *OPTIONS, "--device", "cpu")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "out" / runner.RESULTS).read_text())
    assert (results["settings"]["device"], results["machine"]["device"]) == ("cpu", "CPU")


def test_gpus_are_hidden_from_runs_on_the_cpu_only():
    assert environment("torch")["CUDA_VISIBLE_DEVICES"] == ""
    assert environment("jax")["JAX_PLATFORMS"] == "cpu"
    on_gpu = environment("torch", "cuda:1")
    assert "CUDA_VISIBLE_DEVICES" not in on_gpu
    assert on_gpu["KERAS_TORCH_DEVICE"] == "cuda:1"


def python(program, framework, device, *arguments):
    """Runs a program with the environment of a run, and returns the lines that it prints."""
    given = os.environ | environment(framework, device)
    command = [sys.executable, *arguments, *program]
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


GPUS = """
import torch
from novograd.compare.torch import gpu_name
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_name = lambda i: f"card {i}"
ones, torch.ones = torch.ones, lambda *_, device: ones(1)
print(gpu_name("cuda"), gpu_name("cuda:1"), sep="\\n")
for device in ("cuda:2", "cuda"):
    try:
        gpu_name(device)
    except ValueError as error:
        print(error)
    def broken(*_, device):
        raise RuntimeError("no kernel image is available\\nfor execution")
    torch.ones = broken
"""


def test_gpus_have_names_and_are_tried():
    assert python(["-c", GPUS], "torch", "cuda") == [
        "card 0",
        "card 1",
        "there is no 'cuda:2'; PyTorch found: cuda:0 (card 0), cuda:1 (card 1)",
        "'cuda' does not work: no kernel image is available",
    ]


def test_every_tensor_is_on_the_device():
    *tasks, error = python(["-m", "tests.compare.fake_gpu"], "torch", "privateuseone:0")
    assert tasks == ["torch", *BUILT_IN]
    assert error.startswith("Expected all tensors to be on the same device")  # a loss that forgets


SERVER = """
import sys, torch

def used(*_):
    raise AssertionError("the server uses CUDA")

cuda = torch.cuda
cuda._lazy_init = cuda.init = cuda.is_available = cuda.device_count = torch._C._cuda_init = used
from novograd.compare.server import BUILT_IN, preload, threads
for task in BUILT_IN:
    preload(sys.argv[1], task)
if sys.argv[1] == "jax":
    from jax._src import xla_bridge
    assert not xla_bridge.backends_are_initialized()
print(threads())
"""


@pytest.mark.parametrize("framework", some(devices.WITH_GPU, kept=["torch"]))
def test_the_server_does_not_use_the_gpu(framework):
    assert python(["-c", SERVER, framework], framework, "cuda") == ["1"]
