"""Builds the Keras models of tasks."""

from typing import Any

import keras

from novograd.compare.task import Task

VERSIONS = {"keras": keras.__version__}


def build(task: Task, seed: int) -> Any:
    """Builds a task's model with seeded weights and dropout."""
    keras.utils.set_random_seed(seed)
    return task.model(seed)
