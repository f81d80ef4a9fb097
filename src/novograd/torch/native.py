"""A step of CPU tensors by the native kernels, in one call for all of them.

A second writing of the rule, in ``csrc/``; its coefficients are those of ``novograd.rule``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from novograd import native
from novograd.torch.scalars import Options

# Complex numbers are pairs of real ones.
_REAL = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}
_KINDS = (
    {tuple(getattr(torch, name) for name in kind): i for i, kind in enumerate(native.kernels.KINDS)}
    if native.kernels
    else {}
)
_KINDS |= {(pairs,) * 3: _KINDS[(real,) * 3] for pairs, real in _REAL.items() if _KINDS}


def problem(param: Tensor, grad: Tensor, exp_avg: Tensor) -> str | None:
    """Returns why the kernels cannot take a parameter, or None if they can.

    Args:
        param: Weights.
        grad: Their gradient.
        exp_avg: Their moment.

    Example:
        >>> w = torch.zeros(4, 6)
        >>> problem(w[:, ::2], w[:, ::2], torch.zeros(4, 3))
        'its elements have gaps, or another order than those of its gradient or state'
    """
    if native.PROBLEM:
        return native.PROBLEM
    if not param.is_cpu:
        return f"it is on {param.device}, and the kernels are for the CPU"
    if type(param) not in (Tensor, Parameter) or type(grad) is not Tensor:
        return "it or its gradient is a tensor subclass"
    if (param.dtype, grad.dtype, exp_avg.dtype) not in _KINDS:
        return f"there is no kernel for {param.dtype} with a gradient of {grad.dtype}"
    if param.is_complex() and torch.compiler.is_compiling():
        return "Inductor compiles no custom operation on complex tensors"  # seen in torch 2.13
    if param.is_contiguous() and grad.is_contiguous() and exp_avg.is_contiguous():
        return None
    if param.stride() == grad.stride() == exp_avg.stride() and _is_dense(param):
        return None
    return "its elements have gaps, or another order than those of its gradient or state"


def step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    options: Options,
) -> None:
    """Updates parameters and their state in place, in the precision of ``exp_avg_sqs``.

    The arguments are those of ``novograd.torch.single_tensor.step``, but may be complex, and must
    not have a ``problem``. In a compiled program this is the operation ``novograd::step_``.

    Raises:
        RuntimeError: If memory that is written is shared by two tensors; then nothing has changed.

    Example:
        >>> from novograd.torch import NovoGrad
        >>> w, m, v = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor(0.0)
        >>> step([w], [torch.tensor([3.0, 4.0])], [m], [v], NovoGrad([w], lr=0.5).param_groups[0])
        >>> w, v
        (tensor([0.7000, 1.6000]), tensor(25.))
    """
    if torch.compiler.is_compiling():
        numbers = [torch.as_tensor(x, dtype=torch.float64) for x in _rule(options)]
        torch.ops.novograd.step_(params, grads, exp_avgs, exp_avg_sqs, torch.stack(numbers))
    else:
        prepared(params, grads, exp_avgs, exp_avg_sqs)(options)


def prepared(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
) -> Callable[[Options], None]:
    """Checks the memory of the arguments of ``step``, and returns the rest of it.

    Raises:
        RuntimeError: If memory that is written is shared by two tensors.

    Example:
        >>> w, g, m, v = torch.zeros(3), torch.zeros(2), torch.zeros(4), torch.zeros(2)
        >>> prepared([w[:2], w[1:]], [g, g], [m[:2], m[2:]], [v[0], v[1]])
        Traceback (most recent call last):
            ...
        RuntimeError: NovoGrad cannot update tensors that share memory; shapes: (2,) and (2,)
    """
    # Of a lazily conjugated or negated view, what is in memory is not what it means.
    grads = [g.resolve_conj().resolve_neg() for g in grads]
    layers = _layers(params, grads, exp_avgs, exp_avg_sqs)

    def take(options: Options) -> None:
        _ = grads  # as long as their addresses are in use
        layers.step([float(x) for x in _rule(options)], torch.get_num_threads())
        torch.autograd.graph.increment_version([*params, *exp_avgs, *exp_avg_sqs])

    return take


@torch.library.custom_op(
    "novograd::step_", mutates_args=("params", "exp_avgs", "exp_avg_sqs"), device_types="cpu"
)
def _step_op(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    rule: Tensor,
) -> None:
    """Takes a step by the numbers of a ``novograd.native.Rule``; opaque to compilers."""
    layers = _layers(params, grads, exp_avgs, exp_avg_sqs)
    layers.step(rule.tolist(), torch.get_num_threads())


@_step_op.register_fake
def _(*_: Any) -> None:
    """Nothing changes its shape."""


def _layers(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
) -> Any:
    """Hands tensors to the kernels, as addresses; they have to live as long."""
    sizes = [w.numel() * (1 + w.is_complex()) for w in params]
    layers = native.kernels.Layers(
        kinds=[
            _KINDS[w.dtype, g.dtype, m.dtype]
            for w, g, m in zip(params, grads, exp_avgs, strict=True)
        ],
        grids=[(1, 1, n, n) for n in sizes],
        scales=[1.0] * len(sizes),
        weights=[w.data_ptr() for w in params],
        gradients=[g.data_ptr() for g in grads],
        moments=[m.data_ptr() for m in exp_avgs],
        vs=[v.data_ptr() for v in exp_avg_sqs],
    )
    shared = layers.overlap()
    if shared is not None:
        shapes = " and ".join(str(tuple(params[i].shape)) for i in shared)
        raise RuntimeError(f"NovoGrad cannot update tensors that share memory; shapes: {shapes}")
    return layers


def _rule(options: Options) -> native.Rule:
    lr = options["lr"]
    beta1, beta2 = options["betas"]
    return native.documented(
        lr=lr.double().squeeze() if isinstance(lr, Tensor) else lr,
        beta1=beta1,
        beta2=beta2,
        epsilon=options["eps"],
        weight_decay=options["weight_decay"],
        grad_averaging=options["grad_averaging"],
        nesterov=options["nesterov"],
        maximize=options["maximize"],
        skip_nonfinite=options["skip_nonfinite"],
    )


def _is_dense(x: Tensor) -> bool:
    """Whether the elements fill one piece of memory, in whatever order of the dimensions."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
