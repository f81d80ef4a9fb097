"""The ``novograd`` command: a module for each of its subcommands."""

import sys
from typing import Annotated

from novograd import __version__

try:
    import typer

    from novograd.cli.bench import bench
    from novograd.cli.compare import compare
    from novograd.cli.convert import convert
    from novograd.cli.variants import variants
    from novograd.cli.verify import verify
except ModuleNotFoundError as missing:
    # Not in main(): without typer, the commands cannot be declared.
    sys.exit(f'novograd: no module {missing.name}: pip install "novograd-optimizer[compare]"')

EXIT_CODES = (
    "Exit codes: 0 success; 1 something failed, see the output; 2 the command line is wrong, and "
    "nothing was done; 130 interrupted (Ctrl-C)."
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"novograd {__version__}")
        raise typer.Exit


@app.callback(epilog=EXIT_CODES)
def novograd(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """NovoGrad, the optimizer with layer-wise normalised gradients."""


for command in (compare, verify, bench, variants, convert):
    app.command(epilog=EXIT_CODES)(command)


def main() -> None:
    """Runs the command line."""
    app(prog_name="novograd")
