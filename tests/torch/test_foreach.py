"""The foreach backend needs few operations and little memory."""

import gc
import weakref
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from novograd.torch import NovoGrad
from tests.helpers.torch import set_gradients

COUNT, SIZE = 20, 1000


class Watch(TorchDispatchMode):
    """Counts operations, and the live elements of the tensors that they returned."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()
        self.alive = self.peak = 0
        self._seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        result = function(*args, **(kwargs or {}))
        self.calls[str(function)] += 1
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= SIZE:
                storage = tensor.untyped_storage()
                if storage._cdata not in given | self._seen:
                    self._track(storage, tensor.numel())
        return result

    def _track(self, storage, elements):
        self._seen.add(storage._cdata)
        self.alive += elements
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, storage._cdata, elements)

    def _free(self, key, elements):
        self._seen.discard(key)
        self.alive -= elements


def watched_step(dtype, **options):
    """Watches the second step of some parameters of equal size."""
    params = [torch.nn.Parameter(torch.randn(SIZE // 10, 10).to(dtype)) for _ in range(COUNT)]
    optimizer = NovoGrad(params, foreach=True, weight_decay=0.1, **options)
    for step in range(2):
        set_gradients(params, step)
        if step:
            gc.collect()
            with Watch() as watch:
                optimizer.step()
        else:
            optimizer.step()
    return watch


def test_a_step_in_the_dtype_of_the_weights_needs_no_temporary():
    assert watched_step(torch.float32).peak == 0


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {"nesterov": True}),
        (torch.float32, {"skip_nonfinite": True}),
        (torch.bfloat16, {}),
        (torch.bfloat16, {"nesterov": True}),
        (torch.bfloat16, {"skip_nonfinite": True, "nesterov": True}),
    ],
)
def test_a_step_needs_at_most_one_temporary_as_large_as_the_gradients(dtype, options):
    # One tensor more may be alive while the temporary is made.
    assert 0 < watched_step(dtype, **options).peak <= (COUNT + 2) * SIZE
