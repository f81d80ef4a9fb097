"""Explains arguments of other optimizers, and frameworks that are not installed."""

import functools
import inspect
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_OWN = "a variant of your own, as in replace(variants.get({name!r}), name='mine', {field})"
_AMSGRAD = _OWN.format(name="nvidia", field="amsgrad=True")
_DECOUPLED = _OWN.format(name="pytorch-optimizer", field="decay='decoupled'")
_UNCORRECTED = _OWN.format(name="apex", field="bias_correction=None")

INSTEAD: dict[str, str] = {
    "amsgrad": f"leave out False; for True give variant='nvidia-amsgrad', or {_AMSGRAD}",
    "bias_correction": f"leave out True; for False give {_UNCORRECTED}",
    "corrected_weight_decay": "leave out False; there is no such decay here",
    "decoupled_decay": "leave out False; for True give variant='nvidia-decoupled'",
    "eps_root": "leave out 0; a second epsilon inside the root is not supported",
    "fixed_decay": "leave out False; there is no such decay here",
    "init_zero": "leave out False; for an average that begins at 0 give variant='flashlight'",
    "luc": "leave out False; no variant clips the update. clip of a variant limits the gradient",
    "luc_eps": "no variant clips the update. clip of a variant limits the gradient",
    "luc_trust": "no variant clips the update. clip of a variant limits the gradient",
    "norm_type": "leave out 2; for 0 give variant='apex-inf' or 'apex-inside-inf'",
    "reg_inside_moment": "leave out False; for True give variant='apex-inside'",
    "set_grad_none": "leave it out; zero_grad of the optimizer sets gradients to None",
    "variant": "the documented class has the documented rule only; see novograd.keras.NovoGrad",
    "weight_decouple": f"leave out False; for True give {_DECOUPLED}",
}
"""The arguments of published NovoGrads that are not taken here, and what to do instead."""

_SPELLINGS = (
    ("lr", "learning_rate"),
    ("betas", "beta1", "beta_1", "b1"),
    ("betas", "beta2", "beta_2", "b2"),
    ("eps", "epsilon"),
    ("nesterov", "use_nesterov"),
)

_EXTRAS = {
    "jax": "jax",
    "keras": "keras",
    "optax": "jax",
    "tensorflow": "tensorflow",
    "torch": "torch",
}


def explains_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function say what to use instead of an argument that other optimizers have.

    The signature stays the same. An argument about which nothing is known is left to the function.

    Example:
        >>> @explains_arguments
        ... def novograd(learning_rate): ...
        >>> novograd(lr=0.1)
        Traceback (most recent call last):
            ...
        TypeError: novograd does not take lr: give learning_rate
    """
    parameters = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs.keys() - parameters:
            instead = _other_spelling(name, parameters) or INSTEAD.get(name)
            if instead:
                taker = function.__qualname__.removesuffix(".__init__")
                raise TypeError(f"{taker} does not take {name}: {instead}")
        return function(*args, **kwargs)

    return checked


def _other_spelling(name: str, taken: Container[str]) -> str | None:
    """Returns which argument of a function has the meaning of a name, in words."""
    for names in _SPELLINGS:
        if name in names:
            known = [other for other in names if other in taken]
            if known:
                return f"give {known[0]}"
    return None


@contextmanager
def naming_extra() -> Iterator[None]:
    """Makes the error about a framework that is not installed say how to install it.

    Raises:
        ModuleNotFoundError: If the imports in the block raise it.

    Example:
        >>> with naming_extra():
        ...     raise ModuleNotFoundError("No module named 'optax'", name="optax")
        Traceback (most recent call last):
            ...
        ModuleNotFoundError: the package 'optax' is not installed: \
pip install "novograd-optimizer[jax]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _EXTRAS:
            raise
        raise ModuleNotFoundError(
            f"the package {name!r} is not installed: "
            f'pip install "novograd-optimizer[{_EXTRAS[name]}]"',
            name=name,
        ) from error
