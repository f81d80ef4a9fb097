"""Does the runs of a comparison on a Ray cluster. Only this module imports Ray.

A run is a task of Ray, which starts a process like ``novograd compare`` on one machine, see
``novograd.compare.node``. All runs of a stage are given to Ray at once. A small actor, the board,
knows where they run.
"""

import asyncio
import itertools
import logging
import os
import socket
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, cast

# Before Ray is imported: the seconds that a lost connection is waited for.
os.environ.setdefault("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "300")  # with ray://
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "300")  # on a node of the cluster

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from novograd.compare import node, runner
from novograd.compare.devices import CPU, GPU
from novograd.compare.executors import StoppedError
from novograd.compare.kinds import CLASSES
from novograd.compare.runner import FRAMEWORKS
from novograd.compare.travel import pack
from novograd.results import replace

STARTS = 4  # how often a run is started if its workers or nodes die
POLL = 1.0  # seconds between two looks at the board
REACH_TIMEOUT = 10.0  # seconds to reach the head
CLIENT_TIMEOUT = 120.0  # seconds to connect with ray://
NODE_TIMEOUT = 300.0  # seconds to start a process on every node
PACKAGES = ("novograd-optimizer", "numpy")  # must have the same versions everywhere


class ClusterError(Exception):
    """A cluster cannot be used; the message says why."""


@ray.remote(num_cpus=0, max_restarts=-1)
class _Board:
    """Knows which runs have started since the last look, and on which nodes."""

    def __init__(self) -> None:
        self._started: list[tuple[int, str]] = []

    def start(self, number: int, node_id: str) -> None:
        self._started.append((number, node_id))

    def look(self) -> list[tuple[int, str]]:
        started, self._started = self._started, []
        return started


@ray.remote(max_retries=0)  # this module starts lost runs again, and counts
def _run(
    spec: Mapping[str, Any], kind: str, expected: Mapping[str, str], board: Any, number: int
) -> dict[str, Any]:
    """Does a run on a node, see ``node.run``; if versions differ, returns only these."""
    at = ray.get_runtime_context().get_node_id()
    board.start.remote(number, at)
    found = node.versions({*expected} - {node.PYTHON})
    return {"node": at, "versions": found} | (node.run(spec, kind) if found == expected else {})


@ray.remote
def _describe(*asked: Any) -> dict[str, Any]:
    """Tries a task, see ``runner.describe``."""
    return asyncio.run(runner.describe(*asked))


@ray.remote(num_cpus=0)
def _versions(packages: Iterable[str]) -> dict[str, str]:
    return node.versions(packages)


class Cluster:
    """Does runs on a Ray cluster, until the end of the ``with`` block.

    Args:
        address: ``auto`` for the cluster of this machine, ``HOST:PORT`` for a cluster that this
            machine is a node of, or ``ray://HOST:PORT`` for any other.
        cpus: The number of CPUs that Ray reserves for each run.
        gpus: The number of GPUs that Ray reserves for each run, from 0 to 1; 0 trains on CPUs.
        names: The task and the optimizers on the command line. Their own files are sent to the
            cluster.

    Attributes:
        device: The device of every run.

    Raises:
        ClusterError: If the cluster cannot be used, or other versions of Python, NumPy or novograd
            are installed there.
    """

    def __init__(self, address: str, cpus: int, gpus: float, names: Iterable[str]) -> None:
        """See the class."""
        self.device = GPU if gpus else CPU
        self._open = ExitStack()
        self._kind = ""
        self._numbers = itertools.count()
        self._starts: dict[int, asyncio.Future[str]] = {}
        self._looking: asyncio.Task[None] | None = None
        try:
            folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
            self._names = pack(names, folder)
            self._connect(address, folder)
            self._titles = _titles()
            self._nodes = _room(ray.nodes(), cpus, gpus)
            self._expected = self._same_versions(PACKAGES)
        except BaseException:
            self._open.close()
            raise
        given = {"num_cpus": cpus, "num_gpus": gpus}
        self._run: Any = _run.options(**given)
        self._describe: Any = _describe.options(**given)
        self._board: Any = _Board.remote()

    def __enter__(self) -> Self:
        """Returns the executor."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops all runs, and leaves the cluster."""
        self._open.close()

    @property
    def jobs(self) -> int:
        """The number of runs that have room in the cluster at once."""
        return sum(self._nodes.values())

    def places(self, runs: int) -> Sequence[str]:
        """See ``novograd.compare.executors.Executor``: Ray itself lets runs wait."""
        return [self.device] * runs

    async def describe(
        self,
        task: str | None,
        framework: str | None,
        device: str,
        optimizers: Mapping[str, Mapping[str, Any]],
        steps: int | None,
    ) -> dict[str, Any]:
        """Tries a task once on the cluster, see ``novograd.compare.runner.describe``."""
        back = {self._names.get(name, name): name for name in optimizers}
        there = {name: optimizers[back[name]] for name in back}
        asked = (task and self._names.get(task, task), framework, device, there, steps)
        try:
            event = await self._describe.remote(*asked)
        except (RayError, ConnectionError) as error:
            return {"event": "result", "status": "failed", "error": _said(error)}
        rates = {back[name]: rate for name, rate in event.get("default_rates", {}).items()}
        return event | ({"default_rates": rates} if "default_rates" in event else {})

    def train(self, framework: str, kind: str) -> None:
        """Prepares the runs.

        Args:
            framework: The framework that trains.
            kind: The kind of the model, a key of ``novograd.compare.kinds.CLASSES``.

        Raises:
            ClusterError: If other versions of the framework are installed in the cluster.
        """
        of_model = CLASSES[kind][0].partition(".")[0]
        packages = (*PACKAGES, *FRAMEWORKS[framework].needs, of_model)
        self._expected, self._kind = self._same_versions(packages), kind

    async def events(self, spec: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """See ``novograd.compare.executors.Executor``.

        Yields:
            ``{"event": "start", "node"}`` when the run begins, also when it begins again; and the
            result, with ``loss``, ``evaluations``, and the ``node``, the ``machine`` and the number
            of ``starts``.
        """
        given = {**spec}
        for field in ("task", "optimizer"):
            given[field] = self._names.get(spec[field], spec[field])
        failure = ""
        for starts in range(1, STARTS + 1):
            number = next(self._numbers)
            started = self._starts[number] = asyncio.get_running_loop().create_future()
            answer = asyncio.ensure_future(self._answer(given, number))
            self._look()
            try:
                await asyncio.wait((started, answer), return_when=asyncio.FIRST_COMPLETED)
                if not answer.done():
                    yield {"event": "start", "node": self._title(started.result())}
                told = await answer
            except RayTaskError as error:
                yield {"event": "result", "status": "failed", "error": _said(error)}
                return
            except RayError as error:
                failure = f"its worker or node died {starts} times: {_said(error)}"
                continue
            except ConnectionError as error:
                raise StoppedError(f"the connection to the cluster is lost: {error}") from None
            finally:
                answer.cancel()
                del self._starts[number]
            title = self._title(told["node"])
            if "row" not in told:
                raise StoppedError(node.difference(self._expected, told["versions"], title))
            if not started.done():
                yield {"event": "start", "node": title}
            if told["pictures"]:
                path = Path(spec["pictures"])
                path.parent.mkdir(parents=True, exist_ok=True)
                replace(path, told["pictures"])
            yield {"event": "result", **told["row"], "node": title, "starts": starts}
            return
        yield {"event": "result", "status": "failed", "error": failure, "starts": STARTS}

    async def _answer(self, spec: Mapping[str, Any], number: int) -> dict[str, Any]:
        return await self._run.remote(spec, self._kind, self._expected, self._board, number)

    def _look(self) -> None:
        """Begins to look at the board, if nobody does in this event loop."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_again())

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            try:
                started = await self._board.look.remote()
            except (RayError, ConnectionError):  # the board starts again; the runs tell the rest
                continue
            for number, node_id in started:
                if number in self._starts and not self._starts[number].done():
                    self._starts[number].set_result(node_id)

    def _title(self, node_id: str) -> str:
        """Returns the name of a node, which may have joined the cluster a moment ago."""
        if node_id not in self._titles:
            self._titles = _titles()
        return self._titles[node_id]

    def _connect(self, address: str, folder: Path) -> None:
        def init() -> object:
            return ray.init(
                address,
                runtime_env={"working_dir": str(folder)},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )

        try:
            if address != "auto":  # Ray would wait for minutes
                host, _, port = address.removeprefix("ray://").rpartition(":")
                socket.create_connection((host, int(port)), REACH_TIMEOUT).close()
            # With ray://, Ray may wait forever, see docs/cluster.md.
            _within(CLIENT_TIMEOUT, init) if address.startswith("ray://") else init()
        except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
            raise ClusterError(f"cannot connect to {address!r}: {_said(error)}") from None
        self._open.callback(ray.shutdown)

    def _same_versions(self, packages: Iterable[str]) -> dict[str, str]:
        """Returns the versions of packages on this machine, which are the same on every node.

        A node that has died is left out: no run will go there.
        """
        here, ask = node.versions(packages), cast(Any, _versions)
        asked = {
            node_id: ask.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
            ).remote(packages)
            for node_id in self._nodes
        }
        differences = []
        for node_id, answer in asked.items():
            name = self._title(node_id)
            try:
                differences.append(
                    node.difference(here, ray.get(answer, timeout=NODE_TIMEOUT), name)
                )
            except (RayError, ConnectionError) as error:
                if isinstance(error, RayError) and not _alive(node_id):
                    del self._nodes[node_id]
                    continue
                raise ClusterError(f"the node {name} cannot do runs: {_said(error)}") from None
        if not self._nodes:
            raise ClusterError("all nodes of the cluster that have room for a run have died")
        if any(differences):
            raise ClusterError("; ".join(filter(None, differences)))
        return here


def _room(nodes: Iterable[Mapping[str, Any]], cpus: int, gpus: float) -> dict[str, int]:
    """Returns the number of runs that each node has room for, without nodes that have none.

    Raises:
        ClusterError: If no node has room.

    Example:
        >>> node = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}
        >>> _room([node], 2, 0), _room([node], 2, 0.5)
        ({'a': 4}, {'a': 2})
    """
    runs = {}
    for one in nodes:
        has = one["Resources"]
        of_gpus = int(has.get("GPU", 0) / gpus) if gpus else None
        of_cpus = int(has.get("CPU", 0) / cpus)
        fit = of_cpus if of_gpus is None else min(of_cpus, of_gpus)
        if one["Alive"] and fit:
            runs[one["NodeID"]] = fit
    if not runs:
        raise ClusterError(f"no node of the cluster has {cpus} CPUs and {gpus:g} GPUs for a run")
    return runs


def _within(seconds: float, work: Callable[[], object]) -> None:
    """Calls a function in a thread.

    Raises:
        TimeoutError: If it needs longer. The thread then ends with the process.
    """
    done = Future[object]()

    def call() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        done.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer in {seconds:g} s; try it again") from None


def _titles() -> dict[str, str]:
    """Returns the names of all nodes by their ids."""
    return {one["NodeID"]: one["NodeName"] for one in ray.nodes()}


def _alive(node_id: str) -> bool:
    """Returns whether a node still belongs to the cluster."""
    return any(one["Alive"] for one in ray.nodes() if one["NodeID"] == node_id)


def _said(error: BaseException) -> str:
    """Returns the message of an error in one line."""
    cause = getattr(error, "cause", None)
    return " ".join(str(cause or error).split())
