"""The transformations, their arguments and their state."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from novograd import native, variants
from novograd.foreign import explains_arguments
from novograd.hyperparameters import check_flag, check_number
from novograd.jax import ffi, moments
from novograd.jax.layout import LeafLayout, check_tree, layouts_of, map_with_prefix
from novograd.jax.leaves import (
    Leaf,
    StepHyperparameters,
    Stepped,
    Switches,
    step_by_rule,
    zero_second_moment,
)
from novograd.variants import Variant, VariantName


class NovogradState(NamedTuple):
    """The state of NovoGrad.

    Attributes:
        count: Number of steps so far; int32, of shape ().
        mu: The momentum buffer ``m``, with its sign and the learning rate inside. A tree like the
            weights, in their dtype or ``mu_dtype``.
        nu: The second moment ``v``. A tree like the weights, in float32 (float64 for float64 and
            complex128 weights). A leaf of it is a scalar, or has one number for each layer, in the
            shape that ``novograd.layers`` gives. It is 0 for a layer without history.
        nu_max: The largest ``nu`` so far, a tree like ``nu``, for variants with amsgrad; else None.
    """

    count: Any
    mu: Any
    nu: Any
    nu_max: Any = None


class QuantizedNovogradState(NamedTuple):
    """The state of NovoGrad with ``mu_dtype=jnp.int8``.

    Attributes:
        count: See ``NovogradState``, as for ``nu`` and ``nu_max``.
        mu: A tree like the weights. A quantised momentum buffer is in int8. It has the shape of its
            weights; complex weights have one more axis, the last one, for their real pairs. The
            other buffers are in the dtype of their weights.
        nu: The second moment.
        nu_max: The largest second moment so far, or None.
        mu_scale: A tree like the weights. For a quantised buffer it has the float32 scales of the
            blocks, in the shape of ``novograd.quantized.scale_shape``; for others the scalar 0.
    """

    count: Any
    mu: Any
    nu: Any
    nu_max: Any
    mu_scale: Any


class Novograd(optax.GradientTransformationExtraArgs):
    """The gradient transformation that ``novograd`` returns; ``step`` also updates the weights.

    Like every gradient transformation, it is a tuple of ``init`` and ``update``.

    Attributes:
        init: Creates a ``NovogradState`` from the weights (with ``mu_dtype=jnp.int8`` a
            ``QuantizedNovogradState``).
        update: ``update(gradients, state, params) -> (updates, state)``.

    Example:
        >>> w = jnp.array([1.0, 2.0])
        >>> optimizer = novograd(learning_rate=0.5)
        >>> w, state = optimizer.step(w, optimizer.init(w), jnp.array([3.0, 4.0]))
        >>> print(w)
        [0.7 1.6]
    """

    # Cached, because JAX compiles a function again if the function object is another one.
    @functools.cached_property
    def step(self) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
        """``step(params, state, gradients) -> (params, state)``: ``update`` and ``apply_updates``.

        The result equals ``optax.apply_updates`` of the updates, but is rounded once. The native
        kernels write the new weights over the old weights if ``params`` and ``state`` are donated
        to the jitted function around ``step`` (and returned in that order). This saves a pass over
        memory.

        ``step`` belongs to ``update``. If ``update`` is replaced, ``step`` does not exist.

        Raises:
            AttributeError: If ``update`` is not the function that ``novograd`` made.

        Example:
            >>> optimizer = novograd(0.5)
            >>> hasattr(optimizer._replace(update=optax.identity().update), "step")
            False
        """
        optimizer = getattr(self.update, "__self__", None)
        if not isinstance(optimizer, _Optimizer):
            raise AttributeError(
                f"step belongs to the update of novograd(...), but update is {self.update!r}"
            )
        return optimizer.step


@explains_arguments
def novograd(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = None,
    b2: Any = None,
    eps: Any = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    grad_averaging: bool | None = None,
    *,
    variant: VariantName | Variant = "documented",
    nesterov: bool | None = None,
    mask: Any = None,
    mu_dtype: Any = None,
    layers: Any = None,
    axis_name: Any = None,
    skip_nonfinite: bool = False,
    fused: bool | None = None,
) -> Novograd:
    """Stochastic gradient descent with layer-wise normalised gradients.

    A layer is a leaf, unless ``layers`` says otherwise. For each layer with gradient ``g_t``
    and weights ``w_{t-1}``::

        v_t = b2*v_{t-1} + (1 - b2)*|g_t|^2            v_1 = |g_1|^2; one number per layer
        m_t = b1*m_{t-1} + k*lr_t*(g_t/sqrt(v_t + eps) + weight_decay*w_{t-1})
        update = -m_t                                  k = 1 - b1 with grad_averaging, else 1

    While ``v`` is exactly 0, the layer has no history: its first gradient that is not zero sets
    ``v``.

    This is the documented rule. Every other published NovoGrad is a ``variant`` with its own
    defaults: see ``novograd.variants`` and docs/variants.md. ``variant="optax"`` is the rule of
    ``optax.novograd``. It adds ``eps`` outside the root, has the learning rate in the update
    instead of ``m``, has ``b1=0.9`` and ``b2=0.25``, and only in the first step has no history.
    (optax also stores ``v`` in the dtype of the weights.)

    The state is a ``NovogradState``. The updates have the dtype of the gradients.

    Numbers: the norm and all scalars have at least float32 precision. float16 and bfloat16 weights
    are updated in float32 arithmetic; the momentum buffer and the update are each rounded once. If
    ``|g_t|^2`` is too large for the dtype of ``v``, the step ignores that gradient and keeps ``v``,
    so that the weights stay finite. If ``|g_t|^2`` is too small, it counts as zero. A gradient that
    itself holds an infinity or NaN makes the weights NaN, as with every optimizer of optax, unless
    ``skip_nonfinite`` is set.

    A leaf that is None, in the gradients or everywhere, does not change, and its state does not
    change either. The same holds for a leaf whose gradient has dtype float0, which JAX returns for
    integers. All other leaves must have a floating or complex dtype. Complex numbers are treated
    as pairs of real numbers.

    With ``optax.inject_hyperparams``, all numbers that are given may change from step to step. Its
    ``static_args`` must name ``mask``, ``mu_dtype``, ``layers`` and ``axis_name`` if these are
    types or functions. For weights that are not float32, set its ``hyperparam_dtype`` to float32;
    otherwise ``b2`` is rounded.

    Args:
        learning_rate: ``lr``; a float, an array of shape (), or a schedule: a function of the
            number of steps before this one.
        b1: Decay rate of ``m``, in [0, 1); a float or an array of shape (). The defaults of ``b1``,
            ``b2``, ``eps``, ``grad_averaging``, ``nesterov`` and ``layers`` come from the variant.
            The documented rule has 0.95, 0.98, 1e-8, False, False and whole leaves.
        b2: Decay rate of ``v``, in [0, 1); given like ``b1``. With 0, each gradient is normalised
            by its own norm.
        eps: Added to ``v`` inside the root, to avoid a division by zero; given like ``b1``.
        weight_decay: Factor of the weights in ``m``; given like ``learning_rate``. Unless it is
            the number 0, ``update`` needs ``params``.
        grad_averaging: Whether the new term of ``m`` is multiplied by ``1 - b1``.
        variant: The published form of NovoGrad: a name, or a ``novograd.variants.Variant``.
        nesterov: Whether to use Nesterov momentum. The update is then
            ``-(b1*m_t + (m_t - b1*m_{t-1}))``.
        mask: Which leaves decay: a tree of bools like the weights, or a prefix of such a tree; or a
            function that makes one of these from the weights. By default all leaves decay.
        mu_dtype: The dtype of the momentum buffers: a real floating dtype, ``jnp.int8``, or None
            for the dtype of the weights. A floating dtype holds for all leaves that are real.
            ``jnp.int8`` quantises the buffers of leaves with at least two axes and 4,096 elements,
            also of complex leaves: they take a byte a number, and a scale for each block of 128
            (see ``novograd.quantized`` and docs/int8.md). The other buffers have the dtype of their
            weights. Rounding is at random, and does not depend on the sharding of a leaf under
            ``jax.jit``, nor of a leaf inside ``jax.shard_map`` whose ``PartitionSpec`` is given by
            ``axis_name``. Elsewhere, as under ``jax.vmap``, each piece is rounded like a whole
            leaf.
        layers: Which weights share one ``v``. None means the variant's default for all leaves.
            Otherwise give ``Stacked``, ``Split``, ``Rows`` or ``Whole`` of ``novograd.layers``; or
            a function ``(path, leaf) -> layers`` that returns one of these, or None for the whole
            leaf. Give one for all leaves, or a prefix of the tree of leaves, in which None also
            means the whole leaf.
            The ``path`` is like in ``jax.tree_util.tree_map_with_path``, but without the boxes of
            Flax; the ``leaf`` is an array of the leaf's shape. The rows of ``Rows()`` are along the
            last axis, but along the first axis of a leaf named ``embedding``.
        axis_name: The name or names of the mesh axes along which *one layer* is cut into pieces,
            inside ``jax.shard_map`` or ``jax.pmap``. There, a leaf is the piece on one device. The
            squared norms are added up along these axes. Do not name axes along which devices have
            copies, as in data parallelism: the norm would count once for each copy. Do not name
            axes that separate whole layers either: experts that are ``Stacked`` along the axis that
            is cut are whole on their device. Names apply to all leaves. If leaves differ, give a
            function ``(path, leaf) -> names`` that returns names, None, or a ``PartitionSpec`` like
            the one that ``jax.shard_map`` has for the leaf. Only a ``PartitionSpec`` tells the
            length of the whole leaf. That length is needed for ``Rows`` that are cut between their
            rows (``scale="norm"`` divides by the number of rows), and for ``Split`` that is cut
            along its axis. Under ``jax.jit`` with sharded arrays, norms are global without
            ``axis_name``.
        skip_nonfinite: Whether a layer keeps its weights, momentum buffer and ``v`` in a step in
            which its ``|g_t|^2`` is infinite or NaN.
        fused: Whether to use the native CPU kernels, with one call for all leaves. None uses the
            kernels where possible, and elsewhere the rule in JAX's operations. The kernels need a
            program for one CPU device, and leaves with dtypes and layers that have a kernel. They
            do not work under ``jax.vmap``, ``jax.shard_map``, differentiation and ``jax.export``.
            False never uses the kernels. True raises an error where they cannot be used. The
            results agree up to rounding.

    Returns:
        An optax gradient transformation. Its updates are for ``optax.apply_updates``. Its ``step``
        updates the weights directly.

    Raises:
        TypeError: If an argument has a type that is not named above. ``update`` and ``step`` raise
            it if a leaf with a gradient does not have a floating or complex dtype.
        ValueError: If a Python number is negative, NaN or infinite, or a decay rate is 1 or more;
            if an array does not have shape (); or if ``mu_dtype`` is another dtype. ``init`` and
            ``update`` raise it if the layers do not fit the leaves, if ``layers`` or ``mask`` is
            not a prefix of their tree, or if a leaf with an int8 momentum buffer is cut inside a
            block. ``update`` raises it if it needs ``params``, or if the second moments or scales
            in the state do not have the shapes for the leaves.
        RuntimeError: With ``fused=True``, if the kernels are not installed or ``axis_name`` is
            given. ``update``, or tracing or lowering it, raises it if the kernels cannot be used.

    Source: NVIDIA Clara Train 3.1, ``ai4med.libs.optimizers``; Ginsburg et al., "Stochastic
    Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks",
    arXiv:1905.11286.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> w = jnp.array([1.0, 2.0])
        >>> optimizer = novograd(learning_rate=0.5)
        >>> state = optimizer.init(w)
        >>> updates, state = optimizer.update(jnp.array([3.0, 4.0]), state, w)
        >>> print(optax.apply_updates(w, updates))
        [0.7 1.6]
        >>> float(state.nu)
        25.0
    """
    chosen = variants.get(variant)
    learning_rate = _check_schedule("learning_rate", learning_rate)
    b1 = _check("b1", chosen.beta1 if b1 is None else b1, below=1)
    b2 = _check("b2", chosen.beta2 if b2 is None else b2, below=1)
    eps = _check("eps", chosen.eps if eps is None else eps)
    weight_decay = _check_schedule("weight_decay", weight_decay)
    averaging = chosen.grad_averaging if grad_averaging is None else grad_averaging
    switches = Switches(
        variant=chosen,
        grad_averaging=check_flag("grad_averaging", averaging),
        nesterov=check_flag("nesterov", chosen.nesterov if nesterov is None else nesterov),
        skip_nonfinite=check_flag("skip_nonfinite", skip_nonfinite),
        applies=False,
    )
    mask = _check_mask(mask)
    mu_dtype = _check_mu_dtype(mu_dtype)
    layers = chosen.layers if layers is None else check_tree(layers)
    step_of_leaves = _step_function(fused, axis_name)
    optimizer = _Optimizer(
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        switches=switches,
        mask=mask,
        mu_dtype=mu_dtype,
        layers=layers,
        axis_name=axis_name,
        step_of_leaves=step_of_leaves,
    )
    return Novograd(optimizer.init, optimizer.update)


@explains_arguments
def scale_by_novograd(
    b1: Any = None,
    b2: Any = None,
    eps: Any = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    grad_averaging: bool | None = None,
    *,
    variant: VariantName | Variant = "documented",
    nesterov: bool | None = None,
    mask: Any = None,
    mu_dtype: Any = None,
    layers: Any = None,
    axis_name: Any = None,
    skip_nonfinite: bool = False,
    fused: bool | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The direction of ``novograd``; another transformation multiplies it by a learning rate.

    This is the same rule with ``lr = 1``. The update is ``+m_t``, as in every ``optax.scale_by_*``.
    Arguments, state, errors and source are the same as for ``novograd``.

    If a variant has the learning rate in the update, and its decay is not decoupled,
    ``optax.chain(scale_by_novograd(variant=...), optax.scale_by_learning_rate(lr))`` equals
    ``novograd(lr, variant=...)``.

    Other variants, such as the documented rule, have the learning rate in ``m``. In
    ``optax.chain(scale_by_novograd(), optax.scale_by_learning_rate(lr))`` the learning rate
    multiplies the whole momentum buffer, as in the paper. In ``novograd(lr)`` each gradient keeps
    the learning rate of its own step. The two are equal, up to rounding, while ``lr`` is constant.
    They differ under a schedule.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> w = jnp.array([1.0, 2.0])
        >>> optimizer = optax.chain(scale_by_novograd(), optax.scale_by_learning_rate(0.5))
        >>> updates, state = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(w), w)
        >>> print(optax.apply_updates(w, updates))
        [0.7 1.6]
        >>> print(state[0].mu)
        [0.6 0.8]
    """
    descent = novograd(
        1.0,
        b1,
        b2,
        eps,
        weight_decay,
        grad_averaging,
        variant=variant,
        nesterov=nesterov,
        mask=mask,
        mu_dtype=mu_dtype,
        layers=layers,
        axis_name=axis_name,
        skip_nonfinite=skip_nonfinite,
        fused=fused,
    )
    update = functools.partial(_direction, descent.update)
    return optax.GradientTransformationExtraArgs(descent.init, update)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class _Optimizer:
    """The checked arguments of ``novograd``, and the functions of the transformation.

    The functions are methods because closures cannot be copied or pickled. Methods can, if the
    arguments can.
    """

    learning_rate: Any
    b1: Any
    b2: Any
    eps: Any
    weight_decay: Any
    switches: Switches
    mask: Any
    mu_dtype: Any
    layers: Any
    axis_name: Any
    step_of_leaves: Any

    def init(self, params: Any) -> NovogradState | QuantizedNovogradState:
        """Returns the state before the first step."""
        layouts = layouts_of(self.layers, self.axis_name, params)
        amsgrad = self.switches.variant.amsgrad
        state = NovogradState(
            count=jnp.zeros((), jnp.int32),
            mu=jax.tree.map(functools.partial(_new_moment, self.mu_dtype), params, layouts),
            nu=jax.tree.map(zero_second_moment, params, layouts),
            nu_max=jax.tree.map(zero_second_moment, params, layouts) if amsgrad else None,
        )
        if self.mu_dtype != jnp.int8:
            return state
        scales = jax.tree_util.tree_map_with_path(_new_scales, params, layouts, state.mu)
        return QuantizedNovogradState(*state, mu_scale=scales)

    def update(self, updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Any]:
        """Returns the updates, which are added to the weights, and the new state."""
        if self._decays and params is None:
            raise ValueError("update needs params=, the current weights, for weight_decay")
        return self._step("updates", updates, state, params, applies=False)

    def step(self, params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        """Returns the new weights and the new state."""
        return self._step("gradients", gradients, state, params, applies=True)

    @property
    def _decays(self) -> bool:
        return not isinstance(self.weight_decay, float) or self.weight_decay != 0

    def _step(
        self, name: str, gradients: Any, state: Any, params: Any, *, applies: bool
    ) -> tuple[Any, Any]:
        variant = self.switches.variant
        found, tree = jax.tree_util.tree_flatten_with_path(gradients, is_leaf=lambda g: g is None)
        paths, given = [path for path, _ in found], [gradient for _, gradient in found]
        buffers, norms = map(tree.flatten_up_to, (state.mu, state.nu))
        held = scales_of(state, tree)
        shapes = tree.unflatten(map(_with_shape, given, buffers, held))
        layouts = _check_nu(state.nu, layouts_of(self.layers, self.axis_name, shapes))
        layouts = tree.flatten_up_to(layouts)
        maxima = tree.flatten_up_to(state.nu_max) if variant.amsgrad else [None] * len(given)
        weights = tree.flatten_up_to(params) if applies or self._decays else [None] * len(given)
        decaying = [False] * len(given)
        if self._decays:
            decaying = tree.flatten_up_to(_decaying(params, self.mask))
        every = list(map(Leaf, given, buffers, norms, weights, maxima, layouts, decaying, held))
        lr = _resolve("learning_rate", self.learning_rate, state.count)
        decay = _resolve("weight_decay", self.weight_decay, state.count)
        is_quantized = hasattr(state, "mu_scale")
        count = state.count if variant.counts or is_quantized else 0.0
        stepped = iter(
            self.step_of_leaves(
                [
                    _check_leaf(name, path, leaf, needs_weights=applies or leaf.decays)
                    for path, leaf in zip(paths, every, strict=True)
                    if not _is_missing(leaf.gradient)
                ],
                StepHyperparameters(lr, self.b1, self.b2, self.eps, decay, count),
                self.switches._replace(applies=applies),
            )
        )
        after = [
            Stepped(leaf.weights if applies else leaf.gradient, leaf.moment, leaf.v, leaf.maximum)
            if _is_missing(leaf.gradient)
            else next(stepped)
            for leaf in every
        ]
        result, mu, nu, nu_max = (tree.unflatten([leaf[i] for leaf in after]) for i in range(4))
        count = optax.safe_increment(state.count)
        new = NovogradState(count, mu, nu, nu_max if variant.amsgrad else None)
        if not is_quantized:
            return result, new
        scales = [
            before if leaf.scales is None else leaf.scales
            for before, leaf in zip(held, after, strict=True)
        ]
        return result, QuantizedNovogradState(*new, mu_scale=tree.unflatten(scales))


def scales_of(state: Any, tree: Any) -> list[Any]:
    """Returns the scales of each leaf of a tree; None for each leaf if the state has no scales.

    Example:
        >>> params = {"w": jnp.ones((2, 3))}
        >>> scales_of(novograd(0.1).init(params), jax.tree.structure(params))
        [None]
    """
    if hasattr(state, "mu_scale"):
        return tree.flatten_up_to(state.mu_scale)
    return [None] * tree.num_leaves


def _with_shape(gradient: Any, moment: Any, held: Any) -> Any:
    """Returns an array that has the shape of a leaf; or a tree, if a tree has no gradient.

    This is the momentum buffer, because gradients may be missing. A buffer in int8 may have one
    more axis. So the gradient is used there, and None if it is missing.
    """
    if not _is_missing(gradient):
        return moment if moments.used_scales(held) is None else gradient
    if held is None:
        return moment
    return jax.tree.map(lambda m, x: None if jnp.ndim(x) else m, moment, held)


def _direction(
    update: Any, updates: Any, state: Any, params: Any = None, **_: Any
) -> tuple[Any, Any]:
    """Calls the ``update`` of ``novograd``, and returns the updates with the opposite sign."""
    added, state = update(updates, state, params)
    return jax.tree.map(jnp.negative, added), state


def _is_missing(gradient: Any) -> bool:
    """Whether a leaf has no gradient: None, or float0, which ``jax.grad`` returns for integers."""
    return gradient is None or getattr(gradient, "dtype", None) == jax.dtypes.float0


def _check_leaf(name: str, path: Any, leaf: Leaf, *, needs_weights: bool) -> Leaf:
    """Returns a leaf as arrays, after checking that their dtypes are not integer.

    Integer weights would be rounded in each step and never change.
    """

    def check(name: str, x: Any) -> Any:
        x = x if hasattr(x, "dtype") else jnp.asarray(x)  # Python numbers
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} must have a floating or complex dtype, got "
                f"{x.dtype}; a leaf that is not trained needs None as its gradient"
            )
        return x

    leaf = replace(
        leaf,
        gradient=check(name, leaf.gradient),
        weights=check("params", leaf.weights) if needs_weights else None,
        scales=moments.used_scales(leaf.scales),
    )
    if leaf.scales is None:
        return replace(leaf, moment=check("state.mu", leaf.moment))
    shape = moments.real_shape(leaf.gradient)
    scale_shape = _scale_shape(path, shape, leaf.layout)
    if (leaf.moment.dtype, leaf.moment.shape, leaf.scales.shape) != (jnp.int8, shape, scale_shape):
        raise ValueError(
            f"state.mu{jax.tree_util.keystr(path)} must be int8 of shape {shape} and have "
            f"state.mu_scale of shape {scale_shape}, got {leaf.moment.dtype} of shape "
            f"{leaf.moment.shape} and {leaf.scales.shape}"
        )
    return leaf


def _new_moment(mu_dtype: Any, w: Any, layout: LeafLayout) -> jax.Array:
    """Returns the momentum buffer of a leaf before the first step."""
    dtype = jnp.result_type(w)
    if mu_dtype == jnp.int8:
        if moments.is_quantised(w, layout):
            return moments.new_moment(w)
    elif mu_dtype is not None and jnp.issubdtype(dtype, jnp.floating):
        dtype = mu_dtype
    return jnp.zeros_like(w, dtype=dtype)


def _new_scales(path: Any, w: Any, layout: LeafLayout, mu: Any) -> jax.Array:
    """Returns the scales of a leaf before the first step, or 0 if its buffer is not quantised."""
    if not moments.is_quantised(w, layout):
        return jnp.zeros((), jnp.float32)
    _scale_shape(path, mu.shape, layout)
    return moments.new_scales(mu, layout)


def _scale_shape(path: Any, shape: Any, layout: LeafLayout) -> tuple[int, ...]:
    """Returns the shape of the scales of a leaf; if it has parts of blocks, the error names it."""
    try:
        return moments.scale_shape(shape, layout)
    except ValueError as error:
        raise ValueError(f"params{jax.tree_util.keystr(path)}: {error}") from error


def _step_function(fused: bool | None, axis_name: Any) -> Any:
    """Returns the function that takes a step of the leaves."""
    if fused is not None and check_flag("fused", fused):
        if native.kernels is None:
            raise ffi.error_of_fused(f"{native.PROBLEM}")
        if axis_name is not None:
            raise ffi.error_of_fused("there is no kernel for pieces of leaves (with axis_name=)")
    if fused is False or axis_name is not None:
        return step_by_rule
    return functools.partial(ffi.step, demanded=fused is True)


def _check_nu(nu: Any, layouts: Any) -> Any:
    """Returns the layouts after checking that they fit the shapes of the second moments."""

    def check(path: Any, layout: Any, v: Any) -> None:
        if layout is not None and jnp.shape(v) != layout.v_shape:
            raise ValueError(
                f"state.nu{jax.tree_util.keystr(path)} must have shape {layout.v_shape} for "
                f"layers={layout.layers}, got {jnp.shape(v)}"
            )

    jax.tree_util.tree_map_with_path(check, layouts, nu, is_leaf=lambda layout: layout is None)
    return layouts


def _decaying(params: Any, mask: Any) -> Any:
    """Returns which weights decay: a tree of bools."""
    if mask is None:
        return jax.tree.map(lambda _: True, params)
    mask = mask(params) if _is_function(mask) else mask
    return map_with_prefix(lambda decays, *_: bool(decays), "mask", mask, params)


def _is_function(mask: Any) -> bool:
    """Whether a mask is a function; trees, such as modules, may be callable too."""
    return callable(mask) and jax.tree_util.all_leaves([mask])


def _resolve(name: str, value: Any, count: jax.Array) -> Any:
    """Calls a schedule, and converts every kind of Python number to a float."""
    if callable(value):
        value = value(count)
        if np.shape(value) != ():
            raise ValueError(
                f"the schedule {name} must return a scalar, got an array of shape {np.shape(value)}"
            )
    return float(value) if isinstance(value, Real) else value


def _check_schedule(name: str, value: Any) -> Any:
    """Checks a hyperparameter that may also be a schedule."""
    return value if callable(value) else _check(name, value)


def _check(name: str, value: Any, *, below: float = float("inf")) -> Any:
    """Checks a hyperparameter that may be a number or an array of shape ()."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, (jax.Array, np.ndarray)):
        return check_number(name, value, below=below)
    if value.shape != ():
        raise ValueError(f"{name} must be a scalar, got an array of shape {value.shape}")
    if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
        raise TypeError(f"{name} must be a real number, got an array of {value.dtype.name}")
    return value


def _check_mask(mask: Any) -> Any:
    """Checks that a mask is None, a function or a tree of bools."""
    if not _is_function(mask):
        for leaf in jax.tree.leaves(mask):
            if not isinstance(leaf, (bool, np.bool_)):
                raise TypeError(
                    f"mask must be a tree of bools, or a function that makes one, got {leaf!r} "
                    f"of type {type(leaf).__name__} in the tree"
                )
    return mask


def _check_mu_dtype(mu_dtype: Any) -> Any:
    """Returns a dtype after checking that it is int8, a real floating dtype or None."""
    if mu_dtype is None:
        return None
    message = f"mu_dtype must be int8, a real floating dtype or None, got {mu_dtype!r}"
    try:
        dtype = jnp.dtype(mu_dtype)
    except TypeError as error:
        raise TypeError(message) from error
    if dtype != jnp.int8 and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(message)
    return jax.dtypes.canonicalize_dtype(dtype)
