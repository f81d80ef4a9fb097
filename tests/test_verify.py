"""``novograd verify``: what it runs, what it prints, and that it can fail."""

import asyncio
import os
import sys
from contextlib import aclosing
from importlib.util import find_spec

import pytest
from rich.console import Console
from typer.testing import CliRunner

from novograd import cli
from novograd.conformance import CASES, VARIANT_CASES, report, verify
from novograd.conformance.verify import FRAMEWORKS, Framework, Row
from novograd.processes import ProgramError, events

WRONG_RULE = """
from novograd import rule
right = rule.numbers
rule.numbers = lambda variant, **hyper: right(variant, **hyper | {"epsilon": 1.0})
"""


@pytest.fixture
def command():
    return lambda *arguments: CliRunner().invoke(cli.app, ["verify", *arguments])


def test_right_rule_passes(command):
    result = command("--framework", "numpy")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    (first,) = (line for line in lines if line[:1] == ["numpy"] and "rule" in line)
    assert first[2:4] == ["rule", "float32"]
    assert 0 < float(first[4]) < 8
    assert first[5] == "pass"
    others = ["float64", "bfloat16", "float16"]  # of the rule, and of the kernels
    assert [line[0] for line in lines if line[2:] == ["pass"]] == 2 * others
    assert f"{2 * len(CASES + VARIANT_CASES)} checks of 30 steps each, 0 failed." in result.output


def test_wrong_rule_fails(command, monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WRONG_RULE)
    wrong = Framework("numpy", ("numpy",), {"PYTHONPATH": str(tmp_path)})
    monkeypatch.setattr(verify, "FRAMEWORKS", FRAMEWORKS | {"numpy": wrong})
    result = command("--framework", "numpy")
    assert result.exit_code == 1
    assert "fail" in result.output
    assert "numpy rule defaults: MismatchError: defaults, step 0, layer 0" in result.output


def test_process_that_dies_is_a_row(command, monkeypatch):
    missing = Framework("caffe", ("numpy",))
    monkeypatch.setattr(verify, "FRAMEWORKS", FRAMEWORKS | {"numpy": missing})
    result = command("--framework", "numpy")
    assert result.exit_code == 1
    said = "numpy ModuleNotFoundError: No module named 'novograd.conformance.caffe'"
    assert said in " ".join(result.output.split())


def test_framework_that_is_not_installed_is_refused(command, monkeypatch):
    monkeypatch.setattr(verify, "find_spec", lambda name: None if name == "optax" else name)
    assert "jax" not in verify.installed()
    assert "torch" in verify.installed()
    result = command("--framework", "jax")
    assert result.exit_code == 2
    assert "jax needs jax and optax" in " ".join(result.output.split())


@pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_every_framework_has_its_module_and_is_installed_here(framework):
    assert find_spec(f"novograd.conformance.{framework.module}")
    assert all(map(find_spec, framework.needs))


def test_table_fits_eighty_columns(capsys):
    names = ("keras-tensorflow", "2.13.0+cpu", "function, mirrored", "bfloat16")
    rows = [Row(*names, cases=2, ulps=1.234, errors=["x: wrong"]), Row("jax", "0.10", "", "")]
    Console(width=80).print(report.table(rows))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1][-3:] == ["bfloat16", "1.23", "fail"]


def test_program_is_stopped_when_its_events_are_no_longer_wanted():
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"

    async def first():
        async with aclosing(events([sys.executable, "-c", program], {})) as told:
            return await anext(told)

    pid = asyncio.run(first())
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(pid)), 0)


@pytest.mark.parametrize(
    ("program", "said"),
    [("raise SystemExit('went wrong\\n\\n')", "went wrong"), ("raise SystemExit(3)", "status 3")],
)
def test_program_that_fails_says_why(program, said):
    async def everything():
        return [event async for event in events([sys.executable, "-c", program], {})]

    with pytest.raises(ProgramError, match=said):
        asyncio.run(everything())
