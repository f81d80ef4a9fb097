"""``novograd verify``: the checks that it runs, its output, and that it can fail."""

import asyncio
import os
import re
import sys
from contextlib import aclosing
from dataclasses import replace
from importlib.util import find_spec
from itertools import product

import pytest
from rich.console import Console
from typer.testing import CliRunner

from novograd import cli, rule
from novograd.conformance import (
    CASES,
    MOMENT_CASES,
    ROUNDING_CASES,
    VARIANT_CASES,
    report,
    verify,
)
from novograd.conformance.cases import DTYPES
from novograd.conformance.choice import chosen, features
from novograd.conformance.numpy import RuleAdapter
from novograd.conformance.verify import FRAMEWORKS, Framework, Row
from novograd.layers import Split
from novograd.processes import ProgramError, events
from novograd.variants import DOCUMENTED
from tests import test_mutants as mutants
from tests.helpers.parameters import some

WRONG_RULE = """
from novograd import rule
right = rule.numbers
rule.numbers = lambda variant, **hyper: right(variant, **hyper | {"epsilon": 1.0})
"""


@pytest.fixture
def command():
    return lambda *arguments: CliRunner().invoke(cli.app, ["verify", *arguments])


# tests/test_mutants.py runs the rule on all cases, in this process.
@pytest.mark.parametrize("options", some([(), ("--full",)], kept=[()]))
def test_the_right_rule_passes(command, options):
    result = command("--framework", "numpy", *options)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    (first,) = (line for line in lines if line[:1] == ["numpy"] and "rule" in line)
    assert first[2:4] == ["rule", "float32"]
    assert 0 < float(first[4]) < 8
    assert first[5] == "pass"
    others = ["float64", "bfloat16", "float16"]  # once for the rule and once for the kernels
    assert [line[0] for line in lines if line[2:] == ["pass"]] == 2 * others
    cases = CASES + MOMENT_CASES + ROUNDING_CASES + VARIANT_CASES
    every = 2 * len(cases)
    some = len(chosen(["rule", "native kernels"], cases))
    ran, more = (every, "") if options else (f"{some} of {every}", " --full runs all of them.")
    last = f"{ran} checks were run, with 30 steps each; 0 failed.{more}"
    assert " ".join(result.output.split()).endswith(last)


def test_a_wrong_rule_fails(command, monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WRONG_RULE)
    wrong = Framework("NumPy", "numpy", ("numpy",), {"PYTHONPATH": str(tmp_path)})
    monkeypatch.setattr(verify, "FRAMEWORKS", FRAMEWORKS | {"numpy": wrong})
    result = command("--framework", "numpy")
    assert result.exit_code == 1
    assert "fail" in result.output
    said = " ".join(result.output.split())
    assert re.search(r"numpy rule ([^:]+): MismatchError: \1, step 0, layer 0", said), said


def test_a_process_that_dies_is_reported_as_a_row(command, monkeypatch):
    missing = Framework("Caffe", "caffe", ("numpy",))
    monkeypatch.setattr(verify, "FRAMEWORKS", FRAMEWORKS | {"numpy": missing})
    result = command("--framework", "numpy")
    assert result.exit_code == 1
    said = "numpy ModuleNotFoundError: No module named 'novograd.conformance.caffe'"
    assert said in " ".join(result.output.split())


def test_only_one_of_two_frameworks_with_the_same_module_runs_the_variants(monkeypatch):
    same = {name: Framework("NumPy", "numpy", ("numpy",)) for name in ("one", "two")}
    monkeypatch.setattr(verify, "FRAMEWORKS", same)
    counts = {}

    def watch(name, event):
        counts.setdefault(name, []).append(event.get("case", ""))

    verify.verify(["two", "one"], jobs=2, full=False, watch=watch)
    # The cases that round at random, or to other dtypes, run some of the variants.
    others = (*MOMENT_CASES, *ROUNDING_CASES, *VARIANT_CASES)
    of = {case.name: case.variant.name for case in others}
    variants = {case.name for case in VARIANT_CASES}
    assert {of[name] for name in variants} <= {of.get(name) for name in counts["two"]}
    assert not variants & {*counts["one"]}


def test_a_framework_that_is_not_installed_is_refused(command, monkeypatch):
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


def test_the_table_fits_eighty_columns(capsys):
    names = ("keras-tensorflow", "2.13.0+cpu", "function, mirrored", "bfloat16")
    rows = [Row(*names, of=9, cases=2, ulps=1.234, errors=["x: wrong"]), Row("jax", "0.10", "", "")]
    Console(width=80).print(report.table(rows))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1][-3:] == ["bfloat16", "1.23", "fail"]


# The choice


@pytest.mark.parametrize("cases", [CASES, CASES + VARIANT_CASES], ids=["documented", "variants"])
@pytest.mark.parametrize("count", range(1, 8))
def test_a_choice_covers_all_features_in_few_checks(count, cases):
    names = [f"adapter {i}" for i in range(count)]
    checks = chosen(names, cases)
    assert {(name, case.dtype) for name, case in checks} == {*product(names, DTYPES)}
    every = frozenset().union(*map(features, cases))
    assert every == frozenset().union(*(features(case) for _, case in checks))
    assert {case.variant for _, case in checks} == {case.variant for case in cases}
    assert len(checks) == len({(name, case.name) for name, case in checks}) < len(cases)
    assert checks == chosen(names, cases)
    assert checks == sorted(checks, key=lambda x: (names.index(x[0]), cases.index(x[1])))


def test_a_choice_can_leave_the_variants_out_for_an_adapter():
    cases = CASES + VARIANT_CASES
    checks = chosen(["eager", "compiled"], cases, documented=["compiled"])
    assert {case.dtype for name, case in checks if name == "compiled"} == {*DTYPES}
    assert {case.name for _, case in checks} >= {case.name for case in VARIANT_CASES}
    assert {case.variant for name, case in checks if name == "compiled"} == {DOCUMENTED}


def test_a_choice_without_adapters_or_cases_is_empty():
    assert chosen([], CASES) == chosen(["adapter"], []) == []


def test_features_include_every_kind_of_change_to_a_case():
    first, *_ = CASES
    hyper = replace(first.hyper, beta1=0.0, nesterov=True)
    layers = (Split((1, 6)), *first.layers[1:])
    changes = {
        "hyper": hyper,
        "scale": 2.0,
        "zero": frozenset({3}),
        "missing": {0: frozenset({1})},
        "reload_at": 4,
        "schedule": lambda step: {"beta2": 0.5},
        "layers": layers,
    }
    assert features(replace(first, **changes)) - features(first) == {
        *("beta1 0", "nesterov", "beta1 0 and nesterov"),
        *("float32 gradients of 2", "zero gradient later", "missing gradient at first"),
        *("reload later", "schedule of beta2", "Split(sizes=(1, 6), axis=0) of ()"),
    }


# Frameworks have 2, 5 or 7 adapters. tests/test_mutants.py tests the choice for one adapter.
SPREAD = {count: chosen(map(str, range(count)), CASES) for count in (2, 5, 7)}


@pytest.mark.parametrize("count", SPREAD)
@pytest.mark.parametrize(
    ("name", "wrong"), mutants.FORMULAS, ids=lambda x: getattr(x, "__name__", x)
)
def test_a_choice_catches_wrong_formulas(monkeypatch, name, wrong, count):
    monkeypatch.setattr(rule, name, wrong)
    assert mutants.fails(RuleAdapter, [case for _, case in SPREAD[count]])


@pytest.mark.parametrize("count", SPREAD)
@pytest.mark.parametrize("adapter", mutants.WRONG_BOOKKEEPING)
def test_a_choice_catches_wrong_bookkeeping(adapter, count):
    assert mutants.fails(adapter, [case for _, case in SPREAD[count]])


# Programs


def test_a_program_is_stopped_when_nobody_reads_its_events():
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
def test_a_failed_program_reports_its_error(program, said):
    async def everything():
        return [event async for event in events([sys.executable, "-c", program], {})]

    with pytest.raises(ProgramError, match=said):
        asyncio.run(everything())
