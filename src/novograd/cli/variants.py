"""``novograd variants``."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from novograd.cli.options import one_of
from novograd.step_sizes import step_sizes
from novograd.variants import BY_NAME, LIBRARIES, RULES, VARIANTS, Variant, as_dict


def variants(
    name: Annotated[
        str | None,
        typer.Argument(help="Show only this variant, with its source.", callback=one_of(BY_NAME)),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all fields of all variants as JSON.")
    ] = False,
) -> None:
    """List the published NovoGrads that can be chosen by name, as in variant="optax".

    The columns are the defaults of each variant, and the sizes of its first step and of later steps
    with a constant gradient, in units of the learning rate. The second table has libraries that
    have a rule of the first table with defaults of their own. docs/variants.md has more.

    \b
    Examples:
      novograd variants
      novograd variants monai
      novograd variants --json | jq '.[] | {name, beta1, beta2}'
    """  # noqa: D301
    shown = [variant for variant in BY_NAME.values() if name in (None, variant.name)]
    if as_json:
        typer.echo(json.dumps([_fields(variant) for variant in shown], indent=2))
        return
    console = Console(highlight=False)
    if name is None:
        console.print(_table("variant", VARIANTS), "", _table("library, and its rule", LIBRARIES))
    else:
        console.print(_table("variant", {name: BY_NAME[name]}), "")
        console.print(f"{BY_NAME[name].difference}\n[dim]{BY_NAME[name].source}[/dim]")


def _fields(variant: Variant) -> dict[str, Any]:
    """Returns the fields of a variant and the sizes of its steps."""
    return as_dict(variant) | {"step_sizes": step_sizes(variant)._asdict()}


def _table(title: str, shown: dict[str, Variant]) -> Table:
    """Makes a table with a row for each variant."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(title, no_wrap=True, min_width=23)  # so that both tables have equal columns
    for heading in ("lr", "beta1", "beta2", "eps", "averages", "first step", "later"):
        table.add_column(heading, justify="right", no_wrap=True)
    for variant in shown.values():
        table.add_row(*_row(variant))
    return table


def _row(variant: Variant) -> list[str]:
    """Returns the name of a variant, its defaults, and the sizes of its steps."""
    rule = RULES.get(variant.name)
    numbers = (variant.beta1, variant.beta2, variant.eps)
    return [
        f"{variant.name}, {rule}" if rule else variant.name,
        "-" if variant.lr is None else f"{variant.lr:g}",
        *(f"{number:g}" for number in numbers),
        "yes" if variant.grad_averaging else "no",
        *(f"{size:.3g}" for size in step_sizes(variant)),
    ]
