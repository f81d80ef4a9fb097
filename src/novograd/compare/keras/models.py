"""Keras models of tasks, for the frameworks that train them."""

from typing import Any

import keras

from novograd.compare.task import Task

VERSIONS = {"keras": keras.__version__}


def build(task: Task, seed: int) -> Any:
    """Builds a task's model with everything random seeded: its weights, and its dropout."""
    keras.utils.set_random_seed(seed)
    return task.model(seed)
