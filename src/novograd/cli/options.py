"""Checks of options that the subcommands share."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

import typer

from novograd.conformance.verify import Framework


def positive(value: int | None) -> int | None:
    """Checks that the value of an option is at least 1.

    Raises:
        typer.BadParameter: If the value is less than 1.
    """
    if value is not None and value < 1:
        raise typer.BadParameter(f"{value} is not 1 or more.")
    return value


def known(name: str, names: Iterable[str]) -> str:
    """Checks that a name is one of the allowed ones, and suggests the most similar if it is not.

    Raises:
        typer.BadParameter: If the name is not allowed.

    Example:
        >>> known("adam", ["adam", "sgd"])
        'adam'
        >>> known("adma", ["adam", "sgd"])  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
            ...
        BadParameter: 'adma' is not one of adam, sgd; did you mean 'adam'?
    """
    allowed = list(names)
    if name in allowed:
        return name
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise typer.BadParameter(f"{name!r} is not one of {', '.join(allowed)}{hint}")


def one_of(names: Iterable[str]) -> Callable[[str | None], str | None]:
    """Returns the check of an option that accepts one of the names."""
    return lambda name: None if name is None else known(name, names)


def some_of(names: Iterable[str]) -> Callable[[list[str] | None], list[str] | None]:
    """Returns the check of an option that accepts several of the names, repeated or with commas."""
    return lambda given: (
        given and [known(name.strip(), names) for text in given for name in text.split(",")]
    )


def installed(
    given: Sequence[str] | None, there: Sequence[str], frameworks: Mapping[str, Framework]
) -> list[str]:
    """Checks that frameworks are installed.

    Args:
        given: The names on the command line.
        there: The names of the installed frameworks.
        frameworks: All frameworks by name.

    Returns:
        The given names without repetitions; the names of all installed frameworks if none is given.

    Raises:
        typer.BadParameter: If a given framework is not installed, or no framework is.

    Example:
        >>> frameworks = {"torch": Framework("PyTorch", "torch", ("torch",))}
        >>> installed(None, ["torch"], frameworks), installed(["torch"] * 2, ["torch"], frameworks)
        (['torch'], ['torch'])
    """
    names = list(dict.fromkeys(given or there))
    for name in names:
        if name not in there:
            needed = " and ".join(frameworks[name].needs)
            raise typer.BadParameter(
                f"{name} needs {needed}: pip install {needed.replace(' and ', ' ')}",
                param_hint="'--framework'",
            )
    if not names:
        raise typer.BadParameter(
            f"none of {', '.join(frameworks)} is installed.", param_hint="'--framework'"
        )
    return names
