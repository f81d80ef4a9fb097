"""Parameters, gradients and training for the tests of the PyTorch class."""

import pytest
import torch

BACKENDS = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
every_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
SHAPES = ((3, 5), (7,), (), (2, 3, 3, 5))


def parameters(shapes=SHAPES, dtype=torch.float32, seed=0, device="cpu"):
    """Returns parameters with random values."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [torch.nn.Parameter(x.to(device, dtype)) for x in drawn]


def set_gradients(params, step, scale=1.0):
    """Gives each parameter a random gradient, which depends only on the step."""
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        noise = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        param.grad = (scale * noise).to(param.device, param.dtype)


def train(optimizer, steps, start=0):
    """Runs steps with random gradients for all parameters of an optimizer."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(start, start + steps):
        set_gradients(params, step)
        optimizer.step()


def states_of(optimizer):
    """Returns the state of each parameter, in order."""
    return [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]
