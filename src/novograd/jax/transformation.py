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
from novograd.hyperparameters import check_flag, check_number
from novograd.jax import ffi
from novograd.jax.layout import check_tree, layouts_of, map_with_prefix
from novograd.jax.leaves import (
    Leaf,
    StepHyperparameters,
    Stepped,
    Switches,
    step_by_rule,
    zero_second_moment,
)
from novograd.variants import Variant


class NovogradState(NamedTuple):
    """What NovoGrad stores.

    Attributes:
        count: Number of steps taken; int32, of shape ().
        mu: The moment ``m``, with its sign and the learning rate inside; a tree like the weights,
            in their dtype or ``mu_dtype``.
        nu: The average ``v`` of the squared norm; a tree like the weights, with one number for each
            layer, in float32 (float64 for float64 and complex128 weights): of shape () where the
            leaf is a layer, else as ``novograd.layers`` says. 0 where there is no history.
        nu_max: The largest ``nu`` so far, a tree like it, for variants with amsgrad; else None.
    """

    count: Any
    mu: Any
    nu: Any
    nu_max: Any = None


class Novograd(optax.GradientTransformationExtraArgs):
    """What ``novograd`` returns: a gradient transformation that can also take the whole step.

    It is the tuple of ``init`` and ``update``, as every gradient transformation is.

    Attributes:
        init: Makes a ``NovogradState`` from the weights.
        update: ``update(gradients, state, params) -> (updates, state)``.

    Example:
        >>> w = jnp.array([1.0, 2.0])
        >>> optimizer = novograd(learning_rate=0.5)
        >>> w, state = optimizer.step(w, optimizer.init(w), jnp.array([3.0, 4.0]))
        >>> print(w)
        [0.7 1.6]
    """

    # Kept, since JAX knows by the identity of a function whether it has compiled it.
    @functools.cached_property
    def step(self) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
        """``step(params, state, gradients) -> (params, state)``: both halves of a step at once.

        It is what ``optax.apply_updates`` makes of the updates, rounded once. The native kernels
        compute the new weights where the old ones are, if ``params`` and ``state`` are donated to
        the jitted function around it (and returned in that order), and so save a pass over memory.

        It belongs to ``update``: where that was replaced by another function, there is none.

        Raises:
            AttributeError: If ``update`` is not that of ``novograd``.

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


def novograd(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = None,
    b2: Any = None,
    eps: Any = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    grad_averaging: bool | None = None,
    *,
    variant: str | Variant = "documented",
    nesterov: bool = False,
    mask: Any = None,
    mu_dtype: Any = None,
    layers: Any = None,
    axis_name: Any = None,
    skip_nonfinite: bool = False,
    fused: bool | None = None,
) -> Novograd:
    """Stochastic gradient descent with layer-wise normalised gradients.

    For each layer, that is, each leaf unless ``layers`` says otherwise, with gradient ``g_t`` and
    weights ``w_{t-1}``::

        v_t = b2*v_{t-1} + (1 - b2)*|g_t|^2            v_1 = |g_1|^2; one number per layer
        m_t = b1*m_{t-1} + k*lr_t*(g_t/sqrt(v_t + eps) + weight_decay*w_{t-1})
        update = -m_t                                  k = 1 - b1 with grad_averaging, else 1

    While ``v`` is exactly 0 there is no history: the first gradient that is not zero sets it. The
    state is a ``NovogradState``. The updates have the dtype of the gradients.

    This is the documented rule. Every other published NovoGrad is a ``variant`` of it, with its own
    defaults: see ``novograd.variants`` and docs/variants.md. ``variant="optax"`` is the rule of
    ``optax.novograd``: it adds ``eps`` outside the root, multiplies by the learning rate after the
    moment, has ``b1=0.9`` and ``b2=0.25``, and takes the first step for the only one without
    history. (optax also stores ``v`` in the dtype of the weights.)

    Numbers: the norm and all scalars are float32 at least. Half-precision leaves are computed in
    float32, of which moment and update are each rounded once. Where ``|g_t|^2`` is too large for
    the dtype of ``v``, that gradient counts for nothing and ``v`` stays as it was; where it is too
    small, it counts as zero. A gradient that itself holds an infinity or NaN makes the weights
    NaN, as with every optimizer of optax, unless ``skip_nonfinite`` is set.

    Leaves that are None, in the gradients or everywhere, are left alone, together with their
    state; so are those whose gradient has dtype float0, which is that of an integer. All others
    must be of a floating or complex dtype. Complex leaves behave as their pairs of real numbers.

    With ``optax.inject_hyperparams`` all numbers that are given may change from step to step. Its
    ``static_args`` must name ``mask``, ``mu_dtype``, ``layers`` and ``axis_name`` where these are
    given as types or functions, and for weights that are not float32 its ``hyperparam_dtype``
    should be given as float32, or ``b2`` is rounded.

    Args:
        learning_rate: ``lr``; a float, an array of shape (), or a schedule, which is called with
            the number of steps taken before.
        b1: Decay rate of the moment, in [0, 1); a float or an array of shape (). This and the next
            arguments have the defaults of the variant; those of the documented rule are 0.95, 0.98
            for ``b2``, 1e-8, and False for ``grad_averaging``.
        b2: Decay rate of ``v``, in [0, 1); given like ``b1``. 0 normalises each gradient by its
            own norm.
        eps: Added to ``v`` inside the root, to avoid a division by zero; given like ``b1``.
        weight_decay: Factor of the weights in the moment; given like ``learning_rate``. Unless
            it is the number 0, ``update`` needs ``params``.
        grad_averaging: Whether what enters the moment is multiplied by ``1 - b1``.
        variant: Which NovoGrad: a name, or a ``novograd.variants.Variant``.
        nesterov: Whether to use Nesterov momentum: the update is then
            ``-(b1*m_t + (m_t - b1*m_{t-1}))``.
        mask: Which leaves decay: a tree of bools, or a prefix of one, like the weights; or a
            function that makes it from the weights. By default all.
        mu_dtype: A real floating dtype for the moment, by default that of the weights. Complex
            moments keep theirs.
        layers: What shares one ``v``: ``Stacked``, ``Split``, ``Rows`` of ``novograd.layers``, or
            None, the whole leaf. One for all leaves, or a prefix of their tree; in the place of
            each may be a function ``(path, leaf) -> layers`` of the leaf's path, as of
            ``jax.tree_util.tree_map_with_path`` but without the boxes of Flax, and an array of its
            shape. The rows of ``Rows()`` are along the last axis, but of a leaf named ``embedding``
            along the first.
        axis_name: Inside ``jax.shard_map`` or ``jax.pmap``, where a leaf is what one device has of
            it: the name or names of the mesh axes over which the pieces *of a layer* lie. The
            square sums are added up over them. It is not for axes along which devices have copies,
            as in data parallelism, whose norms would be counted once for each copy; nor for those
            that tell layers apart: experts that are ``Stacked`` along the axis that is cut are
            whole where they are, and need none. Names hold for all leaves. Where leaves differ, a
            function ``(path, leaf) -> names``, None or a ``PartitionSpec``, of the kind that
            ``jax.shard_map`` was given for the leaf. Only that also says how long the whole leaf
            is; it is needed for leaves of ``Rows`` that are cut between their rows (whose number
            ``scale="norm"`` divides by) and of ``Split`` that are cut along the axis that is
            split. Under ``jax.jit`` with sharded arrays norms are global without ``axis_name``.
        skip_nonfinite: Whether a layer keeps weights, moment and ``v`` in a step in which its
            ``|g_t|^2`` is infinite or NaN.
        fused: Whether to use the native CPU kernels, one call for all leaves. None: where they can
            be, which is in programs for one CPU device, for leaves for whose dtypes and layers
            there is a kernel; elsewhere, and under ``jax.vmap``, ``jax.shard_map``,
            differentiation and ``jax.export``, the rule in JAX's operations. False: nowhere. True:
            an error where they cannot be used. The results agree up to rounding.

    Returns:
        An optax gradient transformation; its updates are for ``optax.apply_updates``. Its ``step``
        does both at once.

    Raises:
        TypeError: If an argument has a type not named above. By ``update`` and ``step``: if a leaf
            that has a gradient is not of a floating or complex dtype.
        ValueError: If a Python number is out of range: negative, NaN or infinite, or a decay rate
            of 1 or more; or if an array is not of shape (). By ``init`` and ``update``: if the
            layers do not fit the leaves, or ``layers`` or ``mask`` is no prefix of their tree. By
            ``update``: if it needs ``params``, or if the shapes of the second moments in the state
            are not those of the layers.
        RuntimeError: With ``fused=True``, if the kernels are not installed or ``axis_name`` is
            given. By ``update``, or when it is traced or lowered: if they cannot be used.

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
        nesterov=check_flag("nesterov", nesterov),
        skip_nonfinite=check_flag("skip_nonfinite", skip_nonfinite),
        applies=False,
    )
    mask = _check_mask(mask)
    mu_dtype = _check_mu_dtype(mu_dtype)
    layers = check_tree(layers)
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


def scale_by_novograd(
    b1: Any = None,
    b2: Any = None,
    eps: Any = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    grad_averaging: bool | None = None,
    *,
    variant: str | Variant = "documented",
    nesterov: bool = False,
    mask: Any = None,
    mu_dtype: Any = None,
    layers: Any = None,
    axis_name: Any = None,
    skip_nonfinite: bool = False,
    fused: bool | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The direction of ``novograd``, to be multiplied by a learning rate elsewhere.

    The same rule with ``lr = 1``, and the update is ``+m_t`` as of every ``optax.scale_by_*``.
    Arguments, state, errors and source are those of ``novograd``.

    Of variants with the learning rate at the update, ``optax.chain(scale_by_novograd(variant=...),
    optax.scale_by_learning_rate(lr))`` is ``novograd(lr, variant=...)``, unless their decay is
    decoupled. Of the others, in ``optax.chain(scale_by_novograd(),
    optax.scale_by_learning_rate(lr))`` the learning rate multiplies the whole moment, as in the
    paper; in ``novograd(lr)`` each gradient keeps the one with which it entered. The two are equal,
    up to rounding, while ``lr`` is constant, and differ under a schedule.

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
    """The arguments of ``novograd`` after their checks, and what is done with them.

    Its methods can be copied and pickled wherever the arguments can, which closures cannot.
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

    def init(self, params: Any) -> NovogradState:
        """Returns the state before the first step."""
        layouts = layouts_of(self.layers, self.axis_name, params)
        amsgrad = self.switches.variant.amsgrad
        return NovogradState(
            count=jnp.zeros((), jnp.int32),
            mu=jax.tree.map(lambda w: jnp.zeros_like(w, dtype=_mu_dtype(w, self.mu_dtype)), params),
            nu=jax.tree.map(zero_second_moment, params, layouts),
            nu_max=jax.tree.map(zero_second_moment, params, layouts) if amsgrad else None,
        )

    def update(self, updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Any]:
        """Returns what is to be added to the weights, and the new state."""
        if self._decays and params is None:
            raise ValueError("update needs params=, the current weights, for weight_decay")
        return self._take("updates", updates, state, params, applies=False)

    def step(self, params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        """Returns the new weights and the new state."""
        return self._take("gradients", gradients, state, params, applies=True)

    @property
    def _decays(self) -> bool:
        return not isinstance(self.weight_decay, float) or self.weight_decay != 0

    def _take(
        self, name: str, gradients: Any, state: Any, params: Any, *, applies: bool
    ) -> tuple[Any, Any]:
        variant = self.switches.variant
        found, tree = jax.tree_util.tree_flatten_with_path(gradients, is_leaf=lambda g: g is None)
        paths, given = [path for path, _ in found], [gradient for _, gradient in found]
        # Of the moments, since gradients may be missing.
        layouts = _check_nu(state.nu, layouts_of(self.layers, self.axis_name, state.mu))
        moments, norms, layouts = map(tree.flatten_up_to, (state.mu, state.nu, layouts))
        maxima = tree.flatten_up_to(state.nu_max) if variant.amsgrad else [None] * len(given)
        weights = tree.flatten_up_to(params) if applies or self._decays else [None] * len(given)
        decaying = [False] * len(given)
        if self._decays:
            decaying = tree.flatten_up_to(_decaying(params, self.mask))
        every = list(map(Leaf, given, moments, norms, weights, maxima, layouts, decaying))
        lr, decay = (_resolve(x, state.count) for x in (self.learning_rate, self.weight_decay))
        count = state.count if variant.counts else 0.0
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
        return result, NovogradState(count, mu, nu, nu_max if variant.amsgrad else None)


def _direction(
    update: Any, updates: Any, state: Any, params: Any = None, **_: Any
) -> tuple[Any, Any]:
    """The ``update`` of ``scale_by_novograd``, by that of ``novograd``."""
    added, state = update(updates, state, params)
    return jax.tree.map(jnp.negative, added), state


def _is_missing(gradient: Any) -> bool:
    """Whether a leaf has no gradient: None, or what ``jax.grad`` returns for integers."""
    return gradient is None or getattr(gradient, "dtype", None) == jax.dtypes.float0


def _check_leaf(name: str, path: Any, leaf: Leaf, *, needs_weights: bool) -> Leaf:
    """Returns a leaf as arrays, after checking that they hold fractions.

    Integers would round each step to nothing.
    """

    def check(name: str, x: Any) -> Any:
        x = x if hasattr(x, "dtype") else jnp.asarray(x)  # Python's numbers
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} must be of a floating or complex dtype, got "
                f"{x.dtype}; a leaf that is not trained needs None as its gradient"
            )
        return x

    return replace(
        leaf,
        gradient=check(name, leaf.gradient),
        weights=check("params", leaf.weights) if needs_weights else None,
        moment=check("state.mu", leaf.moment),
    )


def _mu_dtype(w: Any, mu_dtype: Any) -> Any:
    """The dtype of the moment of a leaf."""
    dtype = jnp.result_type(w)
    return mu_dtype if mu_dtype is not None and jnp.issubdtype(dtype, jnp.floating) else dtype


def _step_function(fused: bool | None, axis_name: Any) -> Any:
    """Returns the function that takes a step of leaves."""
    if fused is not None and check_flag("fused", fused):
        if native.kernels is None:
            raise ffi.cannot(f"{native.PROBLEM}")
        if axis_name is not None:
            raise ffi.cannot("there is no kernel for pieces of leaves, as axis_name= says they are")
    if fused is False or axis_name is not None:
        return step_by_rule
    return functools.partial(ffi.step, demanded=fused is True)


def _check_nu(nu: Any, layouts: Any) -> Any:
    """Returns the layouts after checking that the second moments have their shapes."""

    def check(path: Any, layout: Any, v: Any) -> None:
        if jnp.shape(v) != layout.v_shape:
            raise ValueError(
                f"state.nu{jax.tree_util.keystr(path)} has shape {jnp.shape(v)}, but that of "
                f"{layout.layers} is {layout.v_shape}"
            )

    jax.tree_util.tree_map_with_path(check, layouts, nu)
    return layouts


def _decaying(params: Any, mask: Any) -> Any:
    """Returns which weights decay: a tree of bools."""
    if mask is None:
        return jax.tree.map(lambda _: True, params)
    mask = mask(params) if _is_function(mask) else mask
    return map_with_prefix(lambda decays, *_: bool(decays), "mask", mask, params)


def _is_function(mask: Any) -> bool:
    """Whether a mask is a function; trees may be callable as well, as modules are."""
    return callable(mask) and jax.tree_util.all_leaves([mask])


def _resolve(value: Any, count: jax.Array) -> Any:
    """Calls a schedule, and turns every kind of Python number into a float."""
    value = value(count) if callable(value) else value
    return float(value) if isinstance(value, Real) else value


def _check_schedule(name: str, value: Any) -> Any:
    """Checks a hyperparameter that may be a schedule as well."""
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
                    f"of type {type(leaf).__name__} in it"
                )
    return mask


def _check_mu_dtype(mu_dtype: Any) -> Any:
    """Returns a dtype after checking that it is a real floating one, or None."""
    if mu_dtype is None:
        return None
    message = f"mu_dtype must be a real floating dtype or None, got {mu_dtype!r}"
    try:
        dtype = jnp.dtype(mu_dtype)
    except TypeError as error:
        raise TypeError(message) from error
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(message)
    return jax.dtypes.canonicalize_dtype(dtype)
