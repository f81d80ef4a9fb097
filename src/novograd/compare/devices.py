"""The devices that a comparison can train on: the CPU, or NVIDIA GPUs with some frameworks.

A comparison asks the driver for the GPUs, before it starts any process. Each run sees only one GPU.
"""

import ctypes
import re
import sys
from collections.abc import Mapping, Sequence

AUTO, CPU, GPU = "auto", "cpu", "cuda"
CPU_NAME = "CPU"  # in results; a GPU has the name that its driver reports
ALLOWED = "auto, cpu, cuda or cuda:NUMBER"
WITH_GPU = ("torch", "jax")  # the frameworks whose trainers support a GPU
CPU_JOBS = 2  # runs at once on the CPU, if the user does not choose
VISIBLE = "CUDA_VISIBLE_DEVICES"  # the variable that hides GPUs from a process
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


class DeviceError(ValueError):
    """A device cannot be used; the message says why."""


def checked(device: str) -> str:
    """Returns a device if it is ``auto``, ``cpu``, ``cuda`` or ``cuda:NUMBER``.

    Raises:
        DeviceError: If it is something else.

    Example:
        >>> checked("cuda:1")
        'cuda:1'
        >>> checked("gpu")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
            ...
        DeviceError: must be auto, cpu, cuda or cuda:NUMBER, got 'gpu'
    """
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]*))?", device):
        raise DeviceError(f"must be {ALLOWED}, got {device!r}")
    return device


def supports(framework: str | None, device: str) -> bool:
    """Returns whether the trainer of a framework supports a device; True if it is not known yet.

    Example:
        >>> supports("torch", "cuda"), supports("tensorflow", "cuda")
        (True, False)
        >>> supports("tensorflow", "auto"), supports(None, "cuda")
        (True, True)
    """
    return framework is None or device in (AUTO, CPU) or framework in WITH_GPU


def require(framework: str | None, device: str) -> None:
    """Checks that the trainer of a framework supports a device.

    Raises:
        DeviceError: If it does not.
    """
    if not supports(framework, device):
        raise DeviceError(
            f"must be auto or cpu with --framework {framework}, got {device!r}; with --framework "
            f"{' or '.join(WITH_GPU)} it may be {ALLOWED}"
        )


def gpus() -> list[str]:
    """Returns the names of the NVIDIA GPUs, in the order of their numbers.

    The driver itself is asked. Without a driver this takes less than a millisecond. The variable
    ``CUDA_VISIBLE_DEVICES`` hides GPUs, as it does for frameworks.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return []
    count, gpu, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    names = []
    for i in range(count.value):
        driver.cuDeviceGet(ctypes.byref(gpu), i)
        driver.cuDeviceGetName(name, len(name), gpu)
        names.append(name.value.decode(errors="replace"))
    return names


def unusable(framework: str, error: Exception) -> DeviceError:
    r"""Returns the error for a GPU that a framework cannot use.

    Args:
        framework: The title of the framework.
        error: The error of the framework.

    Example:
        >>> print(unusable("PyTorch", RuntimeError("no kernel image\nSee ...")))
        PyTorch cannot use the GPU: no kernel image
    """
    return DeviceError(f"{framework} cannot use the GPU: {str(error).splitlines()[0]}")


def resolved(device: str, framework: str | None, names: Sequence[str]) -> str:
    """Returns the device of a comparison: ``cpu``, ``cuda`` for all GPUs, or ``cuda:NUMBER``.

    Args:
        device: The user's choice. ``auto`` means all GPUs if there are any and the framework
            supports them, else the CPU.
        framework: The framework, or None if it is not known yet.
        names: The names of the GPUs, see ``gpus``.

    Raises:
        DeviceError: If the framework does not support the device, or the device does not exist.

    Example:
        >>> resolved("auto", "torch", ["H100", "H100"]), resolved("auto", "torch", [])
        ('cuda', 'cpu')
        >>> resolved("auto", "tensorflow", ["H100"]), resolved("cuda:0", None, ["H100"])
        ('cpu', 'cuda:0')
    """
    if device == AUTO:
        return GPU if names and supports(framework, GPU) else CPU
    require(framework, device)
    if device != CPU and not _numbers(device, names):
        found = ", ".join(f"cuda:{i} ({name})" for i, name in enumerate(names))
        raise DeviceError(f"there is no {device!r}; the driver found: {found or 'no NVIDIA GPU'}")
    return device


def places(device: str, names: Sequence[str], jobs: int | None = None) -> list[str]:
    """Returns the device of each run that may run at the same time as the others.

    Args:
        device: The device of the comparison, see ``resolved``.
        names: The names of the GPUs, see ``gpus``.
        jobs: Number of runs at once. None: one on each GPU, or ``CPU_JOBS`` on the CPU.

    Example:
        >>> places("cpu", []), places("cuda", ["H100", "H100"]), places("cuda:1", ["H100", "H100"])
        (['cpu', 'cpu'], ['cuda:0', 'cuda:1'], ['cuda:1'])
        >>> places("cuda", ["H100", "H100"], jobs=3)
        ['cuda:0', 'cuda:1', 'cuda:0']
    """
    if device == CPU:
        return [CPU] * (jobs or CPU_JOBS)
    found = [f"{GPU}:{i}" for i in _numbers(device, names)]
    return [found[i % len(found)] for i in range(jobs or len(found))]


def title(device: str, names: Sequence[str]) -> str:
    """Returns the name of a comparison's device for results.

    Args:
        device: The device of the comparison, see ``resolved``.
        names: The names of the GPUs, see ``gpus``.

    Example:
        >>> title("cpu", ["H100"]), title("cuda", ["H100", "H100"]), title("cuda:1", ["L4", "T4"])
        ('CPU', 'H100', 'T4')
    """
    if device == CPU:
        return CPU_NAME
    return ", ".join(dict.fromkeys(names[i] for i in _numbers(device, names)))


def kind(device: str) -> str:
    """Returns the device by the name that it has in the process of a run, which sees no other GPU.

    Example:
        >>> kind("cpu"), kind("cuda:1")
        ('cpu', 'cuda')
    """
    return device.partition(":")[0]


def visible(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variable that hides all GPUs but one from a process.

    Args:
        device: The device of a run: ``cpu``, ``cuda`` for the first GPU, or ``cuda:NUMBER``.
        environment: The variables of the process. They may already hide GPUs.

    Example:
        >>> visible("cuda:1", {}), visible("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,6"})
        ({'CUDA_VISIBLE_DEVICES': '1'}, {'CUDA_VISIBLE_DEVICES': '6'})
        >>> visible("cpu", {})
        {'CUDA_VISIBLE_DEVICES': ''}
    """
    if device == CPU:
        return {VISIBLE: ""}
    number = int(device.partition(":")[2] or 0)
    given = environment.get(VISIBLE)
    return {VISIBLE: str(number) if given is None else given.split(",")[number].strip()}


def _numbers(device: str, names: Sequence[str]) -> list[int]:
    """Returns the numbers of the GPUs that a device means and that exist."""
    return [i for i in range(len(names)) if device in (GPU, f"{GPU}:{i}")]
