"""The main job: its data, its metric, its processes, its command line.

Frameworks are only ever imported by the worker processes which these tests start.
"""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from importlib.machinery import ModuleSpec
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from novograd import cli
from novograd.compare import brain, report, runner
from novograd.compare.runner import FRAMEWORKS, LEARNING_RATES, Run, compare, plan
from novograd.processes import ProgramError

DATA = Path(str(files("novograd.compare"))) / "data"
SHA256 = "a205e57e38527d4ab97002d37166db6f533cd3d0adee6eeecee964b28e87e018"


# Data


def test_data_file_is_the_recorded_one() -> None:
    assert hashlib.sha256((DATA / "brain.npz").read_bytes()).hexdigest() == SHA256


def test_data_file_is_remade_byte_for_byte(tmp_path: Path) -> None:
    wheel = os.environ.get("NOVOGRAD_NILEARN_WHEEL")
    if not wheel:
        pytest.skip("NOVOGRAD_NILEARN_WHEEL does not name the nilearn 0.14.1 wheel")
    made = tmp_path / "brain.npz"
    subprocess.run([sys.executable, str(DATA / "make_brain.py"), wheel, str(made)], check=True)
    assert made.read_bytes() == (DATA / "brain.npz").read_bytes()


def test_slices_can_be_halved_twice() -> None:
    _, test = brain.load(0)
    assert test.images.shape == test.labels.shape == (32, 80, 192)
    assert all(side % 4 == 0 for side in test.images.shape[1:])


def test_split_shares_no_slices_and_leaves_gaps() -> None:
    train, test = brain.split(138)
    assert (len(train), len(test)) == (90, 32)
    assert np.abs(train[:, None] - test).min() == 3  # two slices in between


def test_training_damage_depends_on_the_seed_and_test_damage_does_not() -> None:
    (train, test), (other_train, other_test) = brain.load(0), brain.load(1)
    assert not np.array_equal(train.images, other_train.images)
    assert np.array_equal(train.labels, other_train.labels)
    assert np.array_equal(test.images, other_test.images)


def test_slices_are_standardised() -> None:
    _, test = brain.load(0)
    np.testing.assert_allclose(test.images.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(test.images.std(axis=(1, 2)), 1, rtol=1e-5)


def test_batches_follow_the_seed_and_keep_images_with_their_labels() -> None:
    index = np.arange(4 * 70 * 80).reshape(4, 70, 80)
    slices = brain.Slices(index.astype(np.float32), (index % 251).astype(np.uint8))
    first, again, other = (
        list(itertools.islice(brain.batches(slices, seed), 3)) for seed in (5, 5, 6)
    )
    for batch, same in zip(first, again, strict=True):
        assert batch.images.shape == batch.labels.shape == (8, 64, 64)
        assert np.array_equal(batch.images, same.images)
        assert np.array_equal(batch.images.astype(int) % 251, batch.labels)
    assert not np.array_equal(first[0].images, other[0].images)
    assert not np.array_equal(first[0].images, first[1].images)


def test_dice_by_hand() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2])
    predicted = np.array([1, 1, 0, 2, 2, 1])
    # CSF: 1 shared of 3 found and 2 true. GM: 2 shared of 2 found and 3 true. WM: in neither.
    assert brain.dice(predicted, labels) == {"CSF": 2 / 5, "GM": 4 / 5, "WM": 1.0}
    assert brain.dice(np.array([3]), np.array([2])) == {"CSF": 1.0, "GM": 0.0, "WM": 0.0}


def best_thresholds(images: NDArray[Any], labels: NDArray[Any], bins: int = 64) -> float:
    """Mean Dice of the best three thresholds there are, found knowing the labels."""
    edges = np.quantile(images, np.linspace(0, 1, bins + 1)[1:-1])
    counts = np.zeros((4, bins + 1))
    np.add.at(counts, (labels.ravel(), 1 + np.digitize(images, edges).ravel()), 1)
    below = counts.cumsum(axis=1)
    cuts = np.array([(*c, bins) for c in itertools.combinations(range(bins + 1), 3)]).T
    scores = [
        2
        * (below[label, high] - below[label, low])
        / (below[:, high].sum(0) - below[:, low].sum(0) + below[label, -1])
        for label, (low, high) in enumerate(itertools.pairwise(cuts), start=1)
    ]
    return float(np.mean(scores, axis=0).max())


def test_thresholds_solve_the_template_but_not_the_task() -> None:
    with np.load(DATA / "brain.npz") as arrays:
        held_out = brain.split(len(arrays["t1"]))[1]
        assert best_thresholds(arrays["t1"][held_out], arrays["labels"][held_out]) > 0.9
    assert best_thresholds(*brain.load(0)[1]) < 0.5


# Runs in real worker processes


@pytest.fixture(scope="module", params=FRAMEWORKS)
def compared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What became of three good runs and one that diverges, in each framework."""
    path = tmp_path_factory.mktemp("compare") / "results.json"
    runs = [
        *plan(request.param, LEARNING_RATES, seeds=1, steps=4),
        Run(request.param, "momentum", 1e30, seed=0, steps=4),
    ]
    events: dict[Run, list[str]] = {run: [] for run in runs}
    results = compare(runs, 2, path, lambda run, event: events[run].append(event["event"]))
    assert json.loads(path.read_text()) == results
    assert list(path.parent.iterdir()) == [path]
    assert all((seen[0], seen[-1]) == ("start", "result") for seen in events.values())
    return results


def test_results_describe_the_runs(compared: dict[str, Any]) -> None:
    assert (compared["schema"], compared["task"], compared["status"]) == (1, "brain", "finished")
    assert compared["planned"] == len(compared["runs"]) == 4
    for row in compared["runs"][:3]:
        assert row["status"] == "finished"
        assert len(row["loss"]) == row["steps"] == 4
        last = row["evaluations"][-1]
        assert last["step"] == 4
        assert (
            last["mean_dice"] == row["mean_dice"] == pytest.approx(np.mean([*row["dice"].values()]))
        )
        assert set(row["dice"]) == set(brain.CLASSES)
        assert set(row["versions"]) == {*FRAMEWORKS[row["framework"]], "numpy"}
        assert row["step_ms"] > 0


def test_training_lowers_the_loss(compared: dict[str, Any]) -> None:
    for row in compared["runs"][:3]:
        assert row["loss"][-1] < row["loss"][0]


def test_optimizers_start_from_the_same_weights_and_batch(compared: dict[str, Any]) -> None:
    first, *others = (row["loss"] for row in compared["runs"][:3])
    assert all(loss[0] == first[0] and loss[-1] != first[-1] for loss in others)


def test_frameworks_train_alike(tmp_path: Path) -> None:
    rates = {"novograd": LEARNING_RATES["novograd"], "momentum": LEARNING_RATES["momentum"]}
    runs = [run for framework in FRAMEWORKS for run in plan(framework, rates, seeds=1, steps=4)]
    results = compare(runs, 2, tmp_path / "results.json", lambda *_: None)
    for optimizer in rates:
        first, *others = (
            [*row["loss"], row["test_loss"]]
            for row in results["runs"]
            if row["optimizer"] == optimizer
        )
        for losses in others:
            # Convolutions add up in another order, and each step carries that on.
            np.testing.assert_allclose(losses, first, rtol=1e-3)


def test_same_seed_gives_the_same_run(compared: dict[str, Any], tmp_path: Path) -> None:
    before = compared["runs"][0]
    run = Run(**{field.name: before[field.name] for field in fields(Run)})
    (after,) = compare([run], 1, tmp_path / "results.json", lambda *_: None)["runs"]
    assert {**after, "step_ms": 0} == {**before, "step_ms": 0}


def test_novograd_keeps_half_of_the_state_of_adam(compared: dict[str, Any]) -> None:
    novograd, adam, momentum = compared["runs"][:3]
    weights = novograd["weight_bytes"]
    assert weights < novograd["state_bytes"] < 1.01 * weights
    assert 2 * weights < adam["state_bytes"] < 2.01 * weights
    assert momentum["state_bytes"] == weights


def test_divergence_is_a_row(compared: dict[str, Any]) -> None:
    diverged = compared["runs"][3]
    assert diverged["status"] == "diverged"
    assert len(diverged["loss"]) == diverged["diverged_at"] - 1 < 4


def test_result_stands_however_its_worker_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told(*_: Any) -> Any:
        yield {"event": "result", "status": "finished"}
        raise ProgramError("died while cleaning up")

    monkeypatch.setattr(runner, "events", told)
    run = Run("tensorflow", "adam", 0.1, seed=0, steps=4)
    (row,) = compare([run], 1, tmp_path / "results.json", lambda *_: None)["runs"]
    assert row["status"] == "finished"


def test_crash_is_a_row(tmp_path: Path) -> None:
    run = Run("no_such_framework", "adam", 0.1, seed=0, steps=4)
    events: list[str] = []
    results = compare(
        [run], 1, tmp_path / "results.json", lambda _, event: events.append(event["event"])
    )
    assert events == ["start", "result"]
    (failed,) = results["runs"]
    assert failed["status"] == "failed"
    assert failed["error"].startswith("ModuleNotFoundError: No module named")


def test_worker_ends_when_nobody_listens() -> None:
    spec = {"framework": "tensorflow", "optimizer": "adam", "learning_rate": 0.01, "seed": 0}
    command = [
        sys.executable,
        "-m",
        "novograd.compare.worker",
        json.dumps({**spec, "steps": 10**6}),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        assert worker.stdout is not None
        worker.stdout.close()
        assert worker.wait(timeout=120) == 1


def children(parent: int) -> list[int]:
    """Process ids of the children of a process."""
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,pid="], check=True, capture_output=True)
    pairs = (map(int, line.split()) for line in listed.stdout.splitlines())
    return [pid for ppid, pid in pairs if ppid == parent]


def wait_for(condition: Any, seconds: float = 120) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_interrupt_keeps_what_was_finished(tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = {"--optimizer": "adam", "--seeds": "50", "--steps": "1", "--output": str(output)}
    # A test runner in the background ignores the signal, and its children inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from novograd.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "compare", *itertools.chain(*options.items())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        wait_for((output / "results.json").exists)
        wait_for(lambda: len(children(job.pid)) == 2)
        workers = children(job.pid)
        job.send_signal(signal.SIGINT)
        printed, _ = job.communicate(timeout=30)
    assert job.returncode == 130
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    results = json.loads((output / "results.json").read_text())
    assert results["status"] == "interrupted"
    ended = len(results["runs"])
    assert 0 < ended < 50
    assert all(row["status"] == "finished" for row in results["runs"])
    assert f"Interrupted: {ended} of 50 runs ended." in printed
    assert "Adam, seed 0: starts\n" in printed
    assert "one averaged brain" in printed
    picture = output / "learning-curves.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000


# Report


def row(optimizer: str, seed: int, mean_dice: float) -> dict[str, Any]:
    """A finished run as ``compare`` describes it."""
    return {
        "optimizer": optimizer,
        "learning_rate": 0.5,
        "seed": seed,
        "steps": 4,
        "status": "finished",
        "loss": [4.0, 3.0, 2.0, 1.0],
        "evaluations": [{"step": 2, "mean_dice": 0.1}, {"step": 4, "mean_dice": mean_dice}],
        "mean_dice": mean_dice,
        "dice": dict.fromkeys(brain.CLASSES, mean_dice),
        "test_loss": 1.25,
        "state_bytes": 1234,
        "step_ms": 56.7,
        "settings": {},
    }


@pytest.fixture
def results() -> dict[str, Any]:
    scores = {"novograd": (0.70, 0.74, 0.78), "adam": (0.77, 0.79, 0.80), "momentum": (0.9, 0.91)}
    runs = [
        row(name, seed, dice) for name, all_ in scores.items() for seed, dice in enumerate(all_)
    ]
    failed = {"optimizer": "momentum", "learning_rate": 0.5, "seed": 2, "steps": 4}
    runs.append({**failed, "status": "failed", "error": "KeyError: [red]"})
    return {"status": "finished", "planned": 9, "runs": runs}


def test_overlapping_ranges_are_ties(results: dict[str, Any]) -> None:
    said = report.remarks(results)
    assert "Adam and NovoGrad tie: their ranges over seeds overlap." in said
    assert "Momentum is ahead of Adam by 0.115 mean Dice." in said
    assert "Momentum, seed 2: failed: KeyError: [red]." in said


def test_one_seed_is_not_ranked(results: dict[str, Any]) -> None:
    results["runs"] = [row("novograd", 0, 0.7), row("adam", 0, 0.9)]
    said = report.remarks(results)
    assert "Adam and NovoGrad are not ranked: one seed has no spread." in said
    assert not any("ahead" in sentence for sentence in said)


def test_table_fits_eighty_columns(
    results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Console(width=80, markup=False).print(report.table(results))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "NovoGrad 0.5 0.740 (0.700-0.780) 0.74 0.74 0.74 1.250 1,234 57" in lines
    assert "Momentum 0.5 seed 2: failed" in lines


# Command line


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The command, in an empty directory that must be empty still when it was refused."""
    monkeypatch.chdir(tmp_path)
    yield lambda *arguments: CliRunner().invoke(cli.app, ["compare", *arguments])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "argument", "said"),
    [
        (["spleen"], "task", ["spleen", "brain"]),
        (["--framework", "caffe"], "--framework", ["caffe", *FRAMEWORKS]),
        (["--optimizer", "sgd"], "--optimizer", ["sgd", "novograd", "adam", "momentum"]),
        (["--seeds", "0"], "--seeds", ["0 is not 1 or more"]),
        (["--steps", "-5"], "--steps", ["-5 is not 1 or more"]),
        (["--jobs", "0"], "--jobs", ["0 is not 1 or more"]),
        (["--output", __file__], "--output", [__file__, "is a file"]),
        (["--output", __file__ + "/x"], "--output", [__file__ + "/x", "Not a directory"]),
        *(
            (["--learning-rate", text], "--learning-rate", [repr(text), "positive finite"])
            for text in ("adam", "adam=", "adam=x", "adam=0", "adam=-1", "adam=nan", "adam=inf")
        ),
        (["--learning-rate", "sgd=1"], "--learning-rate", ["'sgd=1'", "novograd, adam, momentum"]),
        (
            ["--optimizer", "adam", "--learning-rate", "momentum=1"],
            "--learning-rate",
            ["'momentum=1'", "one of adam and"],
        ),
    ],
)
def test_bad_input_is_refused(
    command: Any, arguments: list[str], argument: str, said: list[str]
) -> None:
    result = command(*arguments)
    assert result.exit_code == 2
    assert argument in result.stderr
    for words in said:
        assert words in result.stderr


@pytest.mark.parametrize(
    ("framework", "missing", "extras"),
    [
        ("tensorflow", "tensorflow", "tensorflow,keras"),
        ("torch", "keras", "torch,keras"),
        ("jax", "optax", "jax,keras"),
    ],
)
def test_missing_framework_is_refused(
    command: Any, monkeypatch: pytest.MonkeyPatch, framework: str, missing: str, extras: str
) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name == missing else find_spec(name)

    monkeypatch.setattr(sys.modules["novograd.cli.compare"], "find_spec", find)
    result = command("--framework", framework)
    assert result.exit_code == 2
    said = f"{framework} needs {missing}: pip install novograd-optimizer[{extras}]"
    assert said in result.stderr


@pytest.mark.parametrize("module", ["typer", "rich", "matplotlib"])
def test_missing_extra_is_named(module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from novograd.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert "pip install novograd-optimizer[compare]" in result.stderr
    assert result.stderr.count("\n") == 1
