"""The published NovoGrads for PyTorch, of packages that may be installed or not."""

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, distribution, version
from types import ModuleType
from typing import Any, NamedTuple


class Peer(NamedTuple):
    """A published NovoGrad.

    Attributes:
        package: What to install.
        load: Imports its class.
    """

    package: str
    load: Callable[[], Any]


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


PEERS: Mapping[str, Peer] = {
    "MONAI's Novograd": Peer("monai", _monai),
    "timm's NvNovoGrad": Peer("timm", _timm),
    "pytorch_optimizer's NovoGrad": Peer("pytorch_optimizer", _pytorch_optimizer),
}


class Found(NamedTuple):
    """What there is of the peers.

    Attributes:
        classes: Those that can be used, by name.
        versions: The versions of their packages.
        left_out: Why the others cannot, by name.
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
        except Exception as error:  # whatever is wrong with it, the others can be measured
            found.left_out[name] = f"cannot be imported: {type(error).__name__}: {error}"
    return found
