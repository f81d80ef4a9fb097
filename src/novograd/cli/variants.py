"""``novograd variants``."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from novograd.step_sizes import step_sizes
from novograd.variants import VARIANTS, Variant, as_dict


def variants(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all fields of all variants as JSON.")
    ] = False,
) -> None:
    """List the published NovoGrads that can be chosen by name, as in variant="optax".

    For each variant the list has its differences from the documented rule, where it is published,
    its defaults, and the sizes of its first step and of later steps with a constant gradient, in
    units of the learning rate. docs/variants.md lists the libraries and versions.

    \b
    Examples:
      novograd variants
      novograd variants --json | jq '.[] | {name, beta1, beta2}'
    """  # noqa: D301
    if as_json:
        typer.echo(json.dumps([_fields(variant) for variant in VARIANTS.values()], indent=2))
    else:
        Console(highlight=False).print(_table())


def _fields(variant: Variant) -> dict[str, Any]:
    """Returns the fields of a variant and the sizes of its steps."""
    return as_dict(variant) | {"step_sizes": step_sizes(variant)._asdict()}


def _table() -> Table:
    """Makes the table of all variants."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 1, 0))
    table.add_column("variant", no_wrap=True)
    table.add_column("how it differs, source, and defaults", overflow="fold")
    for variant in VARIANTS.values():
        lines = f"{variant.difference}\n[dim]{variant.source}\n{_defaults(variant)}[/dim]"
        table.add_row(variant.name, lines)
    return table


def _defaults(variant: Variant) -> str:
    """Returns the defaults of a variant, and the sizes of its steps."""
    rate = "no lr" if variant.lr is None else f"lr {variant.lr:g}"
    averaging = ", averaging" if variant.grad_averaging else ""
    nesterov = ", Nesterov" if variant.nesterov else ""
    clip = "" if variant.clip is None else f", clip {variant.clip:g}"
    sizes = step_sizes(variant)
    return (
        f"{rate}, betas {variant.beta1:g}, {variant.beta2:g}, eps {variant.eps:g}{averaging}"
        f"{nesterov}{clip}; steps {sizes.first:.3g} to {sizes.last:.3g}"
    )
