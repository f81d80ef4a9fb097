"""Runs programs that report progress as JSON lines on standard output, a few at a time."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import IO, Any, TypeVar

Item = TypeVar("Item")
Place = TypeVar("Place")
Result = TypeVar("Result")


async def a_few_at_a_time(
    work: Callable[[Item], Awaitable[Result]], items: Iterable[Item], jobs: int
) -> list[Result]:
    """Calls a function for all items, for ``jobs`` items at once.

    Args:
        work: Called with an item.
        items: The items, in the order of the calls.
        jobs: The maximum number of calls at once.

    Returns:
        The value of ``work`` for each item, in the order of the items.

    Example:
        >>> async def double(x):
        ...     return 2 * x
        >>> asyncio.run(a_few_at_a_time(double, [1, 2, 3], jobs=2))
        [2, 4, 6]
    """
    return await on_free_places(lambda item, _: work(item), items, range(jobs))


async def on_free_places(
    work: Callable[[Item, Place], Awaitable[Result]], items: Iterable[Item], places: Iterable[Place]
) -> list[Result]:
    """Calls a function for all items, each on a place that no other call has at this time.

    Args:
        work: Called with an item and the next free place.
        items: The items, in the order of the calls.
        places: The places, such as devices. A place may be there several times.

    Returns:
        The value of ``work`` for each item, in the order of the items.

    Example:
        >>> async def named(x, place):
        ...     return f"{x} on {place}"
        >>> asyncio.run(on_free_places(named, [1, 2], places=["cuda:0", "cuda:1"]))
        ['1 on cuda:0', '2 on cuda:1']
    """
    free: asyncio.Queue[Place] = asyncio.Queue()
    for place in places:
        free.put_nowait(place)

    async def one(item: Item) -> Result:
        place = await free.get()
        try:
            return await work(item, place)
        finally:
            free.put_nowait(place)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]


class ProgramError(Exception):
    """A program ended with an exit status other than 0.

    The message is the value of ``reason``.
    """


async def events(
    command: Sequence[str], environment: Mapping[str, str]
) -> AsyncGenerator[dict[str, Any]]:
    r"""Runs a program and yields the objects that it prints.

    Close the generator to stop the program. Ctrl-C does not reach the program: the caller gets it
    and must stop the program.

    Args:
        command: The program and its arguments.
        environment: Environment variables that the program gets in addition to those of this
            process.

    Yields:
        The object of each printed line.

    Raises:
        ProgramError: If the program fails.

    Example:
        >>> import sys
        >>> async def printed():
        ...     command = [sys.executable, "-c", "print('{\"step\": 1}')"]
        ...     return [event async for event in events(command, {})]
        >>> asyncio.run(printed())
        [{'step': 1}]
    """
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                yield json.loads(line)
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise ProgramError(reason(process.returncode, errors))


def reason(status: int, errors: IO[bytes] | None = None) -> str:
    """Describes why a program failed.

    Args:
        status: The exit status, or the negative number of the signal that killed the program.
        errors: The file of the program's standard error, if it was saved.

    Returns:
        The signal, if one killed the program: its error output then rarely explains the end.
        Otherwise the last line of the error output, or the exit status if there is none.

    Example:
        >>> reason(-9), reason(3)
        ('killed by SIGKILL', 'exit status 3')
    """
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    said = b""
    if errors is not None:
        errors.seek(0)
        said = errors.read()
    lines = said.decode(errors="replace").split("\n")
    return next(filter(str.strip, reversed(lines)), f"exit status {status}")
