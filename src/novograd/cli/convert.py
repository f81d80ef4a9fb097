"""``novograd convert``."""

import json
import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from novograd import checkpoint as checkpoints
from novograd.cli.options import one_of
from novograd.variants import BY_NAME

# The modules that must be installed to read or write each kind of file.
NEEDS = {
    "torch": ("torch", "ml_dtypes"),
    "jax": ("msgpack", "ml_dtypes"),
    "keras": ("keras", "h5py", "ml_dtypes"),
    "tensorflow": ("tensorflow",),
    "safetensors": ("safetensors", "ml_dtypes"),
}


def _rate(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is not a positive number.")
    return value


def convert(
    source: Annotated[
        Path, typer.Argument(help="File to read; for TensorFlow, the prefix of its files.")
    ],
    target: Annotated[
        Path, typer.Argument(help="File to write; for TensorFlow, the prefix of its files.")
    ],
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            callback=one_of(checkpoints.SOURCES),
            metavar="KIND",
            help=f"The NovoGrad that wrote the source: {', '.join(checkpoints.SOURCES)}. torch, "
            "jax, keras and tf1 are NovoGrads of this package; tf1 is also for Clara Train.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            callback=one_of(checkpoints.TARGETS),
            metavar="KIND",
            help=f"The NovoGrad that will load the target: {', '.join(checkpoints.TARGETS)}.",
        ),
    ],
    names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON file of new names: an object that maps old names to new ones (if it has all "
            "names, it also gives their order in the target), or a list in the order of the "
            "source.",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            callback=_rate,
            help="Current learning rate, if the source does not contain it or if you want another.",
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            callback=one_of(BY_NAME),
            metavar="NAME",
            help="Variant that wrote the source, if its files do not name it (apex, jax, "
            ".weights.h5); otherwise the variant for the target, by default the same as in the "
            f"source: {', '.join(BY_NAME)}.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Key of the optimizer's state in a file of PyTorch or Flax, if it is not a usual "
            "one: optim, or with dots, trainer.optim or optimizer_states.1.",
        ),
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Also copy the weights, which the source must have.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the target if it exists.")
    ] = False,
) -> None:
    """Convert an optimizer's state for another NovoGrad, which continues the training.

    The command reads the state of any published NovoGrad. It writes the state for PyTorch, JAX,
    Keras or TensorFlow, which continue with the same rule, or as safetensors. Nothing in a file is
    executed. Arrays are never transposed. docs/checkpoints.md shows how to load the written files.

    \b
    Examples:
      novograd convert last.pt state.pt --from timm --to torch --key optim
      novograd convert last.ckpt state.msgpack --from nemo --to jax --names names.json
      novograd convert state.msgpack state.pt --from optax --to torch --lr 0.02
      novograd convert model.ckpt-900 new --from openseq2seq --to tensorflow \\
          --variant documented --lr 0.02 --weights
    """  # noqa: D301
    for kind, hint in ((checkpoints.SOURCES[from_], "'--from'"), (to, "'--to'")):
        _require(kind, hint)
    if key is not None and checkpoints.SOURCES[from_] not in checkpoints.WITH_KEYS:
        raise typer.BadParameter(
            f"files of {from_} have no keys; only files of PyTorch and Flax have them",
            param_hint="'--key'",
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides TensorFlow's messages at its start
    try:
        _writable(target, to, force)
        _exists(source, from_)
        state = checkpoints.read(
            source, from_, names=_names(names), weights=weights, variant=variant, lr=lr, key=key
        )
        checkpoints.write(state, target, to, force=force)
    except ModuleNotFoundError as error:  # the backend of Keras is missing
        raise typer.BadParameter(
            f"{from_} to {to} needs {error.name}, which is not installed", param_hint="'--from'"
        ) from None
    except (checkpoints.CheckpointError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    _report(state, target, to)


def _require(kind: str, hint: str) -> None:
    """Checks that the modules for a kind of file are installed."""
    missing = [module for module in NEEDS[kind] if find_spec(module) is None]
    if missing:
        extras = ",".join(["checkpoint", *({kind} & {"torch", "keras", "tensorflow"})])
        raise typer.BadParameter(
            f'{kind} needs {" and ".join(missing)}: pip install "novograd-optimizer[{extras}]"',
            param_hint=hint,
        )


def _writable(target: Path, kind: str, force: bool) -> None:
    """Checks that the target may be written, and that its directory exists."""
    try:
        checkpoints.refuse_existing(target, kind, force)
    except FileExistsError as error:
        raise typer.BadParameter(f"{error}; --force replaces it", param_hint="'target'") from None
    if not target.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no directory {target.parent}", param_hint="'target'")


def _exists(source: Path, kind: str) -> None:
    """Checks that the source exists; for TensorFlow it is a folder or the prefix of files."""
    prefix = checkpoints.SOURCES[kind] == "tensorflow" and not source.is_dir()
    file = source.with_name(f"{source.name}.index") if prefix else source
    if not file.exists():
        raise typer.BadParameter(f"there is no file {file}", param_hint="'source'")


def _names(path: Path | None) -> Any:
    """Reads a file of names: a JSON object of strings, or a list of them."""
    if path is None:
        return None
    try:
        names = json.loads(path.read_bytes())
    except (OSError, RecursionError, ValueError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="'--names'") from None
    given = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise typer.BadParameter(
            f"{path} must contain an object of strings, or a list of strings",
            param_hint="'--names'",
        )
    return names


def _report(state: checkpoints.Checkpoint, target: Path, to: str) -> None:
    """Prints what was written, what is unknown, what was not kept, and how to load the target."""
    step = "an unknown step" if state.step is None else f"step {state.step}"
    typer.echo(f"{target}: {len(state.entries)} weights at {step}, variant {state.variant.name}")
    held = {"torch": set(vars(checkpoints.Hyperparameters())), "keras": {"lr"}}.get(to, set())
    assumed = [name for name in checkpoints.unknown(state) if name in held]
    if assumed:
        typer.echo(
            f"The source does not contain {', '.join(assumed)}: the target has the variant's "
            "defaults."
        )
    if state.step is None and to in ("jax", "keras"):
        typer.echo(
            "The source does not contain the number of steps: the target begins with 0, and so "
            "does a schedule of the learning rate."
        )
    lost = checkpoints.lost(state, to)
    if lost:
        typer.echo(
            f"The source's groups also contain {', '.join(lost)}, which the target does not keep."
        )
    typer.echo(f"To load it:\n{checkpoints.how_to_load(state, target, to)}")
