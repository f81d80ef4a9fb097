"""``novograd compare --cluster`` on real Ray clusters of this machine."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import novograd
from novograd import cli
from novograd.compare import node, tables
from novograd.compare.analysis import analyse
from novograd.compare.display import Display
from novograd.compare.plan import Run
from novograd.compare.report.page import render
from novograd.compare.travel import pack
from tests.compare.made import judged, results
from tests.compare.nodes import Nodes, free_port
from tests.compare.test_command import ended, wait_for, write

TIMES = dict.fromkeys(("step_ms", "update_ms", "node", "machine", "starts"))
GRIDS = ("--learning-rates", "adam=0.01,0.03,0.1", "--learning-rates", "sgd=0.01,0.1,1e30")
# 6 runs of the search, one of which diverges; 8 of the choice; 6 of the judgement.
OPTIONS = ("line.py", "--optimizers", "adam,sgd", *GRIDS, "--seeds", "3", "--output", "out")
LONG = 300  # seconds, for a machine that does much else
SLOW = """
import os
import time
from pathlib import Path
from novograd.compare import Segmentation
from slope import SLOPE

def slow(seed):
    Path("{folder}", "started", str(os.getpid())).touch()
    for batch in batches(seed):
        time.sleep(0.2)
        yield batch[0], SLOPE * batch[0] + 1

def pictures(inputs, outputs, targets):
    labels = np.ones((1, 2, 2), np.uint8)
    return Segmentation(labels, labels, labels)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with a task that needs a module beside it.

    Each run, which has its own process, writes its process id into the folder ``started``.
    """
    folder = tmp_path_factory.mktemp("task")
    (folder / "started").mkdir()
    (folder / "slope.py").write_text("SLOPE = 3\n")
    write(folder, SLOW.format(folder=folder), '{"batches": slow, "segmentation": pictures}')
    return folder


@pytest.fixture(scope="module")
def nodes():
    with Nodes(cpus=1) as started:
        yield started


def start(folder, *arguments, environment=None):
    """Starts the command in a folder."""
    # A test runner in the background ignores SIGINT, and its children would inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from novograd.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "compare", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment,
    )


def finish(job):
    """Returns what the command printed, with single spaces, and the exit code."""
    printed, _ = job.communicate(timeout=300)
    return " ".join(printed.replace("│", " ").split()), job.returncode


def started(folder):
    """Returns the process ids of all runs of the task that have begun."""
    return {int(path.name) for path in (folder / "started").iterdir()}


def rows(output):
    return json.loads((output / "results.json").read_text())["runs"]


@pytest.fixture(scope="module")
def local(folder):
    """Returns the results of the same comparison on this machine alone."""
    with start(folder, *OPTIONS[:-1], "local") as job:
        printed, code = finish(job)
    assert code == 0, printed
    found = rows(folder / "local")
    assert len(found) == 20
    return [row | TIMES for row in found]


def test_a_node_that_dies_costs_only_its_runs(folder, nodes, local):
    nodes.add("second", cpus=2)
    arguments = (*OPTIONS, "--cluster", nodes.address)
    with start(folder, *arguments, environment=nodes.environment) as job:
        wait_for(lambda: ended(folder / "out") >= 10, LONG)
        before = started(folder)
        # A run has just begun on the node.
        wait_for(lambda: (started(folder) - before).intersection(nodes.pids("second")), LONG)
        nodes.kill("second")
        printed, code = finish(job)
    assert code == 0, printed
    found = rows(folder / "out")
    assert [row | TIMES for row in found] == local
    assert {row["node"] for row in found} == {"head", "second"}
    assert {row["starts"] for row in found} == {1, 2}
    assert all(row["machine"].endswith(" CPUs, CPU") for row in found)
    assert (folder / "out" / "report.html").exists()
    kept = [{x.name for x in (folder / y / "pictures").iterdir()} for y in ("out", "local")]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 2


@pytest.mark.full  # other tests kill a driver on one machine, and a node of a cluster
def test_a_driver_that_dies_is_resumed_on_another_cluster(folder, nodes, local, tmp_path):
    arguments = (*OPTIONS[:-1], tmp_path / "out")
    on_head = ("--cluster", nodes.address)
    with start(folder, *arguments, *on_head, environment=nodes.environment) as job:
        wait_for(lambda: ended(tmp_path / "out") >= 2, LONG)
        job.kill()
        job.communicate()
    kept = rows(tmp_path / "out")
    with Nodes(cpus=2) as other:
        again = (*arguments, "--resume", "--cluster", other.address)
        with start(folder, *again, environment=other.environment) as job:
            wait_for(lambda: ended(tmp_path / "out") >= len(kept) + 4, LONG)
            job.send_signal(signal.SIGINT)
            printed, code = finish(job)
        assert (code, "Continue with: " in printed) == (130, True), printed
        wait_for(lambda: not any("novograd.compare.server" in x for x in other.processes()), LONG)
    interrupted = rows(tmp_path / "out")
    assert len(kept) + 4 <= len(interrupted) < 20
    with start(folder, *arguments, "--resume") as job:  # on this machine
        printed, code = finish(job)
    assert code == 0, printed
    found = rows(tmp_path / "out")
    assert all(row in found for row in (*kept, *interrupted))
    assert [row | TIMES for row in found] == local


def test_a_node_with_another_version_is_refused(folder, nodes, tmp_path):
    (tmp_path / "numpy-1.2.3.dist-info").mkdir()
    (tmp_path / "numpy-1.2.3.dist-info" / "METADATA").write_text("Name: numpy\nVersion: 1.2.3\n")
    nodes.add("old", cpus=1, PYTHONPATH=str(tmp_path))
    arguments = (*OPTIONS[:-1], tmp_path / "out", "--cluster", nodes.address)
    try:
        with start(folder, *arguments, environment=nodes.environment) as job:
            printed, code = finish(job)
    finally:
        nodes.kill("old")
    assert code == 2
    assert f"numpy is {version('numpy')} here and 1.2.3 on old" in printed
    assert not (tmp_path / "out").exists()


WAITS = """
import time
from pathlib import Path

def waiting(seed):
    Path("{folder}", "tried").touch()
    while not Path("{folder}", "killed").exists():
        time.sleep(0.1)
    return batches(seed)
"""


@pytest.mark.full
def test_a_node_that_dies_during_the_trial_is_left_out(nodes, tmp_path):
    write(tmp_path, WAITS.format(folder=tmp_path), '{"batches": waiting}')
    chosen = ("--optimizers", "adam", "--learning-rates", "adam=0.1", "--seeds", "1")
    arguments = ("line.py", *chosen, "--output", "out", "--cluster", nodes.address)
    nodes.add("third", cpus=1)
    with start(tmp_path, *arguments, environment=nodes.environment) as job:
        wait_for((tmp_path / "tried").exists, LONG)
        nodes.kill("third")
        (tmp_path / "killed").touch()
        printed, code = finish(job)
    assert code == 0, printed
    assert "1 run at a time" in printed
    assert {row["node"] for row in rows(tmp_path / "out")} == {"head"}


KILLS = """
import os, signal
from pathlib import Path

def killing(seed):
    parent = os.getppid()
    if "novograd.compare.server" in Path(f"/proc/{parent}/cmdline").read_text():  # not in the trial
        ray = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(ray), signal.SIGKILL)
        signal.pause()
    return batches(seed)
"""


@pytest.mark.full  # the test of a node that dies starts runs again too, once
def test_a_run_whose_workers_always_die_is_a_failed_row(nodes, tmp_path):
    write(tmp_path, KILLS, '{"batches": killing}')
    chosen = ("--optimizers", "adam", "--learning-rates", "adam=0.1", "--seeds", "1")
    arguments = ("line.py", *chosen, "--output", "out", "--cluster", nodes.address)
    with start(tmp_path, *arguments, environment=nodes.environment) as job:
        printed, code = finish(job)
    assert code == 1, printed
    (row,) = rows(tmp_path / "out")
    assert (row["status"], row["starts"]) == ("failed", 4)
    assert row["error"].startswith("its worker or node died 4 times: ")


class Relay:
    """Passes connections on to a port, until it is cut."""

    def __init__(self, port):
        self._to, self.open, self._pairs = port, True, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Closes all connections, and refuses new ones."""
        self.open = False
        for one in self._pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        while True:
            there = self._listener.accept()[0]
            if not self.open:
                there.close()
                continue
            here = socket.create_connection(("127.0.0.1", self._to))
            self._pairs += [there, here]
            for pair in ((there, here), (here, there)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.mark.full
def test_a_lost_connection_is_waited_for_with_a_limit(folder, nodes, tmp_path):
    relay = Relay(nodes.client)
    environment = nodes.environment | {"RAY_CLIENT_RECONNECT_GRACE_PERIOD": "5"}
    arguments = (*OPTIONS[:-1], tmp_path / "out", "--cluster", f"ray://127.0.0.1:{relay.port}")
    with start(folder, *arguments, environment=environment) as job:
        wait_for(lambda: ended(tmp_path / "out") >= 1, LONG)
        relay.cut()
        before = ended(tmp_path / "out")
        relay.open = True
        wait_for(lambda: ended(tmp_path / "out") >= before + 3, LONG)
        relay.cut()
        printed, code = finish(job)
    assert code == 1
    assert "Stopped: the connection to the cluster is lost" in printed
    assert "--resume" in printed
    assert before + 3 <= ended(tmp_path / "out") < 20


# Without a cluster


@pytest.mark.parametrize(
    ("arguments", "option", "message"),
    [
        (["--cluster", "head"], "--cluster", "must be auto, ray://HOST:PORT or HOST:PORT"),
        (["--cluster", "http://a:1"], "--cluster", "got 'http://a:1'"),
        (["--cluster", "auto", "--jobs", "2"], "--jobs", "does not go with --cluster"),
        (["--cluster", "auto", "--device", "cpu"], "--device", "does not go with --cluster"),
        (["--cluster", "auto", "--gpus-per-run", "2"], "--gpus-per-run", "from 0 to 1"),
        (["--cluster", "auto", "--cpus-per-run", "0"], "--cpus-per-run", "0 is not 1 or more"),
        (["--cpus-per-run", "4"], "--cpus-per-run", "needs --cluster"),
        (["--gpus-per-run", "1"], "--gpus-per-run", "needs --cluster"),
    ],
)
def test_bad_options_are_refused(arguments, option, message):
    result = CliRunner().invoke(cli.app, ["compare", "digits", *arguments])
    printed = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in printed
    assert message in printed


def test_the_message_names_the_missing_extra(monkeypatch):
    def find(name):
        return None if name == "ray" else find_spec(name)

    monkeypatch.setattr(sys.modules["novograd.cli.cluster"], "find_spec", find)
    result = CliRunner().invoke(cli.app, ["compare", "digits", "--cluster", "auto"])
    assert result.exit_code == 2
    assert 'pip install "novograd-optimizer[cluster]"' in result.stderr


def test_a_cluster_that_does_not_answer_is_an_error(tmp_path):
    arguments = ["digits", "--cluster", f"127.0.0.1:{free_port()}"]
    with start(tmp_path, *arguments) as job:
        printed, code = finish(job)
    assert code == 2
    assert "Invalid value for '--cluster': cannot connect to '127.0.0.1:" in printed


def test_a_cluster_without_room_for_a_run_is_refused():
    from novograd.compare.cluster import ClusterError, _room

    one = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}}
    dead = {"NodeID": "b", "Alive": False, "Resources": {"CPU": 8.0}}
    assert _room([one, dead], 1, 0) == {"a": 2}
    for cpus, gpus, said in ((4, 0, "4 CPUs and 0 GPUs"), (1, 1, "1 CPUs and 1 GPUs")):
        with pytest.raises(ClusterError, match=f"no node of the cluster has {said} for a run"):
            _room([dead, one | {"Resources": {"CPU": 2.0}}], cpus, gpus)


def test_only_the_module_of_the_cluster_imports_ray():
    root = Path(novograd.__file__).parent
    users = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"^\s*(import|from) ray\b", path.read_text(encoding="utf-8"), re.M)
    }
    assert users == {"compare/cluster.py"}


def test_own_files_travel_with_the_modules_beside_them(tmp_path, monkeypatch):
    there, sent = tmp_path / "there", tmp_path / "sent"
    for package in ("package", "data", "package/__pycache__", "package/inner"):
        (there / package).mkdir(parents=True)
    for name in ("task.py", "beside.py", "package/__init__.py", "package/words.txt"):
        (there / name).touch()
    for name in ("notes.txt", "data/numbers.npy", "package/__pycache__/x.pyc"):
        (there / name).touch()
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    sent.mkdir()
    names = ["there/task.py:other", "there/beside.py", "mine:task", "adamw", "torch.optim.RAdam"]
    assert pack(names, sent) == {
        "there/task.py:other": "beside-0/task.py:other",
        "there/beside.py": "beside-0/beside.py",
    }
    assert {str(path.relative_to(sent)) for path in sent.rglob("*") if path.is_file()} == {
        "mine.py",
        "beside-0/task.py",
        "beside-0/beside.py",
        "beside-0/package/__init__.py",
        "beside-0/package/words.txt",
    }


def test_a_crash_on_a_node_is_a_failed_row(tmp_path, monkeypatch):
    killing = "import os\nbatches = lambda seed: os.kill(os.getpid(), 9)\n"
    monkeypatch.chdir(tmp_path)
    spec = {"task": str(write(tmp_path, killing)), "framework": "torch", "optimizer": "adam"}
    spec |= {"learning_rate": 0.1, "seed": 3, "part": "test", "steps": 3, "schedule": "cosine"}
    told = node.run({**spec, "device": "cpu", "arguments": {}, "pictures": None}, "torch")
    node._local("torch", spec["task"], "torch", "cpu").__exit__()  # not only with this process
    assert (told["row"]["status"], told["row"]["error"]) == ("failed", "killed by SIGKILL")


def test_the_terminal_shows_how_many_runs_each_node_does():
    common = {"task": "line.py", "framework": "torch", "steps": 3, "schedule": "cosine"}
    runs = [Run(optimizer="adam", learning_rate=0.1, seed=i, part="test", **common) for i in (3, 4)]
    console = Console(file=StringIO(), force_terminal=True, highlight=False)
    with Display(console) as watch:
        watch(runs[0], {"event": "stage", "runs": runs})
        for run in runs:
            watch(run, {"event": "start", "node": "one"})
        watch(runs[1], {"event": "start", "node": "two"})  # its first node has died
        watch(runs[0], {"event": "result", "status": "failed", "error": "none"})
        lines = [line.description for line in watch._progress.tasks if line.visible]
    assert lines == ["all 2 runs of this stage", "two: 1 run"]
    assert "failed: none (1/2)" in console.file.getvalue()


def test_times_of_different_machines_are_not_mixed():
    runs = [*judged("novograd", 0.7, 0.8, machine="fast"), *judged("adam", 0.5, machine="slow")]
    runs += judged("adam", 0.5, 0.6, 0.7, machine="fast", step_ms=7.0)[1:]
    mixed = analyse(results(runs))
    assert mixed.machines == ("fast", "slow")
    shown = tables.times(mixed)
    assert shown.rows == (
        ("fast", "NovoGrad", "13.5", "1", "7%", "2"),
        ("fast", "Adam", "7", "1", "14%", "2"),
        ("slow", "Adam", "13", "1", "8%", "1"),
    )
    headings = [column.heading for column in tables.cost(mixed).columns]
    assert "step\nms" not in headings
    page = render(mixed, {}, [])
    assert "Speed of each optimizer on each kind of machine" in page
    assert "4 runs on fast; 1 runs on slow" in page
    alone = analyse(results(judged("novograd", 0.7, 0.8, machine="fast")))
    assert "step\nms" in [column.heading for column in tables.cost(alone).columns]
