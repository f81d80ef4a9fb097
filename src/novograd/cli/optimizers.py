"""The options of ``novograd compare`` that choose optimizers and their arguments."""

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from novograd import variants
from novograd.cli.options import known
from novograd.compare.optimizers import OPTIMIZERS, is_place
from novograd.compare.plan import learning_rates

VARIANTS = tuple(f"novograd:{name}" for name in variants.BY_NAME)


def names(given: list[str] | None) -> list[str] | None:
    """Checks the names of ``--optimizers``, repeated or with commas.

    Raises:
        typer.BadParameter: If a name is neither known nor the place of a class or function.

    Example:
        >>> names(["adamw,novograd:tfa", "torch.optim.RAdam", "adamw"])
        ['adamw', 'novograd:tfa', 'torch.optim.RAdam']
    """
    found = [name.strip() for text in given or () for name in text.split(",")]
    allowed = [*OPTIMIZERS, *(name for name in VARIANTS if name not in OPTIMIZERS)]
    return list(dict.fromkeys(n if is_place(n) else known(n, allowed) for n in found))


def arguments(settings: Sequence[str], optimizers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads ``--set``.

    Args:
        settings: Texts of the form ``NAME.ARGUMENT=VALUE``.
        optimizers: The names of the compared optimizers.

    Returns:
        The arguments by optimizer. A value that is not a Python literal is a string.

    Raises:
        typer.BadParameter: If a text has another form, or no compared optimizer has this name.

    Example:
        >>> arguments(["adamw.betas=.9,.98", "adamw.fused=true"], ["adamw"])
        {'adamw': {'betas': (0.9, 0.98), 'fused': True}}
    """
    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        left, equals, text = setting.partition("=")
        name, _, argument = left.rpartition(".")
        if not equals or name not in optimizers or not argument.isidentifier():
            raise typer.BadParameter(
                f"must be NAME.ARGUMENT=VALUE, where NAME is one of {', '.join(optimizers)}, got "
                f"{setting!r}",
                param_hint="'--set'",
            )
        if argument in ("lr", "learning_rate"):
            raise typer.BadParameter(
                f"{setting!r}: use --learning-rates {name}={text}", param_hint="'--set'"
            )
        found.setdefault(name, {})[argument] = _value(text)
    return found


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def grids(
    optimizers: Sequence[str],
    given: Sequence[str],
    framework: str,
    middles: Mapping[str, float],
    quick: bool,
) -> tuple[dict[str, list[float]], list[str]]:
    """Returns the learning rates to try.

    Args:
        optimizers: The names of the compared optimizers.
        given: The values of ``--learning-rates``, of the form ``auto`` or ``NAME=RATE,...``.
        framework: The framework of the comparison.
        middles: The middles of the search that differ from the usual ones.
        quick: Whether a grid has only three rates.

    Returns:
        The learning rates of each optimizer, and the optimizers whose rates were not given.

    Raises:
        typer.BadParameter: If a value has another form, or a rate is not positive and finite.
    """
    found = {name: learning_rates(name, framework, middles.get(name), quick) for name in optimizers}
    searched = dict.fromkeys(optimizers)
    for setting in given:
        if setting == "auto":
            continue
        name, _, texts = setting.partition("=")
        try:
            rates = sorted({float(text) for text in texts.split(",")})
        except ValueError:
            rates = [math.nan]
        if name not in found or not all(0 < rate < math.inf for rate in rates):
            raise typer.BadParameter(
                f"must be auto or NAME=RATE,..., where NAME is one of {', '.join(found)} and RATE "
                f"a positive finite number, got {setting!r}",
                param_hint="'--learning-rates'",
            )
        found[name] = rates
        searched.pop(name, None)
    return found, list(searched)
