"""Runs that a server forks: their events, their errors, and that none outlives the server."""

import asyncio
import os
import signal
import sys
import time
from contextlib import aclosing

import pytest

from novograd.forks import Server
from novograd.processes import ProgramError, a_few_at_a_time

# The run executes the request as code.
PROGRAM = """
import json, os, signal, sys, time
from novograd.forks import serve

def say(**event):
    print(json.dumps(event), flush=True)

serve(lambda request: exec(request))
"""


@pytest.fixture
def server():
    with Server([sys.executable, "-c", PROGRAM], {"COLOUR": "blue"}) as served:
        yield served


def ask(server, request):
    async def told():
        return [event async for event in server.events(request)]

    return asyncio.run(told())


def gone(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_runs_share_only_their_server(server):
    told = ask(server, "say(pid=os.getpid(), parent=os.getppid()); json.changed = True")
    again = ask(server, "say(parent=os.getppid(), changed=hasattr(json, 'changed'))")
    assert told[0]["pid"] != told[0]["parent"] == again[0]["parent"]
    assert not again[0]["changed"]


def test_a_run_has_the_given_environment_and_its_own_streams(server):
    request = "say(colour=os.environ['COLOUR'], read=sys.stdin.read()); print('x', file=sys.stderr)"
    assert ask(server, request) == [{"colour": "blue", "read": ""}]


def test_runs_at_once_do_not_mix(server):
    async def told(name):
        request = f"for i in range(50): say(name={name!r}, i=i); time.sleep(0.001)"
        return [event async for event in server.events(request)]

    names = ["a", "b", "c", "d"]
    for name, said in zip(names, asyncio.run(a_few_at_a_time(told, names, jobs=3)), strict=True):
        assert said == [{"name": name, "i": i} for i in range(50)]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("raise ValueError('went wrong')", "ValueError: went wrong"),
        ("os._exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("os.write(1, b'{\"half\": '); os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("os.kill(os.getppid(), 9); time.sleep(600)", "the server ended: killed by SIGKILL"),
    ],
)
def test_a_failed_run_reports_its_error_and_the_next_run_succeeds(server, request_, said):
    with pytest.raises(ProgramError, match=f"^{said}$"):
        ask(server, request_)
    assert ask(server, "say(fine=True)") == [{"fine": True}]


def test_a_run_is_killed_when_nobody_reads_its_events(server):
    async def first():
        told = server.events("say(pid=os.getpid()); time.sleep(600)")
        async with aclosing(told):
            return (await anext(told))["pid"]

    assert gone(asyncio.run(first()))
    assert ask(server, "say(fine=True)") == [{"fine": True}]


@pytest.mark.parametrize("how", ["killed", "gone"])
def test_no_run_outlives_its_server(how):
    async def first(served):
        told = served.events("say(pids=[os.getpid(), os.getppid()]); time.sleep(600)")
        pids = (await anext(told))["pids"]
        if how == "killed":
            os.kill(pids[1], signal.SIGKILL)
        else:
            served.__exit__()
        assert all(map(gone, pids[:1]))
        await told.aclose()
        return pids

    with Server([sys.executable, "-c", PROGRAM], {}) as served:
        pids = asyncio.run(first(served))
    assert all(map(gone, pids))


def test_a_server_that_cannot_start_fails_its_runs():
    with (
        Server([sys.executable, "-c", "raise SystemExit(5)"], {}) as served,
        pytest.raises(ProgramError, match="the server ended: exit status 5"),
    ):
        ask(served, "")
