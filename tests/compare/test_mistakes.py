"""Mistakes in a user's task: each is named, before the first run and during the runs."""

import itertools
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from novograd import cli
from novograd.compare import Segmentation, Task, mistakes, worker
from novograd.compare.load import load
from novograd.compare.worker import environment
from tests.compare.test_command import write
from tests.helpers.parameters import some

STEPS = 4


def model(seed):
    torch.manual_seed(seed)
    return torch.nn.Linear(1, 1)


def pairs(count, length=8, others=8):
    """Returns batches of random inputs, and of targets of perhaps another length."""
    random = np.random.default_rng(0)
    sizes = [(length, 1), (others, 1)]
    return [tuple(random.standard_normal(size, np.float32) for size in sizes) for _ in range(count)]


def error(outputs, targets):
    return ((outputs - targets) ** 2).mean()


def spoilt(value, part):
    """Returns a batch with a value in its inputs (part 0) or in its targets (part 1)."""
    (batch,) = pairs(1)
    batch[part][3] = value
    return batch


def task(**changes):
    """Returns a task that takes milliseconds."""
    usual = {
        "model": model,
        "batches": lambda seed: itertools.cycle(pairs(3)),
        "test": lambda: pairs(2),
        "loss": error,
        "metric": lambda *arrays: {"error": error(*arrays)},
        "higher_is_better": False,
        "steps": STEPS,
    }
    return Task(**{**usual, **changes})


@pytest.fixture
def outcome(monkeypatch):
    """Returns the last event of a process that tries a task or, with an optimizer, trains it."""

    def last(task, optimizer=None):
        monkeypatch.setattr(worker, "load", lambda name: task)
        trial = {"task": "made", "framework": None, "device": "cpu", "optimizers": {}}
        run = {"learning_rate": 0.01, "seed": 3, "part": "test", "schedule": "constant"}
        more = {"framework": "torch", "arguments": {}, "pictures": None} if optimizer else {}
        spec = {**trial, **run, **more, "optimizer": optimizer, "steps": STEPS}
        return [*worker._events(spec)][-1]

    return last


def test_a_task_without_mistakes_is_described(outcome):
    event = outcome(task(validation=lambda: pairs(1), margin=0.1))
    assert [event[name] for name in ("event", "framework", "kind")] == ["task", "torch", "torch"]
    assert (event["validated"], event["margin"]) == (True, 0.1)
    assert outcome(task(), "novograd:rows")["status"] == "finished"


PARTS = "task.{} must return batches, each a pair of inputs and targets, as in [(inputs, targets)]"
METRIC = "task.metric must return a dict of one or more finite numbers by name, got"
MODELS = (
    "task.model must return a keras.Model, a torch.nn.Module, a flax.nnx.Module or an "
    "equinox.Module, got"
)


class Pair(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x), x


ONE_MODEL = model(0)
MISTAKES = {
    "no function": ({"test": pairs(1)}, "task.test must be a function, got a list of length 1"),
    "no margin": ({"margin": 0}, "task.margin must be a positive number or None, got 0"),
    "no steps": ({"steps": 0}, "task.steps must be an integer of at least 1, got 0"),
    "model: a number": ({"model": lambda seed: 3}, f"{MODELS} 3 of type int"),
    "model: nothing": ({"model": lambda seed: None}, f"{MODELS} None"),
    "model: the same one": (
        {"model": lambda seed: ONE_MODEL},
        "task.model must build a new model in each call, got the same object again",
    ),
    "model: two outputs": (
        {"model": lambda seed: Pair(1, 1)},
        "the output of the model must be a tensor, got a tuple of length 2",
    ),
    "loss: a vector": (
        {"loss": lambda outputs, targets: (outputs - targets) ** 2},
        "task.loss must return a scalar tensor, such as the mean over the batch, got a tensor of "
        "shape (8, 1)",
    ),
    "loss: a float": (
        {"loss": lambda outputs, targets: error(outputs, targets).item() * 0},
        "task.loss must return a scalar tensor of the framework, got 0.0 of type float",
    ),
    "loss: NumPy": (
        {"loss": lambda outputs, targets: error(outputs, targets).detach().numpy()},
        "task.loss must return a scalar tensor of the framework, got a NumPy array of shape ()",
    ),
    "loss: nothing": ({"loss": lambda *_: None}, "tensor of the framework, got None"),
    "loss: detached": (
        {"loss": lambda outputs, targets: error(outputs, targets).detach()},
        "task.loss must depend on the weights of the model",
    ),
    "loss: infinite": (
        {"loss": lambda outputs, targets: error(outputs, targets) * torch.inf},
        "task.loss must be finite before the first step, got inf",
    ),
    "loss: infinite gradient": (
        {"loss": lambda outputs, targets: (outputs - outputs).sqrt().mean()},
        "task.loss must be finite after a step with the learning rate 0, got nan",
    ),
    "metric: a number": ({"metric": lambda *_: 0.5}, f"{METRIC} 0.5 of type float"),
    "metric: nothing": ({"metric": lambda *_: None}, f"{METRIC} None"),
    "metric: empty": ({"metric": lambda *_: {}}, f"{METRIC} an empty dict"),
    "metric: a text": (
        {"metric": lambda *_: {"a": "x"}},
        f"{METRIC} 'x' of type str for 'a'",
    ),
    "metric: an array": (
        {"metric": lambda *arrays: {"a": arrays[0]}},
        f"{METRIC} a NumPy array of shape (8, 1) for 'a'",
    ),
    "metric: NaN": (
        {"metric": lambda *_: {"a": 1.0, "b": np.float64("nan")}},
        "for 'b'",
    ),
    "metric: no names": ({"metric": lambda *_: {0: 0.5}}, f"{METRIC} 0.5 of type float for 0"),
    "test: a single batch": (
        {"test": lambda: pairs(1)[0]},
        f"{PARTS.format('test()')}; batch 1 is a NumPy array of shape (8, 1)",
    ),
    "test: nothing": ({"test": lambda: None}, "task.test() must return batches, got None"),
    "test: empty": (
        {"test": lambda: iter([])},
        "task.test() must return one batch or more, got none",
    ),
    "test: no targets": (
        {"test": lambda: [pairs(1)[0][:1]]},
        f"{PARTS.format('test()')}; batch 1 is a tuple of length 1",
    ),
    "test: NaN": (
        {"test": lambda: [*pairs(1), spoilt(np.nan, 0)][::-1]},
        "task.loss is nan, because the inputs of a validation or test batch contain NaN",
    ),
    "validation: a single batch": (
        {"validation": lambda: pairs(1)[0]},
        f"{PARTS.format('validation()')}; batch 1 is a NumPy array of shape (8, 1)",
    ),
    "validation: empty": (
        {"validation": lambda: iter([])},
        "task.validation() must return one batch or more, got none",
    ),
    "batches: nothing": (
        {"batches": lambda seed: None},
        "task.batches(0) must return batches, got None",
    ),
    "batches: none": (
        {"batches": lambda seed: []},
        "task.batches(0) must return one batch or more, got none",
    ),
    "batches: too few": (
        {"batches": lambda seed: pairs(STEPS - 1)},
        f"task.batches(0) must yield {STEPS} batches or more, one for each step, got {STEPS - 1}",
    ),
    "batches: no pair": (
        {"batches": lambda seed: [{"inputs": 1, "targets": 2}]},
        f"{PARTS.format('batches(0)')}; batch 1 is a dict of length 2",
    ),
    "batches: lengths": (
        {"batches": lambda seed: pairs(STEPS, 8, 7)},
        "the inputs and the targets of batch 1 of task.batches(0) must have the same length, got 8 "
        "and 7",
    ),
    "batches: lists": (
        {"batches": lambda seed: [([1.0, 2.0], [3.0, 4.0])] * STEPS},
        "batch 1 of task.batches(0) must contain arrays, or tuples of arrays, with an axis for the "
        "examples, got 1.0 of type float",
    ),
    "batches: infinity": (
        {"batches": lambda seed: [spoilt(np.inf, 1)] * STEPS},
        "task.loss is inf, because the targets of a training batch contain NaN or infinity",
    ),
    "segmentation: nothing": (
        {"segmentation": lambda *_: None},
        "task.segmentation must return a Segmentation, got None",
    ),
    "segmentation: shapes": (
        {"segmentation": lambda *arrays: Segmentation(*arrays)},
        "height, width); got (16, 1), (16, 1), (16, 1)",
    ),
}
# Mistakes that are not in one function of the task.
NO_LINE = {
    "no function",
    "no margin",
    "no steps",
    "model: two outputs",
    "loss: detached",
    "loss: infinite",
    "loss: infinite gradient",
    "test: NaN",
    "batches: infinity",
    "batches: too few",
    "segmentation: shapes",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_line(outcome, name):
    changes, message = MISTAKES[name]
    event = outcome(task(**changes))
    assert event["status"] == "failed"
    assert message in event["error"]
    assert ("test_mistakes.py" in event["traceback"]) == (name not in NO_LINE)


def later(*values):
    """Returns a function that computes a value like the first function, and then like the second.

    A function takes the number of the call and the arguments.
    """
    calls = itertools.count()
    return lambda *arguments: values[next(calls) >= STEPS // 2](*arguments)


LATER = {
    "loss: a vector": (
        {"loss": later(error, lambda outputs, targets: outputs - targets)},
        "such as the mean over the batch, got a tensor of shape (8, 1)",
    ),
    "loss: an error": (
        {"loss": later(error, lambda outputs, targets: outputs.no_mean())},
        "AttributeError: 'Tensor' object has no attribute 'no_mean'",
    ),
    "metric: NaN": (
        {"metric": later(lambda *_: {"a": 1.0}, lambda *_: {"a": np.nan})},
        "for 'a'",
    ),
    "batches: no pair": (
        {"batches": lambda seed: [*pairs(2), np.ones((2, 8, 1), np.float32), *pairs(3)]},
        "batch 3 is a NumPy array of shape (2, 8, 1)",
    ),
    "batches: NaN": (
        {"batches": lambda seed: [*pairs(2), spoilt(np.nan, 0), *pairs(3)]},
        "task.loss is nan, because the inputs of a training batch contain NaN or infinity",
    ),
    "batches: too few": (
        {"batches": lambda seed: pairs(STEPS - 1)},
        f"task.batches(3) must yield {STEPS} batches or more, got {STEPS - 1}",
    ),
    "sys.exit": (
        {"loss": later(error, lambda *_: sys.exit("stop"))},
        "SystemExit: stop (a task must not end its process)",
    ),
    "KeyboardInterrupt": (
        {"loss": later(error, lambda *_: signalled())},
        "KeyboardInterrupt (a task must not end its process)",
    ),
}


def signalled():
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", LATER)
def test_a_mistake_during_a_run_is_in_its_row(outcome, name):
    changes, message = LATER[name]
    event = outcome(task(**changes), "adam")
    assert (event["event"], event["status"]) == ("result", "failed")
    assert message in event["error"]


def test_a_task_that_ends_its_process_shows_its_line(outcome):
    event = outcome(task(metric=lambda *_: sys.exit(3)))
    assert event["error"] == "SystemExit: 3 (a task must not end its process)"
    assert event["traceback"].startswith("Traceback")
    assert "metric=lambda *_: sys.exit(3)" in event["traceback"]
    assert "worker.py" not in event["traceback"]


def test_missing_values_are_allowed_if_the_loss_leaves_them_out(outcome):
    def loss(outputs, targets):
        there = ~targets.isnan()
        return error(outputs[there], targets[there])

    given = {
        "batches": lambda seed: [spoilt(np.nan, 1)] * STEPS,
        "loss": loss,
        "test": lambda: [spoilt(np.nan, 1)],
        "metric": lambda outputs, targets: {"error": np.nanmean((outputs - targets) ** 2)},
    }
    assert outcome(task(**given))["event"] == "task"
    assert outcome(task(**given), "adam")["status"] == "finished"


def test_a_run_that_diverges_between_two_evaluations_is_not_a_mistake(outcome):
    broken = later(error, lambda outputs, targets: error(outputs, targets) * torch.nan)
    event = outcome(task(loss=broken, metric=lambda *_: {"a": np.nan}), "adam")
    assert (event["status"], event.get("error")) == ("diverged", None)


def test_arrays_of_other_lengths_may_be_among_the_inputs(outcome):
    class Graph(torch.nn.Linear):
        def forward(self, x):
            nodes, edges = x
            return super().forward(nodes) + edges.sum()

    def graphs():
        return [((x, np.zeros((2, 5), np.float32)), y) for x, y in pairs(STEPS)]

    given = {"model": lambda seed: Graph(1, 1), "batches": lambda seed: graphs(), "test": graphs}
    assert outcome(task(**given))["event"] == "task"


def test_batches_are_drawn_for_a_short_time_only(outcome, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(mistakes, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    drawn = []

    def batches(seed):
        for batch in itertools.cycle(pairs(3)):
            drawn.append(batch)
            yield batch

    assert outcome(task(batches=batches, steps=10**6))["event"] == "task"
    assert len(drawn) <= mistakes.DRAWING + 2


def test_an_optimizer_that_does_not_work_is_named(tmp_path, monkeypatch):
    path = write(tmp_path, "def broken(named, lr):\n    return named.no_such_method()")
    asked = {"task": str(path), "framework": None, "device": "cpu", "optimizer": None}
    (event,) = worker._events({**asked, "optimizers": {f"{path}:broken": {}}, "steps": 3})
    assert event["error"] == (
        "the optimizer broken does not work: AttributeError: 'list' object has no attribute "
        "'no_such_method'"
    )
    assert "return named.no_such_method()" in event["traceback"]
    sys.modules.pop("line")


@pytest.mark.parametrize(
    ("optimizers", "error"),
    [
        ({"torch.optim.Nope": {}}, "the optimizer Nope does not work: AttributeError: module"),
        ({"adamw": {"foo": 1}}, "the optimizer AdamW does not work: TypeError: AdamW.__init__"),
    ],
)
def test_a_wrong_name_or_argument_of_an_optimizer_shows_no_lines_of_this_package(
    tmp_path, optimizers, error
):
    asked = {"task": str(write(tmp_path, "")), "framework": None, "device": "cpu"}
    (event,) = worker._events({**asked, "optimizer": None, "optimizers": optimizers, "steps": 3})
    assert event["error"].startswith(error)
    assert event["traceback"] == ""
    sys.modules.pop("line")


@pytest.mark.parametrize(
    ("written", "message", "shown"),
    [
        ("", "line.py must define task, a novograd.compare.Task", ""),
        ("task = 3", "line.py must be a novograd.compare.Task, got 3 of type int", ""),
        ("task = (", "SyntaxError: '(' was never closed", "    task = (\n"),
        ("import sys\nsys.exit(2)", "SystemExit: 2 (a task must not", "    sys.exit(2)\n"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, monkeypatch, written, message, shown):
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "line.py"
    path.write_text(written)
    (event,) = worker._events({"task": str(path), "optimizer": None})
    assert message in event["error"]
    assert shown in event["traceback"]
    assert "load.py" not in event["traceback"]


def test_a_task_that_leaves_no_result_is_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "line.py"
    path.write_text("import os\nos._exit(0)")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["compare", "line.py", "--device", "cpu"])
    assert result.exit_code == 1
    assert "line.py cannot be trained: its process ended without a result" in result.output


OTHERS = """
import keras, os, sys
import numpy as np
from novograd.compare import Task, worker

x = np.ones((4, 2), np.float32)
task = dict(
    model=lambda seed: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]),
    batches=lambda seed: [(x, x[:, :1])] * 3,
    test=lambda: [(x, x[:, :1])],
    loss=lambda outputs, targets: keras.ops.mean((outputs - targets) ** 2),
    metric=lambda outputs, targets: {"error": np.abs(outputs - targets).mean()},
    steps=3,
)

def square(outputs, targets):
    return (outputs - targets) ** 2

def number(outputs, targets):
    return 0.5

def missing(outputs, targets):
    return outputs.no_mean()

asked = {"task": "made", "framework": None, "optimizer": None, "optimizers": {}, "steps": None}
for loss in (task["loss"], square, number, missing):
    worker.load = lambda name: Task(**{**task, "loss": loss})
    (event,) = worker._events({**asked, "device": "cpu"})
    if event["event"] == "task":
        print(event["framework"])
    else:
        print(event["error"].strip().splitlines()[-1])
        print(f", in {loss.__name__}" in event["traceback"])
"""


@pytest.mark.parametrize("framework", some(["tensorflow", "jax"], kept=["tensorflow"]))
def test_mistakes_in_other_frameworks(tmp_path, framework):
    program = tmp_path / "others.py"
    program.write_text(textwrap.dedent(OTHERS))
    given = os.environ | environment(framework)
    done = subprocess.run(
        [sys.executable, str(program)], env=given, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found, *rest = done.stdout.splitlines()
    assert found == framework
    (vector, in_square), (number, in_number), (missing, in_missing) = zip(
        rest[::2], rest[1::2], strict=True
    )
    assert vector.endswith("such as the mean over the batch, got a tensor of shape (4, 1)")
    assert number.endswith("a scalar tensor of the framework, got 0.5 of type float")
    assert "AttributeError: " in missing
    assert "no attribute" in missing
    assert (in_square, in_number, in_missing) == ("True", "True", "True")


def test_built_in_tasks_pass_the_checks():
    checked = mistakes.checked(load("toy"))
    mistakes.require_batches(checked, checked.steps)
    assert len(list(checked.test())) >= 1
