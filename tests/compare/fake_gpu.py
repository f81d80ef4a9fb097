"""Trains every task for a step on a device without values: ``python -m tests.compare.fake_gpu``.

PyTorch's fake tensors have a device but no values, and refuse operations on tensors of different
devices. PyTorch cannot differentiate or leave such a device. So this program invents the gradients
and the numbers that leave the device.
"""

from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

from novograd.compare import Task
from novograd.compare.load import load
from novograd.compare.optimizers import OPTIMIZERS
from novograd.compare.tasks import BUILT_IN
from novograd.compare.torch import _optimizer, trainer_of

DEVICE = torch.device("privateuseone:0")
waits = []
as_tensor = torch.as_tensor


def without_values(data, dtype=None, device=None):
    made = as_tensor(data, dtype=dtype)
    return torch.empty(made.shape, dtype=made.dtype, device=device)


def item(tensor):
    assert tensor.device == DEVICE
    waits.append("item")
    return 0.5


def numpy(tensor):
    assert tensor.device.type == "cpu"
    return np.zeros(tensor.shape, np.float32)


def train(task):
    """Takes a step, predicts, and updates alone."""
    built = []

    def build(named, by_keras):
        assert {param.device for _, param in named} == {DEVICE}
        built.append(_optimizer(OPTIMIZERS["novograd:rows"], named, by_keras)[0])
        return built[0], {}

    def backward(loss):
        assert loss.device == DEVICE
        for param in built[0].param_groups[0]["params"]:
            param.grad = torch.ones_like(param)

    trainer = trainer_of(task, build, 0, str(DEVICE))
    inputs, targets = next(iter(task.batches(0)))
    with mock.patch.object(torch.Tensor, "backward", backward):
        trainer.step(0.1, inputs, targets)
    assert waits == ["item"]
    assert {x.device for state in built[0].state.values() for x in state.values()} == {DEVICE}
    trainer.predict(*next(iter(task.test())))
    waits.clear()
    trainer.update()
    assert waits == [str(DEVICE)]
    waits.clear()


class Line(torch.nn.Module):
    def __init__(self, device=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones((2, 2), device=device))

    def to(self, device):  # PyTorch's own function cannot move fake parameters
        self.__init__(device)

    def forward(self, x):
        return x @ self.weight


def of_torch(factor):
    """Returns a task with a module of PyTorch, and a factor in its loss."""
    batch = np.ones((4, 2), np.float32), np.ones((4, 2), np.float32)
    return Task(
        model=lambda seed: Line(),
        batches=lambda seed: [batch],
        test=lambda: [batch],
        loss=lambda outputs, targets: (factor() * (outputs - targets) ** 2).mean(),
        metric=lambda *_: {},
    )


def main():
    backend_registration._setup_privateuseone_for_python_backend()
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch.object(torch, "as_tensor", without_values),
        mock.patch.object(torch, "from_numpy", without_values),
        mock.patch.object(torch.Tensor, "item", item),
        mock.patch.object(torch.Tensor, "numpy", numpy),
        mock.patch.object(torch.cuda, "synchronize", waits.append),
    ):
        for name, task in {"torch": of_torch(lambda: 2), **{n: load(n) for n in BUILT_IN}}.items():
            train(task)
            print(name)
        try:
            train(of_torch(lambda: torch.ones(2)))
        except RuntimeError as error:
            print(error)


if __name__ == "__main__":
    main()
