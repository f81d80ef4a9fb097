"""The options of ``novograd compare`` for a Ray cluster."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from novograd.compare.devices import CPU, GPU

if TYPE_CHECKING:  # Ray is imported only for --cluster
    from novograd.compare.cluster import Cluster

FORM = "auto|ray://HOST:PORT|HOST:PORT"
GPUS: Mapping[str, Sequence[str]] = {CPU: [], GPU: ["GPU"]}  # each run tells which GPU it was


def address(given: str | None) -> str | None:
    """Checks the form of ``--cluster``.

    Raises:
        typer.BadParameter: If it is not the address of a cluster.

    Example:
        >>> address("ray://head:10001")
        'ray://head:10001'
    """
    if given is None or re.fullmatch(r"auto|(ray://)?[^\s:/]+:[0-9]+", given):
        return given
    raise typer.BadParameter(f"must be auto, ray://HOST:PORT or HOST:PORT, got {given!r}")


def gpus(given: float | None) -> float | None:
    """Checks the value of ``--gpus-per-run``.

    Raises:
        typer.BadParameter: If it is not from 0 to 1.
    """
    if given is None or 0 <= given <= 1:
        return given
    raise typer.BadParameter(f"must be from 0 to 1, because a run uses one GPU, got {given:g}")


@contextmanager
def connected(
    given: str | None,
    cpus_per_run: int | None,
    gpus_per_run: float | None,
    names: Sequence[str],
    others: Mapping[str, bool],
    console: Console,
) -> "Iterator[Cluster | None]":
    """Yields the cluster of ``--cluster``, or None without this option.

    Args:
        given: The value of ``--cluster``.
        cpus_per_run: The value of ``--cpus-per-run``.
        gpus_per_run: The value of ``--gpus-per-run``.
        names: The task and the optimizers on the command line.
        others: Whether the options that a cluster excludes are given, by their names.
        console: Shows that the connection is made.

    Raises:
        typer.BadParameter: If the options do not fit, or the cluster cannot be used.
    """
    if given is None:
        for option, value in (("--cpus-per-run", cpus_per_run), ("--gpus-per-run", gpus_per_run)):
            if value is not None:
                raise typer.BadParameter("needs --cluster", param_hint=f"'{option}'")
        yield None
        return
    for option in (option for option, is_given in others.items() if is_given):
        raise typer.BadParameter(
            "does not go with --cluster; use --cpus-per-run and --gpus-per-run",
            param_hint=f"'{option}'",
        )
    if find_spec("ray") is None:
        raise typer.BadParameter(
            'needs ray: pip install "novograd-optimizer[cluster]"', param_hint="'--cluster'"
        )
    from novograd.compare.cluster import Cluster, ClusterError

    try:
        with console.status(f"connecting to the cluster {given}"):
            cluster = Cluster(given, cpus_per_run or 1, gpus_per_run or 0, names)
        with cluster:
            yield cluster
    except ClusterError as error:
        raise typer.BadParameter(str(error), param_hint="'--cluster'") from None
