"""The published NovoGrads for PyTorch, from packages that may or may not be installed."""

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, distribution, version
from types import ModuleType
from typing import Any, NamedTuple


class Peer(NamedTuple):
    """A published NovoGrad.

    Attributes:
        package: The package to install.
        load: Imports the class and returns it.
    """

    package: str
    load: Callable[[], Any]


def _monai() -> Any:
    return importlib.import_module("monai.optimizers.novograd").Novograd


def _timm() -> Any:
    # Importing timm itself needs torchvision; this file of it does not.
    package = ModuleType("timm_optim")
    package.__path__ = [str(distribution("timm").locate_file("timm/optim"))]
    sys.modules[package.__name__] = package
    return importlib.import_module("timm_optim.nvnovograd").NvNovoGrad


def _pytorch_optimizer() -> Any:
    return importlib.import_module("pytorch_optimizer").NovoGrad


PEERS: Mapping[str, Peer] = {
    "MONAI's Novograd": Peer("monai", _monai),
    "timm's NvNovoGrad": Peer("timm", _timm),
    "pytorch_optimizer's NovoGrad": Peer("pytorch_optimizer", _pytorch_optimizer),
}


class Found(NamedTuple):
    """The peers that can be used, and why the others cannot.

    Attributes:
        classes: The classes that can be used, by name.
        versions: The versions of their packages.
        left_out: For each other peer, by name, why it cannot be used.
    """

    classes: dict[str, Any]
    versions: dict[str, str]
    left_out: dict[str, str]


def find(peers: Mapping[str, Peer] = PEERS) -> Found:
    """Imports the peers that are installed.

    Example:
        >>> find({"another": Peer("no-such-package", lambda: None)}).left_out
        {'another': 'not installed: pip install no-such-package'}
    """
    found = Found({}, {}, {})
    for name, (package, load) in peers.items():
        try:
            installed = version(package)
            found.classes[name] = load()
            found.versions[package] = installed
        except PackageNotFoundError:
            found.left_out[name] = f"not installed: pip install {package}"
        except Exception as error:  # of any kind: the other peers can still be measured
            found.left_out[name] = f"cannot be imported: {type(error).__name__}: {error}"
    return found
