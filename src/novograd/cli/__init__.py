"""The ``novograd`` command: a module for each of its subcommands."""

import sys

try:
    import typer

    from novograd.cli.bench import bench
    from novograd.cli.compare import compare
    from novograd.cli.convert import convert
    from novograd.cli.variants import variants
    from novograd.cli.verify import verify
except ModuleNotFoundError as missing:
    # Not in main(): without typer, the commands cannot be declared.
    sys.exit(f"novograd: no module {missing.name}: pip install novograd-optimizer[compare]")

EXIT_CODES = (
    "Exit codes: 0 success; 1 something failed, see the output; 2 the command line is wrong, and "
    "nothing was done; 130 interrupted (Ctrl-C)."
)

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback(epilog=EXIT_CODES)
def novograd() -> None:
    """NovoGrad, the optimizer with layer-wise normalised gradients."""


for command in (compare, verify, bench, variants, convert):
    app.command(epilog=EXIT_CODES)(command)


def main() -> None:
    """Runs the command line."""
    app(prog_name="novograd")
