"""Checks of options that the subcommands share."""

import difflib
from collections.abc import Callable, Iterable

import typer


def positive(value: int | None) -> int | None:
    """Checks an option that counts something.

    Raises:
        typer.BadParameter: If it is less than 1.
    """
    if value is not None and value < 1:
        raise typer.BadParameter(f"{value} is not 1 or more.")
    return value


def known(name: str, names: Iterable[str]) -> str:
    """Checks that a name is one of some, and suggests the nearest if it is not.

    Raises:
        typer.BadParameter: If it is none of them.

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
    """Returns the check of an option that takes one of some names."""
    return lambda name: None if name is None else known(name, names)


def some_of(names: Iterable[str]) -> Callable[[list[str] | None], list[str] | None]:
    """Returns the check of an option that takes several of some names, repeated or with commas."""
    return lambda given: (
        given and [known(name.strip(), names) for text in given for name in text.split(",")]
    )
