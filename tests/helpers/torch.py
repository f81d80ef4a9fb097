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


def assert_fair(ups, share):
    """Checks the mean and the variance of rounding at random.

    Right rounding fails a check with a probability of 6e-7, that of 5 standard deviations.

    Args:
        ups: In each step, for each number, whether it was rounded up: 0 or 1, float64.
        share: The probability of this for each number.
    """
    assert ((ups == 0) | (ups == 1)).all()
    steps = len(ups)
    variance = share * (1 - share)
    error = (ups - share).sum() / (steps * variance).sum().sqrt()
    assert abs(error) < 5
    # A sum of squares of standard normal numbers, one for each element.
    chosen = steps * variance > 10
    squares = ((ups - share).sum(0)[chosen] ** 2 / (steps * variance[chosen])).sum()
    count = chosen.sum()
    assert abs(squares - count) < 5 * (2 * count) ** 0.5
    measured, expected = ups.var(0, unbiased=False)[chosen].mean(), variance[chosen].mean()
    assert abs(measured / expected - 1) < 0.01


def step_without_waiting(optimizer, monkeypatch):
    """Takes a step in which the host of a GPU would not wait for it.

    The step must not read a tensor back, nor copy a number to the device.
    """

    def read(*_):
        raise AssertionError("a tensor is read back")

    def copy(*_, **__):
        raise AssertionError("a number is copied to the device")

    with monkeypatch.context() as patched:
        for name in ("tensor", "as_tensor"):
            patched.setattr(torch, name, copy)
        for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__"):
            patched.setattr(torch.Tensor, name, read)
        optimizer.step()


def states_of(optimizer):
    """Returns the state of each parameter, in order."""
    return [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]
