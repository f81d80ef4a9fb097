"""Steps with every kernel, on small tensors of odd sizes: a program for memory checkers.

On a GPU::

    compute-sanitizer --tool memcheck python -m tests.gpu.smallest
    compute-sanitizer --tool racecheck python -m tests.gpu.smallest

The program compares the results with those of the foreach backend on the CPU, so that only our
kernels run on the GPU, and prints "ok". With ``--with-an-error``, a kernel reads beyond the end of
a gradient instead: ``memcheck`` must find this.
"""

import os
import sys

# Each tensor gets its own memory. Otherwise the checker would not notice an access beyond the end
# of a tensor that is inside a larger block. torch reads this when it is imported.
os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

import torch

from novograd.layers import (
    Rows,
    Split,
    Stacked,
    second_moment_shape,
    step_scale,
)
from novograd.torch import NovoGrad
from novograd.torch.backends import Scaling, triton
from novograd.torch.parts import Part

DEVICE = "cpu" if triton.INTERPRETED else "cuda"
STEPS = 2 if triton.INTERPRETED else 3  # the interpreter is slow
GUARD = 77.0
LAYERS = [
    ((), None),
    ((0,), None),
    ((7,), None),
    ((1000,), None),
    ((2, 8209), Rows(0)),  # each row has two programs
    ((3, 1337), Rows(0)),
    ((2, 1024), Rows(0)),
    ((9, 331), Rows(0)),
    ((41, 48), Rows(0)),
    ((37, 3), Rows(0)),
    ((0, 5), Rows(0)),
    ((5, 0), Rows(0)),
    ((1031,), Rows(0)),  # each element is a layer
    ((2, 3, 1001), Stacked(1)),  # each layer has two pieces
    ((9, 5), Split((4, 5))),
    ((5, 33), Split((16, 17), axis=1)),
    ((6, 768), Rows(0)),  # whole blocks, if the momentum buffer is int8
    ((3, 4224), Rows(0)),
    ((21, 200), Rows(0)),
    ((1031, 4), None),
]
INT8 = {"moment_dtype": torch.int8}
# The dtype, the options, the offset of the views, and whether the gradients are scaled.
CASES = [
    (torch.float32, {"weight_decay": 0.05}, 1, False),
    (torch.float32, {"variant": "apex", "nesterov": True, "skip_nonfinite": True}, 0, True),
    (torch.bfloat16, {"stochastic_rounding": True}, 0, False),
    (torch.bfloat16, {"stochastic_rounding": True, "variant": "nvidia-decoupled"}, 1, True),
    (torch.float16, {}, 1, True),
    (torch.float32, INT8, 0, True),
    (torch.float32, {"nesterov": True, "skip_nonfinite": True, **INT8}, 1, False),
    (torch.bfloat16, {"stochastic_rounding": True, **INT8}, 0, False),
]
# The differences allowed after all steps. Errors of the arithmetic may change how a bfloat16 weight
# is rounded, and so may rounding in the interpreter: by one unit of the last place in each step.
# The scales of these momentum buffers are at most UNIT.
UNIT = 1e-3
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}


class Views:
    """Views of their own storages, which have ``offset`` more elements at both ends."""

    def __init__(self, dtype, offset, device):
        self._dtype, self._offset, self._device, self._storages = dtype, offset, device, []

    def new(self, values):
        end = self._offset + values.numel()
        size = end + self._offset
        storage = torch.full((size,), GUARD, dtype=self._dtype, device=self._device)
        self._storages.append(storage)
        view = storage[self._offset : end].view(values.shape)
        return view.copy_(values)

    def check(self):
        for storage in self._storages:
            outside = torch.cat([storage[: self._offset], storage[len(storage) - self._offset :]])
            assert (outside == GUARD).all()


def drawn(step, dtype):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator).to(dtype) for shape, _ in LAYERS]


def trained(dtype, options, offset, scaled, device):
    """Returns weights and state after all steps, by name, on the CPU."""
    views = Views(dtype, offset, device)
    params = [views.new(x) for x in drawn(-1, dtype)]
    chosen = {id(w): layers for w, (_, layers) in zip(params, LAYERS, strict=True)}
    lr = torch.tensor(0.1, device=device)
    optimizer = NovoGrad(params, lr=lr, layers=lambda _, w: chosen[id(w)], **options)
    for step in range(STEPS):
        for w, g in zip(params, drawn(step, dtype), strict=True):
            w.grad = views.new(g * (4.0 if scaled else 1.0))
        if scaled:
            optimizer.grad_scale = torch.tensor(4.0, device=device)
            optimizer.found_inf = torch.tensor(0.0, device=device)
            if step == 1:  # a step that changes nothing
                optimizer.found_inf += 1
                optimizer.step()
                optimizer.found_inf -= 1
        optimizer.step()
    views.check()
    found = {}
    for w, (shape, layers) in zip(params, LAYERS, strict=True):
        for name, x in {"weights": w, **optimizer.state[w]}.items():
            found[f"{name} of {shape}, {layers}"] = x.cpu()
    return found


def check_steps(dtype, options, offset, scaled):
    actual = trained(dtype, options | {"fused": True}, offset, scaled, DEVICE)
    expected = trained(dtype, options | {"foreach": True}, offset, False, "cpu")
    tolerance = TOLERANCES[dtype]
    if "moment_dtype" in options:
        tolerance = max(tolerance, UNIT)
    for name, x in actual.items():
        allowed = 1 if x.dtype == torch.int8 else tolerance
        assert_close(x, expected[name], allowed, f"{name}; {dtype}, {options}")


def check_known_norms():
    """Checks steps with squared norms that are known before, as in a step of sharded parameters.

    The norms of every third part are unknown, as if it were not sharded.
    """
    numbers = [i for i, (_, layers) in enumerate(LAYERS) if not isinstance(layers, Split)]
    cases = [LAYERS[i] for i in numbers]
    twins = [drawn(-1, torch.float32)[i] for i in numbers]
    chosen = {id(w): layers for w, (_, layers) in zip(twins, cases, strict=True)}
    options = {"lr": 0.1, "layers": lambda _, w: chosen[id(w)], "foreach": True}
    twin = NovoGrad(twins, **options)
    scaling = Scaling(torch.tensor(4.0, device=DEVICE), torch.tensor(0.0, device=DEVICE))
    parts = []
    for i, (w, (shape, layers)) in enumerate(zip(twins, cases, strict=True)):
        v = torch.zeros(second_moment_shape(layers, shape), device=DEVICE)
        square = torch.zeros_like(v, dtype=torch.float64) if i % 3 else None
        of_step = step_scale(layers, shape)
        mine = w.to(DEVICE, copy=True)
        parts.append(Part(mine, mine, torch.zeros_like(mine), v, of_step, square))
    for step in range(STEPS):
        gradients = [drawn(step, torch.float32)[i] for i in numbers]
        for w, g in zip(twins, gradients, strict=True):
            w.grad = g
        twin.step()
        given = [
            part._replace(grad=4 * g.to(DEVICE)) for part, g in zip(parts, gradients, strict=True)
        ]
        prepared = triton.prepare(given, twin.param_groups[0], scaling)
        prepared.square_sums()
        prepared.take()
    for part, w in zip(parts, twins, strict=True):
        state = twin.state[w]
        expected = [w, state["exp_avg"], state["exp_avg_sq"]]
        for x, y in zip([part.param, part.exp_avg, part.exp_avg_sq], expected, strict=True):
            assert_close(x.cpu(), y, 1e-5, f"known norms, {tuple(w.shape)}")


def assert_close(actual, expected, tolerance, name):
    torch.testing.assert_close(
        actual, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}"
    )


def read_beyond_a_gradient():
    w = torch.zeros(9000, device=DEVICE, requires_grad=True)
    w.grad = torch.zeros_like(w)
    w.grad.untyped_storage().resize_(16)  # the tensor still has its 9000 elements
    NovoGrad([w], fused=True).step()


def main():
    if "--with-an-error" in sys.argv:
        return read_beyond_a_gradient()
    for case in CASES:
        check_steps(*case)
    check_known_norms()
    return print("ok")


if __name__ == "__main__":
    main()
