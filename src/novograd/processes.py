"""Programs that tell how they get on, as JSON on their standard output; a few at a time."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import IO, Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def a_few_at_a_time(
    work: Callable[[Item], Awaitable[Result]], items: Iterable[Item], jobs: int
) -> list[Result]:
    """Works on all items, on ``jobs`` of them at once.

    Args:
        work: Called with an item.
        items: What to work on, in this order.
        jobs: The most items to work on at once.

    Returns:
        What ``work`` returned for each item, in the order of the items.

    Example:
        >>> async def double(x):
        ...     return 2 * x
        >>> asyncio.run(a_few_at_a_time(double, [1, 2, 3], jobs=2))
        [2, 4, 6]
    """
    places = asyncio.Semaphore(jobs)

    async def one(item: Item) -> Result:
        async with places:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]


class ProgramError(Exception):
    """A program ended with an exit status other than 0.

    The message is what ``reason`` says.
    """


async def events(
    command: Sequence[str], environment: Mapping[str, str]
) -> AsyncGenerator[dict[str, Any]]:
    r"""Runs a program and yields what it prints. Close the generator to stop the program.

    Ctrl-C does not reach the program by itself: it is for the caller, which then stops it.

    Args:
        command: The program and its arguments.
        environment: Variables of its environment that differ from ours.

    Yields:
        The object of each line.

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
    """Says why a program failed.

    Args:
        status: Its exit status, or the negative number of the signal that killed it.
        errors: The file of its standard error, if there is one.

    Returns:
        Its last line of error, or the signal: what a killed program said before has little to do
        with its end.

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
