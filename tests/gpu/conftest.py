"""Tests of the Triton kernels: on a GPU, or in the interpreter with ``TRITON_INTERPRET=1``."""

from pathlib import Path

import numpy as np
import pytest
import torch

from novograd.torch.backends import triton

if triton.INTERPRETED:
    import triton.language as tl
    from triton.runtime import interpreter

    from novograd.torch.backends import triton_int8, triton_kernels, triton_rounding

    OURS = {x.__name__ for x in (triton_int8, triton_kernels, triton_rounding)}
    _cast = interpreter.InterpreterBuilder.cast_impl
    _made_ready = interpreter.InterpretedFunction.__call__

    def _cast_to_nearest(self, src, dst_type):
        """Rounds float32 to the nearest bfloat16 as GPUs do; the interpreter truncates."""
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            bits = src.data.view(np.uint32)
            nearest = bits + (0x7FFF + (bits >> 16 & 1)).astype(np.uint32)
            data = np.where(np.isnan(src.data), bits, nearest).view(np.float32)
            src = interpreter.TensorHandle(data, src.dtype)
        return _cast(self, src, dst_type)

    def _call(self, *args, **kwargs):
        """Calls a function of a kernel.

        The interpreter patches Triton's language again for each call, which took half of the time
        of these tests. Our functions do not need this, because the launch has already done it.
        """
        ours = self.fn.__module__ in OURS
        return self.rewrite()(*args, **kwargs) if ours else _made_ready(self, *args, **kwargs)

    interpreter.InterpreterBuilder.cast_impl = _cast_to_nearest
    interpreter.InterpretedFunction.__call__ = _call


IGNORED = [
    # The interpreter computes with NumPy, which warns of invalid values; GPUs do not.
    "invalid value:RuntimeWarning",
    # A machine with a GPU may have no C++ compiler. Parameters on the CPU are not tested here.
    "the native kernels of novograd are not installed:RuntimeWarning",
    # torch says this at the first use of torch.cuda.set_sync_debug_mode.
    "Synchronization debug mode is a prototype feature:UserWarning",
    # torch.compile imports deprecated parts of torch.
    r"`torch\.jit\.script(_method)?` is deprecated:DeprecationWarning",
]


def pytest_configure(config):
    for warning in IGNORED:
        config.addinivalue_line("filterwarnings", f"ignore:{warning}")


def pytest_collection_modifyitems(items):
    if triton.INTERPRETED:
        return
    here = Path(__file__).parent
    for item in (item for item in items if item.path.parent == here):
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
