"""Starts runs quickly: a server imports their modules once, and forks a process for each run.

A fork copies only the thread that forks. A server therefore must not import or use anything that
starts threads. For this reason it needs Linux: on macOS, system libraries start threads, and
Windows has no fork. The fork server of the standard library is not suitable: it has one environment
and one set of imports for a whole program, and imports the main module again in every fork.
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

_LONGEST = 1 << 16  # the maximum size of a request, in bytes
_PR_SET_PDEATHSIG = 1  # the option of prctl that sends a signal when the parent dies


class Server:
    r"""Starts a program that calls ``serve``, and sends requests to it.

    The program starts at the first request, and again at the next request if it died. It is stopped
    with all its runs at the end of the ``with`` block. Ctrl-C does not reach it.

    Args:
        command: The program and its arguments.
        environment: Environment variables that the program gets in addition to those of this
            process.

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
        """Stores the arguments."""
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Self:
        """Returns the server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the program and all its runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._control is not None:
            self._control.close()

    async def events(self, request: Any) -> AsyncGenerator[dict[str, Any]]:
        """Runs a request in a fork and yields the objects that it prints.

        Close the generator to kill the run.

        Args:
            request: The request, a value for JSON.

        Yields:
            The object of each printed line.

        Raises:
            ProgramError: If the run fails, or the server dies.
        """
        # The first pair of sockets carries the printed lines, and the second the exit status. If an
        # end of the second pair closes, the process at this end has ended.
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
                raise ProgramError(f"the server ended: {reason(process.wait())}")
            if int(status):
                raise ProgramError(reason(int(status), errors))

    def _send(self, request: Any, *files: Any) -> subprocess.Popen[bytes]:
        """Sends a request, and returns the process of the server."""
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
        with contextlib.suppress(ConnectionError):  # the server has just died
            message = json.dumps(request).encode()
            socket.send_fds(self._control, [message], [file.fileno() for file in files])
        return self._process


def serve(work: Callable[[Any], None]) -> None:
    """Forks a process for each request of a ``Server``, until the server object is closed.

    This process must have only one thread. It must end soon after this function returns, and the
    remaining runs die with it.

    Args:
        work: Called in the fork with the request. It prints lines of JSON on standard output. If it
            raises an exception, the run fails.
    """
    control = socket.socket(fileno=os.dup(0))
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the end of a run must wake the selector
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
                _send_statuses(lives, selector)
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
            elif key.data in lives:  # the reader of this run has closed its end
                selector.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)


def _run(work: Callable[[Any], None], request: Any, lines: int, errors: int, life: int) -> None:
    """Does the work of a forked process and ends the process."""
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
        os._exit(1)  # a fork must not return to the loop of the server


def _send_statuses(lives: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    """Sends the exit status of each run that has ended."""
    for pid in list(lives):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            life = lives.pop(pid)
            with contextlib.suppress(KeyError):  # unregistered if its reader was gone
                selector.unregister(life)
            with life, contextlib.suppress(ConnectionError):
                life.send(b"%d" % os.waitstatus_to_exitcode(status))
