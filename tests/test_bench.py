"""``novograd bench``: its measurements, its output, its errors and its exit."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from novograd import cli, native
from novograd.bench import peers, report, runner
from novograd.bench.shapes import SHAPES
from novograd.bench.timing import BOUND
from novograd.conformance import verify
from novograd.conformance.verify import Framework
from novograd.processes import ProgramError

# MONAI seems not installed, and importing pytorch_optimizer fails.
OTHER_PEERS = """
import sys
from importlib import metadata
real = metadata.version
def version(package):
    if package == "monai":
        raise metadata.PackageNotFoundError(package)
    return "9.9" if package == "pytorch_optimizer" else real(package)
metadata.version = version
sys.modules["pytorch_optimizer"] = None
"""
OURS = ("NovoGrad", "NovoGrad, foreach")


@pytest.fixture
def command():
    return lambda *arguments: CliRunner().invoke(cli.app, ["bench", *arguments])


def words(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Runs the benchmark in PyTorch; returns the printed text and the content of the file."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "sitecustomize.py").write_text(OTHER_PEERS)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    arguments = ["bench", "--framework", "torch", "--shapes", "u-net,tiny", "--rounds", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            runner.FRAMEWORKS,
            "torch",
            Framework("PyTorch", "torch", ("torch",), {"PYTHONPATH": path}),
        )
        output = folder / "figures.json"
        done = CliRunner(env={"COLUMNS": "80"}).invoke(
            cli.app, [*arguments, "--output", str(output)]
        )
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in folder.iterdir()) == ["figures.json", "sitecustomize.py"]
    return done.output, json.loads(output.read_text())


def test_the_file_has_the_figures_and_the_environment(real):
    _, result = real
    assert (result["schema"], result["rounds"], list(result["frameworks"])) == (1, 2, ["torch"])
    assert result["processor"]
    torch = result["frameworks"]["torch"]
    assert set(torch["versions"]) <= {"torch", "timm"}
    assert torch["threads"] >= 1
    assert list(torch["results"]) == ["u-net", "tiny"]
    for figures in torch["results"].values():
        assert {torch["reference"], torch["reference_again"], *OURS} <= set(figures)
        assert (BOUND in figures) == (native.PROBLEM is None)
        for row in figures.values():
            assert 0 < row["ms_quartiles"][0] <= row["ms_median"] <= row["ms_quartiles"][1]
            assert row["ratio_to_reference"] > 0
            assert row["bytes_per_weight"] >= 14  # of a momentum buffer in int8
        assert figures[torch["reference"]]["ratio_to_reference"] == 1


def test_the_table_shows_the_figures_of_the_file_in_eighty_columns(real):
    printed, result = real
    assert max(map(len, printed.splitlines())) <= 80
    figures = result["frameworks"]["torch"]["results"]["u-net"]["NovoGrad"]
    shown = [f"{figures[key]:.2f}" for key in ("ms_median", "ratio_to_reference")]
    rows = [line.split() for line in printed.splitlines()]
    ours = [row for row in rows if row[:2] == ["NovoGrad", "24"]]
    assert len(ours) == len(result["frameworks"]["torch"]["results"])
    assert ours[0][2:4] == shown


def test_the_remarks_name_a_peer_that_cannot_be_measured(real):
    printed, result = real
    missing = "MONAI's Novograd"
    assert f"torch, {missing}: not installed: pip install monai" in words(printed)
    assert "pytorch_optimizer's NovoGrad: cannot be imported: ModuleNotFoundError" in words(printed)
    assert missing not in result["frameworks"]["torch"]["results"]["tiny"]
    assert set(result["frameworks"]["torch"]["left_out"]) == {"u-net", "tiny"}


def test_the_processes_use_the_cpu_whatever_the_environment_says(command, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    done = command("--framework", "jax", "--shapes", "u-net", "--rounds", "1")
    assert done.exit_code == 0, done.output
    assert "NovoGrad, step" in done.output


def test_the_remarks_name_the_processor_and_explain_the_rounds_and_the_repeated_reference(real):
    printed, result = real
    assert "Medians of 2 rounds" in printed
    assert result["instruction_set"] == (native.kernels and native.kernels.instruction_set())
    described = f"Processor: {result['processor']}; cores: {result['cores']}; instruction set of"
    assert f"{described} the kernels: {result['instruction_set']}." in words(printed)
    assert "`AdamW, fused, again`: the reference measured again" in words(printed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--framework", "torhc"], "did you mean 'torch'?"),
        (["--shapes", "tiny,resnet50"], "did you mean 'resnet-50'?"),
        (["--rounds", "0"], "0 is not 1 or more"),
        (["--output", "no-such-directory/figures.json"], "there is no directory no-such-directory"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(command, monkeypatch, arguments, said):
    monkeypatch.setattr(runner, "bench", lambda *_: pytest.fail("it ran"))
    result = command(*arguments)
    assert result.exit_code == 2
    assert said in words(result.output)


def test_an_existing_file_is_not_overwritten(command, monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "bench", lambda *_: pytest.fail("it ran"))
    monkeypatch.chdir(tmp_path)
    Path("figures.json").write_text("precious")
    result = command("--output", "figures.json")
    assert result.exit_code == 2
    assert "figures.json already exists" in words(result.output)
    assert Path("figures.json").read_text() == "precious"


def test_a_framework_that_is_not_installed_is_refused(command, monkeypatch):
    monkeypatch.setattr(verify, "find_spec", lambda name: None if name == "optax" else name)
    result = command("--framework", "jax")
    assert result.exit_code == 2
    assert "jax needs jax and optax: pip install jax optax" in words(result.output)
    monkeypatch.setattr(verify, "find_spec", lambda name: None)
    result = command()
    assert result.exit_code == 2
    assert "none of torch, jax, tensorflow is installed" in words(result.output)


def test_a_process_that_dies_is_reported_in_output_and_file(command, monkeypatch, tmp_path):
    monkeypatch.setitem(runner.FRAMEWORKS, "torch", Framework("Caffe", "caffe", ("torch",)))
    output = tmp_path / "figures.json"
    result = command("--framework", "torch", "--output", str(output))
    assert result.exit_code == 1
    said = "ModuleNotFoundError: No module named 'novograd.bench.caffe'"
    assert f"torch: {said}" in words(result.output)
    written = json.loads(output.read_text())["frameworks"]["torch"]
    assert written == {"results": {}, "left_out": {}, "error": said}


def told(times):
    """Returns the events of a process in which SGD takes twice the time of Adam, and Lion half."""
    yield {
        "about": {"reference": "Adam", "versions": {}, "threads": 1, "remarks": []},
        "bytes_per_weight": {"Adam": 28},
        "left_out": {"Muon": "why"},
        "optimizers": 2,
        "warm_up": 4,
    }
    for measured, factor in ("SGD", 2), ("Lion", 0.5):
        seconds = {"Adam": times, BOUND: times, measured: [factor * x for x in times]}
        yield {"measured": measured, "seconds": seconds}


def test_the_rounds_of_all_processes_count(monkeypatch):
    asked, total = [], []

    async def events(command, environment):
        rounds, shapes = int(command[-2]), command[-1]
        asked.append((shapes, rounds))
        for event in told([float(len(asked))] * rounds):
            yield event

    monkeypatch.setattr(runner, "events", events)
    shapes = ["tiny", "u-net"]
    result = runner.bench(["torch"], shapes, 5, lambda _, event: total.append(event.get("total")))
    torch = result["frameworks"]["torch"]
    assert asked == [(one, rounds) for rounds in (2, 2, 1) for one in shapes]
    tiny = torch["results"]["tiny"]  # Adam took 1 second, 1, 3, 3, 5
    assert list(tiny) == ["Adam", "SGD", "Lion", BOUND]
    assert [row["ms_median"] for row in tiny.values()] == [3000, 6000, 1500, 3000]
    assert [row["ratio_to_reference"] for row in tiny.values()] == [1, 2, 0.5, 1]
    assert (tiny["Adam"]["bytes_per_weight"], tiny["SGD"]["ratio_to_bound"]) == (28, 2)
    assert torch["left_out"] == {one: {"Muon": "why"} for one in shapes}
    assert list(filter(None, total)) == [2 * 2 * (5 + 3 * 4)]


def test_the_figures_before_a_process_that_dies_are_kept(monkeypatch):
    async def events(command, environment):
        for event in told([1.0, 1.0]):
            if command[-1] == "u-net":
                raise ProgramError("out of memory")
            yield event

    monkeypatch.setattr(runner, "events", events)
    result = runner.bench(["torch"], ["tiny", "u-net"], 6, lambda *_: None)["frameworks"]["torch"]
    assert (list(result["results"]), result["error"]) == (["tiny"], "out of memory")


def children(pid):
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux's /proc")
def test_an_interrupt_stops_the_process_and_writes_nothing(tmp_path):
    # A test runner in the background ignores the signal, and its children inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from novograd.cli import main; main()"
    )
    arguments = ["--framework", "torch", "--shapes", "tiny", "--rounds", "1000000"]
    command = [sys.executable, "-c", program, "bench", *arguments]
    output = tmp_path / "figures.json"
    with subprocess.Popen(
        [*command, "--output", str(output)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as job:
        end = time.monotonic() + 60
        while not (workers := children(job.pid)):
            assert time.monotonic() < end, "no worker started within 60 seconds"
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=30)
    assert job.returncode == 130
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_table_with_the_longest_names_fits_eighty_columns(capsys):
    row = {"ms_median": 12345.678, "ratio_to_reference": 123.45, "ratio_to_bound": 1234.5}
    figures = {name: {**row, "bytes_per_weight": 52} for name in peers.PEERS}
    figures["without the bound"] = {"ms_median": 1.0, "ratio_to_reference": 2.0}
    framework = {
        "versions": {"torch": "2.13.0+cpu"},
        "threads": 2,
        "reference": "AdamW, fused",
        "results": dict.fromkeys(SHAPES, figures),
    }
    Console(width=80).print(report.table(framework))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[3][1:] == ["MONAI's", "Novograd", "52", "12345.68", "123.45", "1234.50"]
    assert lines[6] == ["without", "the", "bound", "1.00", "2.00"]
    assert [line[0] for line in lines if line and line[0] in SHAPES] == list(SHAPES)


def test_the_remarks_name_the_shapes_that_leave_out_a_peer():
    result = {
        "processor": "an abacus",
        "cores": 1,
        "instruction_set": None,
        "rounds": 1,
        "frameworks": {
            "torch": {
                "results": {},
                "left_out": {"gpt-2": {"a": "too large", "b": "missing"}, "tiny": {"b": "missing"}},
            }
        },
    }
    assert report.remarks(result)[-2:] == ["torch, a, gpt-2: too large", "torch, b: missing"]


@pytest.mark.parametrize("framework", runner.FRAMEWORKS.values(), ids=runner.FRAMEWORKS)
def test_every_framework_has_its_module(framework):
    assert find_spec(f"novograd.bench.{framework.module}")


@pytest.mark.parametrize("name", ["bench", "verify", "compare"])
def test_the_help_has_the_exit_codes(name):
    result = CliRunner().invoke(cli.app, [name, "--help"])
    assert "130 interrupted (Ctrl-C)" in words(result.output)


@pytest.mark.parametrize("name", ["bench", "verify"])
def test_the_help_has_examples_of_one_line_each(name):
    lines = CliRunner().invoke(cli.app, [name, "--help"]).output.splitlines()
    examples = lines[lines.index("  Examples:") + 1 :][:3]
    assert all(line.startswith(f"    novograd {name}") for line in examples)
