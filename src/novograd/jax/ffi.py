"""A step of the leaves by the native CPU kernels: one call of XLA for all leaves, in place.

It is a primitive of JAX, so that each transformation finds in it what it needs. Lowered for one
CPU device it is a call of the kernels; lowered for anything else, and under ``jax.vmap`` and
differentiation, it is the rule in JAX's operations.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from novograd import native
from novograd.jax.layout import Layout
from novograd.jax.leaves import (
    Hyperparameters,
    Leaf,
    Stepped,
    Switches,
    numbers_of,
    step_by_rule,
)
from novograd.layers import Split
from novograd.variants import Variant

_TARGET = "novograd_step"
# The dtypes of the moment for which there is a kernel, by that of the gradient.
_MOMENTS = {
    "float64": ("float64",),
    "float32": ("float32",),
    "bfloat16": ("bfloat16", "float32"),
    "float16": ("float16", "float32"),
    "complex64": ("complex64",),
    "complex128": ("complex128",),
}


class _Call(NamedTuple):
    """What is known of a step while it is traced.

    Attributes:
        layouts: The layers of each leaf.
        constants: The hyperparameters that are floats; None where it is an operand.
        switches: What is decided once.
        demanded: Whether anything but the kernels is an error.
    """

    layouts: tuple[Layout, ...]
    constants: tuple[float | None, ...]
    switches: Switches
    demanded: bool


def step(
    leaves: Sequence[Leaf], hyper: Hyperparameters, switches: Switches, *, demanded: bool
) -> list[Stepped]:
    """Takes a step by the kernels where they can be used, elsewhere by the rule.

    Raises:
        RuntimeError: If the kernels are demanded and cannot be used for all leaves.
    """
    place = _problem_of_place() or _problem_of_variant(switches.variant)
    groups: dict[str, list[int]] = {"rule": [], "decaying": [], "plain": []}
    for i, leaf in enumerate(leaves):
        problem = place or _problem_of(leaf, switches.applies)
        if problem and demanded:
            raise cannot(problem)
        group = "rule" if problem else "decaying" if leaf.decays else "plain"
        groups[group].append(i)
    stepped: dict[int, Stepped] = {}
    for group, indices in groups.items():
        chosen = [leaves[i] for i in indices]
        if group == "rule":
            done = step_by_rule(chosen, hyper, switches)
        else:
            decays = group == "decaying"
            used = hyper if decays else hyper._replace(weight_decay=0.0)
            done = _bind(chosen, used, switches, decays, demanded) if chosen else []
        stepped.update(zip(indices, done, strict=True))
    return [stepped[i] for i in range(len(leaves))]


def cannot(problem: str) -> RuntimeError:
    """Returns the error of ``fused=True``."""
    return RuntimeError(f"fused=True, but {problem}")


def _problem_of_place() -> str | None:
    """Why the kernels cannot be used where this is traced, or None."""
    if native.kernels is None:
        if jax.default_backend() == "cpu":
            native.usable()  # says so
        return native.PROBLEM
    problem = _problem_of_registration()
    if problem:
        return problem
    kinds = jax.sharding.get_abstract_mesh().axis_types
    if any(kind != jax.sharding.AxisType.Auto for kind in kinds):
        return "there is no kernel for pieces of leaves, as in shard_map or an explicit mesh"
    return None


def _problem_of_variant(variant: Variant) -> str | None:
    """Why there is no kernel for a variant, or None."""
    if variant.amsgrad or variant.norm == "inf":
        return f"there is no kernel for variant {variant.name!r}"
    return None


def _problem_of(leaf: Leaf, applies: bool) -> str | None:
    """Why there is no kernel for a leaf, or None."""
    arrays = leaf[:4] if leaf.decays or applies else leaf[:3]
    if not all(isinstance(x, (jax.Array, np.ndarray)) for x in arrays):
        return "there is a kernel for arrays only"
    gradient, moment, v, *weights = ((x.dtype.name, x.shape) for x in arrays)
    v_dtype = "float64" if gradient[0] in ("float64", "complex128") else "float32"
    if (
        moment[0] in _MOMENTS.get(gradient[0], ())
        and moment[1] == gradient[1]
        and v == (v_dtype, leaf.layout.v_shape)
        and all(w == gradient for w in weights)
    ):
        if _grid(leaf.gradient, leaf.layout):
            return None
        return f"there is no kernel for {leaf.layout.layers} of a leaf of shape {gradient[1]}"
    names = ("gradient", "moment", "v", "weights")
    kinds = ", ".join(
        f"{name} {dtype}{list(shape)}"
        for name, (dtype, shape) in zip(names, (gradient, moment, v, *weights), strict=False)
    )
    return f"there is no kernel for a leaf of {kinds}"


def _grid(gradient: Any, layout: Layout) -> tuple[int, int, int, int] | None:
    """Where the kernels find the layers of a leaf; None if they cannot."""
    if isinstance(layout.layers, Split) and len(layout.layers.sizes) > 1:
        return None
    strides = [math.prod(gradient.shape[i + 1 :]) for i in range(gradient.ndim)]
    found = native.grid(gradient.shape, tuple(strides), layout.v_shape)
    if found is None or not jnp.iscomplexobj(gradient):
        return found
    runs, layers, run, stride = found
    return runs, layers, 2 * run, 2 * stride  # pairs of real numbers


def _bind(
    leaves: Sequence[Leaf], hyper: Hyperparameters, switches: Switches, decays: bool, demanded: bool
) -> list[Stepped]:
    """Takes a step of leaves that have kernels, and of which all decay or none."""
    arrays = [x for x in hyper if not isinstance(x, float)]
    columns = list(zip(*leaves, strict=True))
    needed = columns[:4] if decays or switches.applies else columns[:3]
    operands = [x for column in needed for x in column]
    call = _Call(
        layouts=tuple(leaf.layout for leaf in leaves),
        constants=tuple(x if isinstance(x, float) else None for x in hyper),
        switches=switches,
        demanded=demanded,
    )
    results = _step_p.bind(*arrays, *operands, call=call)
    return [Stepped(*one) for one in zip(*_in_parts(results, len(leaves)), strict=True)]


def _operands(args: Sequence[Any], call: _Call) -> tuple[Hyperparameters, list[Any]]:
    """Undoes what ``_bind`` did: the hyperparameters, and gradients, moments, v and weights."""
    rest = iter(args)
    hyper = Hyperparameters(*(next(rest) if x is None else x for x in call.constants))
    return hyper, list(rest)


def _in_parts(arrays: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(arrays[i : i + size]) for i in range(0, len(arrays), size)]


def _update_is_multiple_of_moment(variant: Variant, moments: Sequence[Any]) -> bool:
    """Whether what is added to the weights can be computed from their moments, times one number.

    Of half precision these are rounded, and a product would be once more.
    """
    times_one = variant.rate == "moment" or all(m.dtype.itemsize > 2 for m in moments)
    return variant.decay == "moment" and variant.normalises == "gradient" and times_one


# -- the two ways to take the step ----------------------------------------------------------------


def _by_rule(*args: Any, call: _Call) -> list[Any]:
    hyper, operands = _operands(args, call)
    n = len(call.layouts)
    gradients, moments, norms, *weights = _in_parts(operands, n)
    columns = (gradients, moments, norms, weights[0] if weights else [0.0] * n, call.layouts)
    leaves = [Leaf(*one) for one in zip(*columns, strict=True)]
    stepped = step_by_rule(leaves, hyper, call.switches)
    return [x for column in list(zip(*stepped, strict=True))[:3] for x in column]


def _by_kernels(*args: Any, call: _Call) -> Sequence[jax.Array]:
    hyper, operands = _operands(args, call)
    n, switches = len(call.layouts), call.switches
    gradients, moments, norms, *weights = _in_parts(operands, n)
    # The kernels compute the scalars in float64 anyway.
    dtype = jnp.result_type(*(v.dtype for v in norms))
    used = native.rule_of(
        numbers_of(hyper, switches, dtype),
        nesterov=switches.nesterov,
        skip_nonfinite=switches.skip_nonfinite,
        increment=not switches.applies,
    )
    if switches.applies:
        targets, first = weights[0], 1 + 3 * n
    elif (
        switches.nesterov
        or switches.skip_nonfinite
        or not _update_is_multiple_of_moment(switches.variant, moments)
    ):
        targets, first = gradients, 1
    else:
        # What is added is -d*m. XLA computes that as part of what is done with it, so that it takes
        # no memory, and the gradients may be kept.
        targets, first = [], 1
    results = [*targets, *moments, *norms]
    overwritten = [*range(first, first + len(targets)), *range(1 + n, 1 + 3 * n)]
    run = jax.ffi.ffi_call(
        _TARGET,
        [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
        input_output_aliases={operand: i for i, operand in enumerate(overwritten)},
    )
    grids = [_grid(g, layout) for g, layout in zip(gradients, call.layouts, strict=True)]
    after = run(
        jnp.stack([jnp.asarray(x, dtype) for x in used]),
        *operands,
        grids=np.array(grids, np.int64).ravel(),
        scales=np.array([layout.scale for layout in call.layouts]),
        threads=np.int32(native.processors()),
    )
    if targets:
        return after
    added = [(-used.d * m).astype(g.dtype) for g, m in zip(gradients, after, strict=False)]
    return [*added, *after]


@functools.cache
def _problem_of_registration() -> str | None:
    """Makes the kernels known to JAX, once; returns why that is not possible, or None."""
    if not hasattr(jax.sharding, "get_abstract_mesh"):
        return "this version of JAX is too old for the kernels"
    try:
        jax.ffi.register_ffi_target(_TARGET, native.kernels.xla_step(), platform="cpu")
    except RuntimeError as error:  # another version of XLA's interface
        return f"this version of JAX does not take the kernels ({error})"
    return None


# -- what the transformations of JAX need ---------------------------------------------------------

_step_p = Primitive("novograd_step")
_step_p.multiple_results = True


@functools.partial(jax.jit, static_argnames="call")
def _run(*args: Any, call: _Call) -> Any:
    return _step_p.bind(*args, call=call)


def _abstract(*args: Any, call: _Call) -> list[Any]:
    _, operands = _operands(args, call)
    gradients, moments, norms, *weights = _in_parts(operands, len(call.layouts))
    targets = weights[0] if call.switches.applies else gradients
    return [x.update(weak_type=False) for x in (*targets, *moments, *norms)]


def _batch(args: Sequence[Any], axes: Sequence[Any], *, call: _Call) -> tuple[list[Any], list[int]]:
    if call.demanded:
        raise cannot("there is no kernel for a batch of optimizers, as in vmap")
    results = jax.vmap(functools.partial(_by_rule, call=call), in_axes=tuple(axes))(*args)
    return results, [0] * len(results)


def _differentiate(
    primals: Sequence[Any], tangents: Sequence[Any], *, call: _Call
) -> tuple[list[Any], list[Any]]:
    if call.demanded:
        raise cannot("the kernels have no derivative")
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
        raise cannot(problem)
    chosen: Callable[..., Any] = _by_rule if problem else _by_kernels
    lower = mlir.lower_fun(functools.partial(chosen, call=call), multiple_results=True)
    return lower(context, *args)


_step_p.def_impl(_run)
_step_p.def_abstract_eval(_abstract)
batching.primitive_batchers[_step_p] = _batch
ad.primitive_jvps[_step_p] = _differentiate
mlir.register_lowering(_step_p, _lower_for_cpu, platform="cpu")
mlir.register_lowering(_step_p, functools.partial(_lower, "there are kernels for the CPU only"))
