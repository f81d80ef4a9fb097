"""A faster way to try the tasks of ``novograd compare``."""

import sys

import pytest

from novograd.compare import runner, worker


@pytest.fixture
def tried_here(monkeypatch):
    """Tries tasks in this process. A new process would import the framework again."""

    async def describe(task, framework, device, optimizers, steps):
        asked = {"optimizer": None, "optimizers": optimizers, "steps": steps}
        spec = {"task": task, "framework": framework, "device": device, **asked}
        return [*worker._events(spec)][-1]

    monkeypatch.setattr(runner, "describe", describe)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "line", None)  # so that the task is removed at the end
