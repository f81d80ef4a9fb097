"""Where the runs of a comparison are done: on this machine, or somewhere else."""

import json
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol, Self

from novograd.compare.worker import environment
from novograd.forks import Server
from novograd.processes import ProgramError, events


class StoppedError(Exception):
    """No more runs can be done; the message says why."""


class Executor(Protocol):
    """Does runs in a ``with`` block: ``Local``, or ``novograd.compare.cluster.Cluster``."""

    def __enter__(self) -> Self:
        """Returns the executor."""
        ...

    def __exit__(self, *_: object) -> None:
        """Stops all runs."""
        ...

    def places(self, runs: int) -> Sequence[str]:
        """Returns the device of each run that may be given at the same time as the others.

        Args:
            runs: The number of runs to do.
        """
        ...

    def events(self, spec: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """Does a run. Close the generator to stop it.

        Args:
            spec: See ``novograd.compare.worker``.

        Yields:
            ``{"event": "start"}`` when the run begins, and the events of the worker. The result may
            also have ``loss`` and ``evaluations``, in place of their events.

        Raises:
            ProgramError: If the run ends without a result.
            StoppedError: If no more runs can be done.
        """
        ...


class Local:
    """Does each run in its own process on this machine, until the end of the ``with`` block.

    Args:
        framework: The framework that trains.
        task: The name of the task on the command line.
        kind: The kind of the model, a key of ``novograd.compare.kinds.CLASSES``.
        places: The device of each run that may run at the same time as the others, see
            ``novograd.compare.devices.places``.
    """

    def __init__(self, framework: str, task: str, kind: str, places: Sequence[str]) -> None:
        """See the class."""
        command = [sys.executable, "-m", "novograd.compare.server", framework, task, kind]
        self._places = places
        self._server = Server(command, environment(framework, places[0]))

    def __enter__(self) -> Self:
        """Returns the executor."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops all runs."""
        self._server.__exit__()

    def places(self, runs: int) -> Sequence[str]:  # noqa: ARG002
        """See ``Executor``."""
        return self._places

    async def events(self, spec: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """See ``Executor``."""
        yield {"event": "start"}
        work = self._server.events if sys.platform == "linux" else in_new_process  # see forks
        async with aclosing(work(spec)) as told:
            async for event in told:
                yield event


def in_new_process(spec: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """Does a run in a new process, which imports everything itself, and yields its events."""
    command = [sys.executable, "-m", "novograd.compare.worker", json.dumps(spec)]
    return events(command, environment(spec["framework"], spec["device"]))


async def recorded(
    told: AsyncGenerator[dict[str, Any]], watch: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Returns the part of a row of the results that a run makes.

    Args:
        told: The events of the run.
        watch: Called with each event. The last one is a result, also if the run made none.

    Returns:
        ``loss``, ``evaluations``, and the fields of the result, see ``docs/compare.md``.

    Example:
        >>> import asyncio
        >>> async def told():
        ...     yield {"event": "step", "step": 1, "loss": 0.5}
        >>> row = asyncio.run(recorded(told(), watch=print))
        {'event': 'step', 'step': 1, 'loss': 0.5}
        {'event': 'result', 'status': 'failed', 'error': 'its process ended without a result'}
        >>> row["loss"], row["status"]
        ([0.5], 'failed')
    """
    row: dict[str, Any] = {"loss": [], "evaluations": []}

    def record(event: dict[str, Any]) -> None:
        match event:
            case {"event": "step", "loss": loss}:
                row["loss"].append(float(f"{loss:.6g}"))
            case {"event": "evaluation", **evaluation}:
                row["evaluations"].append(evaluation)
            case {"event": "result", **outcome}:
                row.update(outcome)
        watch(event)

    try:
        async with aclosing(told):
            async for event in told:
                record(event)
    except ProgramError as error:
        failure = str(error)
    else:
        failure = "its process ended without a result"  # the task has called os._exit
    if "status" not in row:  # a result is valid even if its worker then failed
        record({"event": "result", "status": "failed", "error": failure})
    return row
