"""Finds the module of ``novograd.compare`` that trains with a framework."""

import importlib
import random
import sys

import numpy as np

from novograd.compare import devices
from novograd.compare.mistakes import watched
from novograd.compare.optimizers import Optimizer
from novograd.compare.task import Task
from novograd.compare.training import Trainer


def trainer(task: Task, framework: str, optimizer: Optimizer, seed: int, device: str) -> Trainer:
    """Builds a model and its optimizer.

    Args:
        task: The task, see ``novograd.compare.mistakes.checked``.
        framework: One of ``novograd.compare.runner.FRAMEWORKS``.
        optimizer: The optimizer and its settings.
        seed: Seed of the initial weights, and of everything random in the step.
        device: The device that trains.

    Returns:
        The trainer for ``novograd.compare.training.train``.
    """
    module = importlib.import_module(f"novograd.compare.{framework}")
    random.seed(seed)
    np.random.seed(seed)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(seed)
    return watched(module.trainer(task, optimizer, seed, devices.kind(device)))


def require_device(framework: str, device: str) -> None:
    """Checks that a framework can use a device.

    Args:
        framework: One of ``novograd.compare.runner.FRAMEWORKS``.
        device: The device. This process sees no other GPU.

    Raises:
        DeviceError: If the framework cannot use the device.
    """
    devices.require(framework, device)
    if device != devices.CPU:
        importlib.import_module(f"novograd.compare.{framework}").require_gpu()
