"""The native kernels update momentum buffers in 8 bits like the other backends."""

import copy

import pytest
import torch

from novograd.layers import Rows, Split
from novograd.torch import NovoGrad
from novograd.torch.backends import native
from novograd.torch.parts import Part, Position
from tests.helpers.torch import parameters

# A matrix whose rows end with a short block; convolutions; short rows; parts, one of them empty; a
# layer for each row; and a bias, whose buffer keeps the dtype of the weights.
SHAPES = ((30, 300), (64, 32, 3, 3), (256, 64, 1, 1), (600, 7), (60, 128), (40, 257), (300,))
LAYERS = (None, None, None, None, Split((17, 0, 43)), Rows(), None)


def trained(backend, *, variant="rows", dtype=torch.float64, steps=3, reload_at=None):
    """Returns weights after some steps, and the optimizer."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]
    groups = [{"params": [w], "layers": x} for w, x in zip(params, LAYERS, strict=True)]
    optimizer = NovoGrad(groups, lr=0.1, variant=variant, moment_dtype=torch.int8, **backend)
    for step in range(steps):
        if step == reload_at:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for w in params:
            w.grad = torch.randn_like(w)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("variant", ["rows", "nvidia", "nvidia-amsgrad", "apex", "apex-inf"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_kernels_do_the_step_of_foreach(variant, dtype):
    fused, foreach = (
        trained(backend, variant=variant, dtype=dtype)
        for backend in ({"fused": True}, {"foreach": True})
    )
    for w, twin in zip(fused[0], foreach[0], strict=True):
        torch.testing.assert_close(w, twin, rtol=1e-12, atol=1e-12)
        state, expected = fused[1].state[w], foreach[1].state[twin]
        assert state.keys() == expected.keys()
        for name, value in state.items():
            close = {"rtol": 0, "atol": 0} if value.dtype == torch.int8 else {}
            torch.testing.assert_close(value, expected[name], **close)


def test_a_reloaded_state_continues_with_the_same_bits():
    once, reloaded = trained({"fused": True}), trained({"fused": True}, reload_at=2)
    for w, twin in zip(once[0], reloaded[0], strict=True):
        assert torch.equal(w, twin)
        for name, value in once[1].state[w].items():
            assert torch.equal(value, reloaded[1].state[twin][name])


def test_autograd_sees_that_the_scales_have_changed():
    params, optimizer = trained({"fused": True}, steps=1)
    scales = optimizer.state[params[0]]["exp_avg_scale"]
    before = scales._version
    optimizer.step()
    assert scales._version > before


def part(shape=(64, 128), v_shape=(), step=None, **changes):
    """Returns a part with a momentum buffer in 8 bits, whose rows are its last axis."""
    w = torch.zeros(shape)
    strides = torch.empty(shape).stride()
    made = Part(
        w,
        w,
        torch.zeros(shape, dtype=torch.int8),
        torch.zeros(v_shape),
        step=torch.tensor(0.0) if step is None else step,
        exp_avg_scale=torch.zeros(shape[0], -(-w[0].numel() // 128)),
        position=Position(0, strides),
    )
    return made._replace(**changes)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (part(), None),
        (part((64, 8, 16), (64, 8, 1)), "there is no kernel for these layers, which share blocks"),
        (part(exp_avg_scale=torch.zeros(64, 2)[:, :1]), "it is not contiguous"),
        (part(step=torch.tensor(0)), "'step' must be a float32 on the CPU, got torch.int64 on cpu"),
    ],
)
def test_the_reason_why_kernels_do_not_update_a_part(made, said):
    (options,) = NovoGrad(parameters([(3,)])).param_groups
    found = native.problem(made, options)
    assert found == said or (said is not None and said in str(found))
