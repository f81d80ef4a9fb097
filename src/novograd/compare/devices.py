"""The devices that a comparison can train on: the CPU, or an NVIDIA GPU with some frameworks."""

import re

CPU = "cpu"
CPU_NAME = "CPU"  # in results; a GPU has the name that its framework reports
ALLOWED = "cpu, cuda or cuda:NUMBER"
WITH_GPU = ("torch", "jax")  # the frameworks whose trainers support a GPU


class DeviceError(ValueError):
    """A device cannot be used; the message says why."""


def checked(device: str) -> str:
    """Returns a device if it is ``cpu``, ``cuda`` or ``cuda:NUMBER``.

    Raises:
        DeviceError: If it is something else.

    Example:
        >>> checked("cuda:1")
        'cuda:1'
        >>> checked("gpu")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
            ...
        DeviceError: must be cpu, cuda or cuda:NUMBER, got 'gpu'
    """
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]*))?", device):
        raise DeviceError(f"must be {ALLOWED}, got {device!r}")
    return device


def supports(framework: str, device: str) -> bool:
    """Returns whether the trainer of a framework supports a device."""
    return device == CPU or framework in WITH_GPU


def require(framework: str, device: str) -> None:
    """Checks that the trainer of a framework supports a device.

    Raises:
        DeviceError: If it does not.
    """
    if not supports(framework, device):
        raise DeviceError(
            f"must be cpu with --framework {framework}, got {device!r}; with --framework "
            f"{' or '.join(WITH_GPU)} it may be {ALLOWED}"
        )


def number(device: str) -> int:
    """Returns the number of a GPU.

    Example:
        >>> number("cuda"), number("cuda:1")
        (0, 1)
    """
    return int(device.partition(":")[2] or 0)


def missing(device: str, framework: str, names: list[str]) -> DeviceError:
    """Returns the error for a GPU that does not exist.

    Args:
        device: The GPU.
        framework: The title of the framework.
        names: The names of the GPUs that the framework found.

    Example:
        >>> print(missing("cuda:1", "PyTorch", ["H100"]))
        there is no 'cuda:1'; PyTorch found: cuda:0 (H100)
    """
    found = ", ".join(f"cuda:{i} ({name})" for i, name in enumerate(names))
    return DeviceError(f"there is no {device!r}; {framework} found: {found or 'no GPU'}")
