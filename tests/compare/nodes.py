"""A Ray cluster whose nodes are on this machine, for tests."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from tests.compare.test_command import descendants, wait_for

MEMORY = 80_000_000  # bytes of the store of objects, close to the least that Ray accepts
VARIABLES = {
    "RAY_AUTH_MODE": "token",  # so that nobody else can use the cluster
    "RAY_AUTH_TOKEN": secrets.token_hex(),
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves this machine
    "RAY_worker_niceness": "0",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # A dead node is found in two seconds.
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "400",
}


class Nodes:
    """Starts nodes of a cluster; the first one is its head. All are killed at the end.

    Attributes:
        address: The address of the cluster, ``HOST:PORT``.
        client: The port for ``ray://``.
        environment: The variables that a driver needs.
    """

    def __init__(self, cpus: int) -> None:
        # Ray makes sockets in the folder, whose names must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="ray"))
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = os.environ | VARIABLES
        self.client = free_port()
        head = ["--head", "--port=0", f"--ray-client-server-port={self.client}"]
        printed = self._start("head", cpus, [*head, "--include-dashboard=false"])
        self.address = re.findall(r"ray start --address='([^']*)'", printed)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self._nodes][::-1]:
            self.kill(name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, name: str, cpus: int, **environment: str) -> None:
        """Starts another node."""
        more = [f"--address={self.address}", "--dashboard-agent-listen-port=0"]
        self._start(name, cpus, more, **environment)

    def kill(self, name: str) -> None:
        """Kills all processes of a node at once, as if its machine lost its power."""
        pids = self.pids(name)
        node = self._nodes.pop(name)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def pids(self, name: str) -> list[int]:
        """Returns the ids of all processes of a node, the main one first."""
        node = self._nodes[name]
        return [node.pid, *descendants(node.pid)]

    def processes(self) -> list[str]:
        """Returns the command lines of all processes of all nodes."""
        pids = [pid for name in self._nodes for pid in self.pids(name)]
        lines = [Path("/proc", str(pid), "cmdline") for pid in pids]
        return [line.read_text().replace("\0", " ") for line in lines if line.exists()]

    def _start(self, name: str, cpus: int, options: list[str], **environment: str) -> str:
        folder, log = self._folder / name, self._folder / f"{name}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        command += [f"--node-name={name}", f"--num-cpus={cpus}", f"--temp-dir={folder}"]
        command += [f"--object-store-memory={MEMORY}", "--min-worker-port=0", "--max-worker-port=0"]
        with log.open("wb") as file:
            self._nodes[name] = subprocess.Popen(
                command, stdout=file, stderr=file, env=self.environment | environment
            )

        def started() -> bool:
            assert self._nodes[name].poll() is None, log.read_text()
            return "block forever" in log.read_text()

        wait_for(started)
        return log.read_text()


def free_port() -> int:
    """Returns a port of this machine that nobody uses."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
