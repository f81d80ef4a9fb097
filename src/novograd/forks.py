"""Runs forked from a server that has imported what they need; each is a process of its own.

A fork takes one thread along. A server therefore imports and uses nothing that starts threads, and
this is for Linux: on macOS libraries of the system start some, and Windows has no fork. The
standard library's own server of forks has one environment and one set of imports for a whole
program, and imports the program's main module again in every fork.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Self

from novograd.processes import ProgramError, reason

_LONGEST = 1 << 16  # bytes of a request
_PR_SET_PDEATHSIG = 1  # prctl: the signal that a process gets when its parent dies


class Server:
    r"""A program that calls ``serve``, seen from the process that wants its runs.

    It is started at the first run, again if it died, and stopped with all its runs at the end of
    the ``with`` block. Ctrl-C does not reach it.

    Args:
        command: The program and its arguments.
        environment: Variables of its environment that differ from ours.

    Example:
        >>> program = '''
        ... import json
        ... from novograd.forks import serve
        ... serve(lambda request: print(json.dumps({"double": 2 * request})))
        ... '''
        >>> async def doubled(server, number):
        ...     return [event async for event in server.events(number)]
        >>> with Server([sys.executable, "-c", program], {}) as server:
        ...     asyncio.run(doubled(server, 21))
        [{'double': 42}]
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """See the class."""
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Self:
        """Begins the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the server, with which its runs die."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._control is not None:
            self._control.close()

    async def events(self, request: Any) -> AsyncGenerator[dict[str, Any]]:
        """Has a request run in a fork and yields what it prints. Close the generator to kill it.

        Args:
            request: What to run, for JSON.

        Yields:
            The object of each line.

        Raises:
            ProgramError: If the run fails, or the server dies.
        """
        # Lines go through the first pair of sockets, and the exit status through the second, of
        # which an end that closes says that a process is gone.
        lines, its_lines = socket.socketpair()
        life, its_life = socket.socketpair()
        with tempfile.TemporaryFile() as errors, life:
            with its_lines, its_life:
                process = self._send(request, its_lines, errors, its_life)
            reader, writer = await asyncio.open_connection(sock=lines)
            try:
                async for line in reader:
                    if line.endswith(b"\n"):  # a run that was killed may leave half a line
                        yield json.loads(line)
            finally:
                writer.close()
            life.setblocking(False)
            status = await asyncio.get_running_loop().sock_recv(life, 16)
            if not status:
                raise ProgramError(f"its server: {reason(process.wait())}")
            if int(status):
                raise ProgramError(reason(int(status), errors))

    def _send(self, request: Any, *files: Any) -> subprocess.Popen[bytes]:
        """Sends a request, and returns the server that got it."""
        if self._process is None or self._process.poll() is not None:
            self.__exit__()
            self._control, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
            with its:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=its.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    env={**os.environ, **self._environment},
                )
        assert self._control is not None
        with contextlib.suppress(ConnectionError):  # it died just now: nobody has the files
            message = json.dumps(request).encode()
            socket.send_fds(self._control, [message], [file.fileno() for file in files])
        return self._process


def serve(work: Callable[[Any], None]) -> None:
    """Forks a run for each request of a ``Server``, until the latter is gone.

    Runs that are at work then die with this process, which must have one thread, and must end soon
    after this returns.

    Args:
        work: Called in the fork with the request; prints lines of JSON on standard output. An
            exception is the failure of the run.
    """
    control = socket.socket(fileno=os.dup(0))
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that the end of a run wakes the selector
    signal.set_wakeup_fd(wakes.fileno())
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    prctl = ctypes.CDLL(None).prctl
    server, lives = os.getpid(), dict[int, socket.socket]()
    while True:
        for key, _ in selector.select():
            if key.fileobj is woken:
                woken.recv(_LONGEST)
                _tell_ends(lives, selector)
            elif key.fileobj is control:
                message, files, *_ = socket.recv_fds(control, _LONGEST, 3)
                if not message:
                    return
                pid = os.fork()
                if pid == 0:
                    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                    if os.getppid() == server:
                        for other in (control, selector, *lives.values()):
                            other.close()
                        _run(work, json.loads(message), *files)
                    os._exit(1)
                lines, errors, life = files
                os.close(lines)
                os.close(errors)
                lives[pid] = socket.socket(fileno=life)
                selector.register(life, selectors.EVENT_READ, pid)
            elif key.data in lives:  # nobody listens to this run any more
                selector.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)


def _run(work: Callable[[Any], None], request: Any, lines: int, errors: int, life: int) -> None:
    """Does the work of a fork and ends it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.close(life)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(lines, 1)
    os.dup2(errors, 2)
    try:
        work(request)
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # never back to the server's own work


def _tell_ends(lives: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    """Sends the exit status of each run that ended."""
    for pid in list(lives):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            life = lives.pop(pid)
            with contextlib.suppress(KeyError):  # it is not there if nobody listens
                selector.unregister(life)
            with life, contextlib.suppress(ConnectionError):
                life.send(b"%d" % os.waitstatus_to_exitcode(status))
