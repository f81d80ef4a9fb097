"""Tests of ``--device``: names, refusals, and that everything is on the device.

No test needs a GPU.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

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
OPTIONS = (*RATE, "--seeds", "4", "--steps", "4", "--output", "out")


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Runs the command in an empty directory, on a machine without GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return lambda *arguments: CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


@pytest.fixture
def no_processes(monkeypatch):
    """Refuses to try a task or a device in a process."""
    monkeypatch.delattr(runner, "describe")


def printed(result):
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("task", ["digits", "line"])
def test_a_missing_gpu_is_refused_at_once(invoke, no_processes, tmp_path, task, device):
    given = ("digits", "--framework", "jax") if task == "digits" else (write(tmp_path),)
    before = list(tmp_path.iterdir())
    result = invoke(*given, "--device", device)
    assert result.exit_code == 2
    message = f"there is no '{device}'; the driver found: no NVIDIA GPU"
    assert f"Invalid value for '--device': {message}" in printed(result)
    assert list(tmp_path.iterdir()) == before


def driver(names, error=0):
    """Returns a driver of CUDA that finds GPUs, or whose first function has an error."""

    def count(number):
        number._obj.value = len(names)

    def get(gpu, number):
        gpu._obj.value = 100 + number

    def name(place, size, gpu):
        place.value = names[gpu.value - 100].encode()[: size - 1]

    return SimpleNamespace(
        cuInit=lambda flags: error,
        cuDeviceGetCount=count,
        cuDeviceGet=get,
        cuDeviceGetName=name,
    )


@pytest.mark.parametrize(
    ("there", "error", "names"),
    [
        ([NAME, "L4"], 0, [NAME, "L4"]),
        ([], 0, []),
        ([NAME], 100, []),  # CUDA_ERROR_NO_DEVICE
    ],
)
def test_the_driver_is_asked_for_gpus(monkeypatch, there, error, names):
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: driver(there, error))
    assert devices.gpus() == names


def test_without_a_driver_no_time_is_lost(monkeypatch):
    monkeypatch.setattr(devices, "_DRIVER", "libcuda.so.none")
    start = time.perf_counter()
    assert devices.gpus() == []
    assert time.perf_counter() - start < 0.1


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that there are GPUs on which the runs take different times."""
    here = Gpus([NAME, NAME])

    async def describe(*asked):
        here.asked.append(asked)
        return {"event": "device"} if here.usable else {**REFUSED}

    async def events(_, request):
        device = request["device"]
        assert device == devices.CPU or device not in here.busy
        here.busy.append(device)
        here.used.append(device)
        await asyncio.sleep(0.001 * len(here.used))
        done = row("adam", 0.1, 0, 0.5)
        for loss in done.pop("loss"):
            yield {"event": "step", "step": 1, "loss": loss}
        for evaluation in done.pop("evaluations"):
            yield {"event": "evaluation", **evaluation}
        yield {"event": "result", **done}
        here.busy.remove(device)

    monkeypatch.setattr(devices, "gpus", lambda: here.names)
    monkeypatch.setattr(runner, "describe", describe)
    monkeypatch.setattr(Server, "events", events)
    return here


@dataclass
class Gpus:
    names: list
    usable: bool = True
    asked: list = field(default_factory=list)
    used: list = field(default_factory=list)
    busy: list = field(default_factory=list)


REFUSED = {
    "event": "result",
    "status": "failed",
    "error": "PyTorch cannot use the GPU: CPU only",
    "refused": "--device",
}


@pytest.mark.parametrize(
    ("framework", "arguments", "used", "jobs"),
    [
        ("torch", [], ["cuda:0", "cuda:1"], 2),
        ("torch", ["--device", "cuda"], ["cuda:0", "cuda:1"], 2),
        ("torch", ["--device", "cuda:1"], ["cuda:1"], 1),
        ("torch", ["--device", "cuda", "--jobs", 1], ["cuda:0"], 1),
        ("torch", ["--device", "cpu"], ["cpu"], 2),
        ("tensorflow", [], ["cpu"], 2),
    ],
)
def test_each_run_takes_the_next_free_device(
    invoke, gpus, tmp_path, framework, arguments, used, jobs
):
    result = invoke("digits", "--framework", framework, *OPTIONS, *arguments)
    assert result.exit_code == 0, result.output
    assert sorted({*gpus.used}) == used
    results = json.loads((tmp_path / "out" / runner.RESULTS).read_text())
    assert results["jobs"] == jobs
    on_gpu = used != ["cpu"]
    assert results["machine"]["device"] == (NAME if on_gpu else "CPU")
    assert gpus.asked == ([(None, framework, used[0], {}, 4)] if on_gpu else [])
    assert (f"digits with {framework} on {NAME}: " in printed(result)) == on_gpu


def test_auto_uses_the_cpu_if_the_framework_cannot_use_the_gpu(invoke, gpus, tmp_path):
    gpus.usable = False
    result = invoke("digits", "--framework", "torch", *OPTIONS, "--device", "cuda")
    assert result.exit_code == 2
    assert f"Invalid value for '--device': {REFUSED['error']}" in printed(result)
    assert gpus.used == []
    result = invoke("digits", "--framework", "torch", *OPTIONS)
    assert result.exit_code == 0, result.output
    assert {*gpus.used} == {"cpu"}


def test_the_default_framework_supports_the_device(invoke, gpus):
    assert invoke("digits", *OPTIONS, "--device", "cuda").exit_code == 0
    assert [framework for _, framework, *_ in gpus.asked] == ["torch"]


def test_results_name_the_gpu_and_resume_refuses_another_one(invoke, tmp_path, gpus):
    options = ("digits", "--framework", "torch", *OPTIONS)
    assert invoke(*options).exit_code == 0
    path = tmp_path / "out" / runner.RESULTS
    results = json.loads(path.read_text())
    assert results["settings"]["device"] == "cuda"
    assert NAME in (tmp_path / "out" / "report.html").read_text()

    result = invoke(*options, "--device", "cpu", "--resume")
    assert result.exit_code == 2
    assert "settings.device is 'cuda' in the file and 'cpu' now" in printed(result)
    gpus.names[:] = ["NVIDIA L4"]
    result = invoke(*options, "--resume")
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
    assert on_gpu["KERAS_TORCH_DEVICE"] == "cuda"  # a run sees only its own GPU


def python(program, framework, device, *arguments, **variables):
    """Runs a program with the environment of a run, and returns the lines that it prints."""
    given = os.environ | environment(framework, device) | variables
    command = [sys.executable, *arguments, *program]
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_run_sees_only_its_own_gpu():
    asked = {"task": None, "framework": "seen", "device": "cuda:1"}
    program = (
        "import os, sys, types; from novograd.compare import devices, worker; "
        "seen = lambda: print(os.environ['CUDA_VISIBLE_DEVICES'], file=sys.stderr); "
        "sys.modules['novograd.compare.seen'] = types.SimpleNamespace(require_gpu=seen); "
        f"devices.WITH_GPU = ['seen']; os.dup2(1, 2); worker.run({asked})"
    )
    given = {"CUDA_VISIBLE_DEVICES": "4,6"}
    assert python(["-c", program], "torch", "cuda:1", **given) == ["6", '{"event": "device"}']


USES = """
import importlib, sys
from novograd.compare.devices import DeviceError
try:
    importlib.import_module(f"novograd.compare.{sys.argv[1]}").require_gpu()
except DeviceError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("framework", "title"),
    [("torch", "PyTorch"), pytest.param("jax", "JAX", marks=pytest.mark.full)],
)
def test_a_framework_without_cuda_cannot_use_a_gpu(framework, title):
    (line,) = python(["-c", USES, framework], framework, "cuda", CUDA_VISIBLE_DEVICES="")
    assert line.startswith(f"{title} cannot use the GPU: ")


@pytest.mark.full
def test_every_tensor_is_on_the_device():
    *tasks, error = python(
        ["-m", "tests.compare.fake_gpu"], "torch", "cuda", KERAS_TORCH_DEVICE="privateuseone:0"
    )
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
    preload(sys.argv[1], task, "keras")
if sys.argv[1] == "jax":
    from jax._src import xla_bridge
    assert not xla_bridge.backends_are_initialized()
print(threads())
"""


@pytest.mark.parametrize("framework", some(devices.WITH_GPU, kept=["torch"]))
def test_the_server_does_not_use_the_gpu(framework):
    assert python(["-c", SERVER, framework], framework, "cuda") == ["1"]
