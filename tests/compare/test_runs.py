"""Training runs in real worker processes, in every framework.

Frameworks are only ever imported by the processes that these tests start.
"""

import asyncio
import json
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from filelock import FileLock

from novograd.compare import runner
from novograd.compare.load import load
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.plan import Settings
from novograd.compare.runner import FRAMEWORKS
from novograd.compare.tasks import BUILT_IN
from novograd.compare.worker import about, environment
from novograd.forks import Server
from novograd.processes import events
from tests.helpers.parameters import some

STEPS = 4
TIMES = {"step_ms": 0, "update_ms": 0}
DIVERGES = 1e38
# Without ``--full``, JAX leaves these out: it compiles for 5 s for each optimizer.
REPEATED_IN_JAX = ("novograd", "adam", "nadamw")


@cache
def described(task):
    return about(load(task))


def compare(output, task, framework, rates, seeds=1, steps=STEPS, extended=()):
    """Makes a comparison like the command and returns its results."""
    settings = Settings(
        task, framework, rates, seeds, steps, "constant", quick=True, extended=extended
    )
    fresh = runner.begin(settings, described(task), 2, "novograd compare")
    events = []
    results = runner.compare(fresh, settings, output, lambda *event: events.append(event))
    assert json.loads((output / runner.RESULTS).read_text()) == results
    for run in {run for run, _ in events}:
        of_run = [event["event"] for other, event in events if other == run]
        assert next(event for event in of_run if event != "stage") == "start"
        assert of_run[-1] == "result"
    return results


class Trained(dict):
    """Results by framework of short runs of the optimizers, and of a run that diverges."""

    def __init__(self, folder, all_in_jax):
        self._folder, self._all_in_jax = folder, all_in_jax

    def __missing__(self, framework):
        path = self._folder / f"trained-{framework}.json"
        with FileLock(f"{path}.lock"):  # all processes of the test run share the file
            if not path.exists():
                output = self._folder / f"trained-{framework}"
                output.mkdir()
                rates = {name: [one.middle] for name, one in OPTIMIZERS.items()}
                rates["sgd"] = [0.1, DIVERGES]
                if framework == "jax" and not self._all_in_jax:
                    for name in REPEATED_IN_JAX:
                        del rates[name]
                path.write_text(json.dumps(compare(output, "digits", framework, rates)))
        self[framework] = json.loads(path.read_text())
        return self[framework]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, worker_id, pytestconfig):
    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent
    return Trained(folder, pytestconfig.getoption("full"))


def rows(trained, framework):
    """Returns the judged runs by optimizer."""
    return {row["optimizer"]: row for row in trained[framework]["runs"] if row["part"] == "test"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_results_describe_the_runs(trained, framework):
    results = trained[framework]
    assert (results["schema"], results["status"]) == (4, "finished")
    judged = rows(trained, framework)
    assert results["planned"] == len(results["runs"]) == len(judged) + 2  # two searched with sgd
    searched = [row for row in results["runs"] if row["part"] == "validation"]
    assert sorted(len(row["evaluations"]) for row in searched) == [0, 1]  # one diverged
    for row in rows(trained, framework).values():
        assert row["status"] == "finished", row
        assert len(row["loss"]) == STEPS
        last = row["evaluations"][-1]
        assert (last["step"], last["metrics"]) == (STEPS, row["metrics"])
        needs = {*FRAMEWORKS[framework].needs, *runner.BUILT_IN_NEEDS}
        assert set(row["versions"]) == needs
        assert row["update_ms"] > 0
        assert row["step_ms"] > 0


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_lowers_the_loss(trained, framework):
    for row in rows(trained, framework).values():
        assert row["held_out_loss"] < row["loss"][0]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_optimizers_start_from_the_same_weights_and_batch(trained, framework):
    losses = {name: row["loss"] for name, row in rows(trained, framework).items()}
    assert len({loss[0] for loss in losses.values()}) == 1
    # After four steps the loss of Adam equals AdamW's: decay has no visible effect yet.
    losses.pop("adam", None)
    assert len({loss[-1] for loss in losses.values()}) == len(losses)


# The momentum of NAdamW follows another schedule in each framework.
@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "nadamw"])
def test_frameworks_train_alike(trained, optimizer):
    found = [rows(trained, framework) for framework in FRAMEWORKS]
    first, *others = (of[optimizer] for of in found if optimizer in of)
    assert others
    for row in others:
        # Frameworks add in different orders, and the differences grow with each step. TensorFlow's
        # Adam adds epsilon to the root before bias correction, the others after it.
        np.testing.assert_allclose(row["loss"], first["loss"], rtol=1e-3)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_novograd_keeps_half_of_the_state_of_adam(trained, framework):
    found = rows(trained, framework)
    weights = found["sgd"]["weight_bytes"]
    if "novograd" in found:
        assert weights < found["novograd"]["state_bytes"] < 1.01 * weights
    assert weights < found["novograd:rows"]["state_bytes"] < 1.1 * weights
    for name in {"adam", "adamw"} & {*found}:
        assert 2 * weights < found[name]["state_bytes"] < 2.01 * weights
    assert found["sgd"]["state_bytes"] == weights


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_diverged_run_is_a_row(trained, framework):
    (row,) = (row for row in trained[framework]["runs"] if row["learning_rate"] == DIVERGES)
    assert row["status"] == "diverged"
    assert len(row["loss"]) == row["diverged_at"] - 1 < STEPS


@pytest.mark.full  # the test of a fork repeats a run too
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_same_command_gives_the_same_metrics(trained, framework, tmp_path):
    (row,) = compare(tmp_path, "digits", framework, {"adamw": [OPTIMIZERS["adamw"].middle]})["runs"]
    assert row | TIMES == rows(trained, framework)["adamw"] | TIMES


# Forked runs. The server imports the framework and forks a process for each run.


@pytest.mark.full  # test_devices.py counts the threads too, with one framework
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_preloading_does_not_start_a_thread(framework):
    program = (
        "from novograd.compare.server import *\n"
        f"for task in BUILT_IN: preload({framework!r}, task, 'keras')\n"
        "print(threads())"
    )
    given = os.environ | environment(framework)
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, env=given, stdout=subprocess.PIPE, check=True).stdout
    assert int(printed.split()[-1]) == 1


@pytest.mark.parametrize("framework", some(FRAMEWORKS, kept=["tensorflow"]))
def test_a_fork_trains_like_a_fresh_process(trained, framework):
    before = rows(trained, framework)["novograd:rows"]
    spec = {
        **{name: before[name] for name in ("optimizer", "learning_rate", "seed", "part")},
        "task": "digits",
        "framework": framework,
        "steps": STEPS,
        "schedule": "constant",
        "device": "cpu",
        "arguments": {},
        "pictures": None,
    }
    command = [sys.executable, "-m", "novograd.compare.worker", json.dumps(spec)]

    async def worker_events():
        return [event async for event in events(command, environment(framework))]

    *steps, result = asyncio.run(worker_events())
    losses = [event["loss"] for event in steps if event["event"] == "step"]
    assert [float(f"{loss:.6g}") for loss in losses] == before["loss"]
    del result["event"]
    assert before | result | TIMES == before | TIMES


@pytest.mark.full  # the tests of users' tasks start fresh processes too
def test_runs_are_fresh_processes_if_an_import_starts_a_thread(trained, tmp_path, monkeypatch):
    site, output = tmp_path / "site", tmp_path / "output"
    site.mkdir()
    output.mkdir()
    (site / "sitecustomize.py").write_text(
        "import pathlib, sys, threading\n"
        "with open(pathlib.Path(__file__).with_name('started'), 'a') as file:\n"
        "    print(sys.orig_argv[2], file=file)\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    rates = {"adamw": [OPTIMIZERS["adamw"].middle]}
    (row,) = compare(output, "digits", "torch", rates)["runs"]
    assert row | TIMES == rows(trained, "torch")["adamw"] | TIMES
    started = (site / "started").read_text().split()
    assert started == ["novograd.compare.server", "novograd.compare.worker"]


FRAMEWORK_OF = {
    "brain": "tensorflow",
    "brain3d": "torch",
    "mnist": "torch",
    "speech": "jax",
    "text": "jax",
    "toy": "tensorflow",
}


# The fixture above trains digits in every framework, and test_tasks checks the data of every task.
@pytest.mark.full  # `make run` trains brain
@pytest.mark.parametrize("task", FRAMEWORK_OF)
def test_every_task_trains(tmp_path, task):
    assert task in BUILT_IN
    framework = FRAMEWORK_OF[task]
    (row,) = compare(tmp_path, task, framework, {"novograd:rows": [0.01]}, steps=3)["runs"]
    assert row["status"] == "finished", row
    assert len(row["evaluations"]) == 3
    pictures = tmp_path / runner.PICTURES / runner.picture_of(row)
    assert pictures.exists() == task.startswith("brain")
    if pictures.exists():
        with np.load(pictures) as kept:
            assert kept["images"].shape == kept["truth"].shape == kept["predicted"].shape
            assert kept["truth"].dtype == kept["predicted"].dtype == np.uint8


def test_a_crash_is_a_failed_row(tmp_path):
    settings = Settings("digits", "no_such_framework", {"adam": [0.1]}, 1, 4, "cosine", quick=True)
    fresh = runner.begin(settings, described("digits"), 2, "")
    (row,) = runner.compare(fresh, settings, tmp_path, lambda *_: None)["runs"]
    assert row["status"] == "failed"
    assert row["error"].startswith("ModuleNotFoundError: No module named")


def test_a_result_is_kept_even_if_its_worker_fails_later(tmp_path, monkeypatch):
    async def fake_events(*_):
        yield {"event": "result", "status": "finished", "metrics": {"accuracy": 1.0}}
        raise runner.ProgramError("died while cleaning up")

    monkeypatch.setattr(Server, "events", fake_events)
    (row,) = compare(tmp_path, "digits", "torch", {"adam": [0.1]})["runs"]
    assert row["status"] == "finished"


def test_a_second_instance_is_refused(tmp_path):
    refused = pytest.raises(runner.InUseError, match="another comparison is running")
    with runner.locked(tmp_path), refused, runner.locked(tmp_path):
        pass
    with runner.locked(tmp_path):
        pass


def test_results_of_another_comparison_are_refused(tmp_path):
    settings = Settings("digits", "torch", {"adam": [0.1]}, 1, 4, "cosine", quick=True)
    other = Settings("digits", "torch", {"adam": [0.1]}, 1, 5, "cosine", quick=True)
    path = tmp_path / "results.json"
    fresh = runner.begin(settings, described("digits"), 2, "")
    path.write_text(runner.dump(fresh))
    assert runner.resume(path, fresh) == fresh
    with pytest.raises(
        runner.OtherComparisonError, match=r"settings\.steps is 4 in the file and 5 now"
    ):
        runner.resume(path, runner.begin(other, described("digits"), 2, ""))
    path.write_text("{")
    with pytest.raises(runner.OtherComparisonError, match="does not contain results"):
        runner.resume(path, fresh)


def test_describing_a_missing_task_reports_the_error():
    event = asyncio.run(runner.describe("no_such_module:task", None))
    assert event["status"] == "failed"
    assert event["error"] == "ModuleNotFoundError: No module named 'no_such_module'"


@pytest.mark.full  # test_plan.py tests the plan without training
def test_a_search_whose_best_rate_is_at_an_end_goes_on(tmp_path):
    rates = {"sgd": [1e-5, 3e-5], "adamw": [1e-5, 3e-5]}
    results = compare(tmp_path, "digits", "torch", rates, seeds=2, extended=["sgd"])
    tried = {name: [] for name in rates}
    for run in results["runs"]:
        tried[run["optimizer"]].append((run["seed"], run["learning_rate"]))
    searched, best = [(0, 1e-5), (0, 3e-5)], tried["adamw"][-1][1]
    assert tried["adamw"] == [*searched[::-1], (3, best), (4, best)]
    assert {*searched, (0, 1e-4)} < {*tried["sgd"]}
    assert results["planned"] == len(results["runs"])


OWN = """
import torch

def strange(named, lr, depth):
    assert depth == (2, 3)
    assert [name for name, _ in named]
    return torch.optim.SGD([param for _, param in named], lr=lr)
"""


def test_classes_of_packages_and_functions_of_the_user_train(tmp_path):
    path = tmp_path / "own_functions.py"
    path.write_text(OWN)
    mine = f"{path}:strange"
    settings = Settings(
        "digits", "torch", {"torch.optim.RAdam": [0.01], mine: [0.1]}, 1, STEPS, "constant",
        quick=True, arguments={"torch.optim.RAdam": {"betas": (0.5, 0.6)}, mine: {"depth": (2, 3)}},
    )  # fmt: skip
    fresh = runner.begin(settings, described("digits"), 2, "")
    radam, own = runner.compare(fresh, settings, tmp_path, lambda *_: None)["runs"]
    assert (radam["status"], radam["settings"]) == ("finished", {"betas": [0.5, 0.6]})
    assert (own["status"], own["settings"]) == ("finished", {"depth": [2, 3]})
    assert own["state_bytes"] == 0
