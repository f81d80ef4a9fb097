"""A step of the leaves by the native CPU kernels: one XLA call for all leaves, in place.

The step is a primitive of JAX, because a primitive can define what each transformation does with
it. Lowered for one CPU device, the step is a call of the kernels. Lowered for other devices, and
under ``jax.vmap`` and differentiation, the step is the rule in JAX's operations.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from novograd import native
from novograd.jax.layout import LeafLayout
from novograd.jax.leaves import (
    Leaf,
    StepHyperparameters,
    Stepped,
    Switches,
    numbers_of,
    step_by_rule,
)
from novograd.jax.moments import real_shape
from novograd.layers import Split
from novograd.quantized import row_axis
from novograd.variants import Variant

_TARGET = "novograd_step"
# The dtypes of the momentum buffer that have a kernel, by the dtype of the gradient.
_MOMENTS = {
    "float64": ("float64",),
    "float32": ("float32",),
    "bfloat16": ("bfloat16", "float32"),
    "float16": ("float16", "float32"),
    "complex64": ("complex64",),
    "complex128": ("complex128",),
}


class _Call(NamedTuple):
    """What is known about a step while it is traced.

    Attributes:
        tree: The structure of ``(hyper, leaves)``, whose arrays are the operands.
        switches: The options that never change.
        demanded: Whether it is an error if the kernels cannot be used.
    """

    tree: Any
    switches: Switches
    demanded: bool

    def inputs(self, operands: Sequence[Any]) -> tuple[StepHyperparameters, list[Leaf]]:
        """Returns the hyperparameters and leaves that hold these arrays."""
        return jax.tree.unflatten(self.tree, operands)


def step(
    leaves: Sequence[Leaf], hyper: StepHyperparameters, switches: Switches, *, demanded: bool
) -> list[Stepped]:
    """Takes a step by the kernels for the leaves that they support, and by the rule for others.

    Raises:
        RuntimeError: If the kernels are demanded and cannot be used for all leaves.
    """
    place = _problem_of_place() or _problem_of_variant(switches.variant)
    stepped: dict[int, Stepped] = {}
    groups: dict[str, dict[int, Leaf]] = {"rule": {}, "decaying": {}, "plain": {}}
    for i, leaf in enumerate(leaves):
        problem = place or _problem_of(leaf)
        if problem and demanded:
            raise error_of_fused(problem)
        groups["rule" if problem else "decaying" if leaf.decays else "plain"][i] = leaf
    for group, chosen in groups.items():
        if group == "rule":
            done = step_by_rule(list(chosen.values()), hyper, switches)
        elif chosen:
            used = hyper if group == "decaying" else replace(hyper, weight_decay=0.0)
            operands, tree = jax.tree.flatten((used, list(chosen.values())))
            call = _Call(tree, switches, demanded)
            done = jax.tree.unflatten(
                _output_structure(chosen.values()), _step_p.bind(*operands, call=call)
            )
        else:
            continue
        stepped.update(zip(chosen, done, strict=True))
    return [stepped[i] for i in range(len(leaves))]


def _output_structure(leaves: Iterable[Leaf]) -> Any:
    """Returns the tree structure of the result of a step of these leaves."""
    return jax.tree.structure(
        [Stepped(0, 0, 0, scales=None if leaf.scales is None else 0) for leaf in leaves]
    )


def error_of_fused(problem: str) -> RuntimeError:
    """Returns the error for ``fused=True`` if the kernels cannot be used."""
    return RuntimeError(f"fused=True, but {problem}")


def _problem_of_place() -> str | None:
    """Returns why the kernels cannot be used where the step is traced, or None."""
    if native.kernels is None:
        if jax.default_backend() == "cpu":
            native.usable()  # gives the warning
        return native.PROBLEM
    problem = _problem_of_registration()
    if problem:
        return problem
    kinds = jax.sharding.get_abstract_mesh().axis_types
    if any(kind != jax.sharding.AxisType.Auto for kind in kinds):
        return "there is no kernel for pieces of leaves (in shard_map or with an explicit mesh)"
    return None


def _problem_of_variant(variant: Variant) -> str | None:
    """Returns why there is no kernel for a variant, or None."""
    if variant.amsgrad or variant.norm == "inf":
        return f"there is no kernel for variant {variant.name!r}"
    return None


def _problem_of(leaf: Leaf) -> str | None:
    """Returns why there is no kernel for a leaf, or None."""
    arrays = jax.tree.leaves(replace(leaf, maximum=None, scales=None))
    if not all(isinstance(x, (jax.Array, np.ndarray)) for x in arrays):
        return "there is a kernel for arrays only"
    gradient, moment, v, *weights = ((x.dtype.name, x.shape) for x in arrays)
    v_dtype = "float64" if gradient[0] in ("float64", "complex128") else "float32"
    moments = _MOMENTS.get(gradient[0], ())
    expected = [(dtype, gradient[1]) for dtype in moments]
    if leaf.scales is not None and moments:
        expected = [("int8", real_shape(leaf.gradient))]
    if (
        moment in expected
        and v == (v_dtype, leaf.layout.v_shape)
        and all(w == gradient for w in weights)
    ):
        grid = _grid(leaf.gradient, leaf.layout)
        if grid is None:
            return f"there is no kernel for {leaf.layout.layers} of a leaf of shape {gradient[1]}"
        if leaf.scales is not None and not native.kernels.has_quantised_pass(
            grid=grid, row=_row(leaf)
        ):
            return "there is no kernel for these layers, which share blocks of a buffer in int8"
        return None
    names = ("gradient", "momentum buffer", "v", "weights")
    kinds = ", ".join(
        f"{name} {dtype}{list(shape)}"
        for name, (dtype, shape) in zip(names, (gradient, moment, v, *weights), strict=False)
    )
    return f"there is no kernel for a leaf with {kinds}"


def _grid(gradient: Any, layout: LeafLayout) -> tuple[int, int, int, int] | None:
    """Returns where the kernels find the layers of a leaf, or None if they cannot find them."""
    if isinstance(layout.layers, Split) and len(layout.layers.sizes) > 1:
        return None
    strides = [math.prod(gradient.shape[i + 1 :]) for i in range(gradient.ndim)]
    pairs = jnp.iscomplexobj(gradient)
    found = native.grid(gradient.shape, tuple(strides), layout.v_shape, columns=not pairs)
    if found is None or not pairs:
        return found
    runs, layers, run, stride = found
    return runs, layers, 2 * run, 2 * stride


def _row(leaf: Leaf) -> int:
    """Returns the number of elements of a row of a leaf's momentum buffer in 8 bits, else 0."""
    if leaf.scales is None:
        return 0
    shape = leaf.moment.shape
    return math.prod(shape[row_axis(shape) :])


def _update_is_multiple_of_moment(variant: Variant, moments: Sequence[Any]) -> bool:
    """Whether the update is the new momentum buffer times one number for all leaves.

    If this number is not 1 and a buffer has half precision, the answer is False: the buffer is
    rounded, and the product would be rounded again. If a buffer is in 8 bits, the answer is False:
    the update is not rounded like the buffer.
    """
    if any(m.dtype == jnp.int8 for m in moments):
        return False
    times_one = variant.rate == "moment" or all(m.dtype.itemsize > 2 for m in moments)
    return variant.decay == "moment" and variant.normalises == "gradient" and times_one


# -- the step by the rule and by the kernels ------------------------------------------------------


def _by_rule(*operands: Any, call: _Call) -> list[Any]:
    hyper, leaves = call.inputs(operands)
    return jax.tree.leaves(step_by_rule(leaves, hyper, call.switches))


def _by_kernels(*operands: Any, call: _Call) -> list[Any]:
    hyper, leaves = call.inputs(operands)
    n, switches = len(leaves), call.switches
    gradients, moments = [leaf.gradient for leaf in leaves], [leaf.moment for leaf in leaves]
    norms = [leaf.v for leaf in leaves]
    weights = [leaf.weights for leaf in leaves if leaf.weights is not None]
    scales = [leaf.scales for leaf in leaves if leaf.scales is not None]
    counts = [jnp.asarray(hyper.count, jnp.float32)] if scales else []
    # The dtype of the numbers matters little: the kernels compute the coefficients in float64.
    dtype = jnp.result_type(*(v.dtype for v in norms))
    numbers = numbers_of(hyper, switches, dtype)
    arguments = native.arguments(
        numbers,
        nesterov=switches.nesterov,
        skip_nonfinite=switches.skip_nonfinite,
        increment=not switches.applies,
    )
    if switches.applies:
        targets, first = weights, 1 + 3 * n
    elif (
        switches.nesterov
        or switches.skip_nonfinite
        or not _update_is_multiple_of_moment(switches.variant, moments)
    ):
        targets, first = gradients, 1
    else:
        # Because c is 1, the update is -d*m. XLA computes it where it is used, so the update needs
        # no memory and the kernels do not overwrite the gradients.
        targets, first = [], 1
    results = [*targets, *moments, *norms, *scales]
    begin = 1 + 3 * n + len(weights) + len(counts)  # of the scales
    overwritten = [
        *range(first, first + len(targets)),
        *range(1 + n, 1 + 3 * n),
        *range(begin, begin + len(scales)),
    ]
    run = jax.ffi.ffi_call(
        _TARGET,
        [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
        input_output_aliases={operand: i for i, operand in enumerate(overwritten)},
    )
    after = run(
        jnp.stack([jnp.asarray(x, dtype) for x in arguments]),
        *(*gradients, *moments, *norms, *weights, *counts, *scales),
        grids=np.array([_grid(leaf.gradient, leaf.layout) for leaf in leaves], np.int64).ravel(),
        rows=np.array([_row(leaf) for leaf in leaves], np.int64),
        scales=np.array([leaf.layout.scale for leaf in leaves]),
        threads=np.int32(native.processors()),
    )
    *targets, moments, norms = (after[i : i + n] for i in range(0, len(after) - len(scales), n))
    added = (
        targets[0]
        if targets
        else [(-numbers.d * m).astype(g.dtype) for g, m in zip(gradients, moments, strict=True)]
    )
    new = iter(after[len(after) - len(scales) :])
    return jax.tree.leaves(
        [
            Stepped(*one, scales=None if leaf.scales is None else next(new))
            for leaf, *one in zip(leaves, added, moments, norms, strict=True)
        ]
    )


@functools.cache
def _problem_of_registration() -> str | None:
    """Registers the kernels with JAX, once; returns why that is not possible, or None."""
    if not hasattr(jax.sharding, "get_abstract_mesh"):
        return "this version of JAX is too old for the kernels"
    try:
        jax.ffi.register_ffi_target(_TARGET, native.kernels.xla_step(), platform="cpu")
    except RuntimeError as error:  # XLA has another version of the interface
        return f"this version of JAX does not accept the kernels ({error})"
    return None


# -- rules for the transformations of JAX ---------------------------------------------------------

_step_p = Primitive("novograd_step")
_step_p.multiple_results = True


@functools.partial(jax.jit, static_argnames="call")
def _run(*args: Any, call: _Call) -> Any:
    return _step_p.bind(*args, call=call)


def _apply(*args: Any, call: _Call) -> Any:
    """Takes a step outside of compiled programs.

    When JAX looks for NaN, it repeats a program step by step: then the rule shows the operation.
    """
    config: Any = jax.config
    if config.jax_debug_nans or config.jax_debug_infs:
        return _by_rule(*args, call=call)
    with jax.disable_jit(False):
        return _run(*args, call=call)


def _abstract(*operands: Any, call: _Call) -> list[Any]:
    _, leaves = call.inputs(operands)
    stepped = [
        Stepped(
            leaf.weights if call.switches.applies else leaf.gradient,
            leaf.moment,
            leaf.v,
            scales=leaf.scales,
        )
        for leaf in leaves
    ]
    return [x.update(weak_type=False) for x in jax.tree.leaves(stepped)]


def _batch(args: Sequence[Any], axes: Sequence[Any], *, call: _Call) -> tuple[list[Any], list[int]]:
    if call.demanded:
        raise error_of_fused("there is no kernel for a batch of optimizers (in vmap)")
    results = jax.vmap(functools.partial(_by_rule, call=call), in_axes=tuple(axes))(*args)
    return results, [0] * len(results)


def _differentiate(
    primals: Sequence[Any], tangents: Sequence[Any], *, call: _Call
) -> tuple[list[Any], list[Any]]:
    if call.demanded:
        raise error_of_fused("the kernels have no derivative")
    full = [ad.instantiate_zeros(t) for t in tangents]
    return jax.jvp(functools.partial(_by_rule, call=call), list(primals), full)


def _lower_for_cpu(context: Any, *args: Any, call: _Call) -> Any:
    module = context.module_context
    placement = module.axis_context
    problem = None
    if not (isinstance(placement, mlir.ShardingContext) and placement.num_devices == 1):
        problem = "there is no kernel for several devices"
    elif module.lowering_parameters.for_export:
        problem = "a call of the kernels cannot be exported"
    return _lower(problem, context, *args, call=call)


def _lower(problem: str | None, context: Any, *args: Any, call: _Call) -> Any:
    if problem and call.demanded:
        raise error_of_fused(problem)
    chosen: Callable[..., Any] = _by_rule if problem else _by_kernels
    lower = mlir.lower_fun(functools.partial(chosen, call=call), multiple_results=True)
    return lower(context, *args)


_step_p.def_impl(_apply)
_step_p.def_abstract_eval(_abstract)
batching.primitive_batchers[_step_p] = _batch
ad.primitive_jvps[_step_p] = _differentiate
mlir.register_lowering(_step_p, _lower_for_cpu, platform="cpu")
mlir.register_lowering(_step_p, functools.partial(_lower, "there are kernels for the CPU only"))
