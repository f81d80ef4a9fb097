"""The published NovoGrads for PyTorch, of packages that may be installed or not."""

import importlib
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, version
from types import ModuleType
from typing import Any


def versions() -> dict[str, str]:
    """Returns the version of each package, or that it is not installed."""
    return {package: _version(package) for package, _ in PEERS.values()}


def installed() -> dict[str, Any]:
    """Returns the classes that there are, by the names in ``PEERS``."""
    found = versions()
    return {
        name: load() for name, (package, load) in PEERS.items() if found[package] != NOT_INSTALLED
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def _monai() -> Any:
    return importlib.import_module("monai.optimizers.novograd").Novograd


def _timm() -> Any:
    # A package of its name would need torchvision, which this file does not.
    package = ModuleType("timm_optim")
    package.__path__ = [str(distribution("timm").locate_file("timm/optim"))]
    sys.modules[package.__name__] = package
    return importlib.import_module("timm_optim.nvnovograd").NvNovoGrad


def _pytorch_optimizer() -> Any:
    return importlib.import_module("pytorch_optimizer").NovoGrad


NOT_INSTALLED = "not installed"
PEERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "MONAI's Novograd": ("monai", _monai),
    "timm's NvNovoGrad": ("timm", _timm),
    "pytorch_optimizer's NovoGrad": ("pytorch_optimizer", _pytorch_optimizer),
}
