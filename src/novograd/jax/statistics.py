"""Statistics of the last step, for each leaf."""

from typing import Any

import jax
import jax.numpy as jnp

from novograd import statistics
from novograd.jax.layout import LeafLayout, layouts_of, unboxed
from novograd.jax.leaves import (
    StepHyperparameters,
    _as_real,
    _layer_norms,
    _spread,
    numbers_of,
    real_moment,
)
from novograd.jax.moments import used_scales
from novograd.jax.transformation import (
    Novograd,
    NovogradState,
    QuantizedNovogradState,
    _Optimizer,
    _resolve,
    scales_of,
)
from novograd.statistics import LayerStatistics, Sums, of_parameter


def layer_statistics(
    optimizer: Novograd, params: Any, state: Any, gradients: Any = None
) -> dict[str, LayerStatistics]:
    """Returns statistics of the last step, for each leaf.

    It costs nothing while it is not called. It cannot be called in a program that JAX compiles: it
    computes on the devices, and then reads all numbers at once. Sharded arrays are allowed.

    Args:
        optimizer: The result of ``novograd``. If it is inside ``optax.chain`` or another wrapper,
            give the result of ``novograd`` itself.
        params: The weights after the step.
        state: The state after the step: a ``NovogradState`` or ``QuantizedNovogradState``, or the
            state of a wrapper, which contains one.
        gradients: The gradients of the step, as ``novograd`` got them. Without them the share of
            clipped layers is NaN, and an update with Nesterov momentum counts without the gradient.

    Returns:
        The statistics by the paths of the leaves, such as ``dense/kernel``, without the boxes of
        Flax. Leaves that are None are left out, and so are leaves without a gradient if
        ``gradients`` are given.

    Raises:
        TypeError: If ``optimizer`` is not the result of ``novograd``.
        ValueError: If ``state`` does not contain exactly one state of NovoGrad, or no step was
            taken.

    Example:
        >>> from novograd.jax import novograd
        >>> params, gradients = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 4.0])}
        >>> optimizer = novograd(0.5)
        >>> params, state = optimizer.step(params, optimizer.init(params), gradients)
        >>> found = layer_statistics(optimizer, params, state, gradients)["w"]
        >>> found.root_v, round(found.weight_norm, 4), round(found.update_ratio, 4)
        (5.0, 1.7464, 0.2863)
    """
    rule = getattr(getattr(optimizer, "update", None), "__self__", None)
    if not isinstance(rule, _Optimizer):
        raise TypeError(f"optimizer must be the result of novograd(...), got {optimizer!r}")
    params, state, gradients = map(unboxed, (params, state, gradients))
    own = _state_in(state)
    found, tree = jax.tree_util.tree_flatten_with_path(params)
    columns = [own.mu, own.nu, layouts_of(rule.layers, None, params)]
    maxima = [None] * len(found) if own.nu_max is None else tree.flatten_up_to(own.nu_max)
    given = [None] * len(found) if gradients is None else tree.flatten_up_to(gradients)
    held = scales_of(own, tree)
    rows = zip(found, *map(tree.flatten_up_to, columns), maxima, given, held, strict=True)
    hyper = _hyperparameters_of_last_step(rule, own)
    by_path = {
        _name(path): _sums(
            rule, hyper, w, real_moment(m, used_scales(held), w, v.dtype), v, layout, largest, g
        )
        for (path, w), m, v, layout, largest, g, held in rows
        if gradients is None or hasattr(g, "dtype")
    }
    on_host = jax.device_get({name: sums[:5] for name, sums in by_path.items()})
    return {
        name: of_parameter([float(x) for x in totals], by_path[name].layers)
        for name, totals in on_host.items()
    }


def _sums(
    rule: _Optimizer,
    hyper: StepHyperparameters,
    w: Any,
    m: Any,
    v: Any,
    layout: LeafLayout,
    largest: Any,
    g: Any,
) -> Sums:
    """Returns the sums of a leaf."""
    switches = rule.switches
    norm = switches.variant.norm
    return statistics.sums(
        _as_real(w, v.dtype),
        m,
        None if g is None else _as_real(g, v.dtype),
        None if g is None else _layer_norms(g, v.dtype, layout, norm),
        v,
        largest,
        numbers_of(hyper, switches, v.dtype),
        scale=layout.scale,
        nesterov=switches.nesterov,
        spread=lambda x: _spread(x, layout, jnp.shape(w)),
        xp=jnp,
    )


def _hyperparameters_of_last_step(rule: _Optimizer, state: Any) -> StepHyperparameters:
    """Returns the hyperparameters of the last step."""
    before = state.count - 1
    lr = _resolve("learning_rate", rule.learning_rate, before)
    decay = _resolve("weight_decay", rule.weight_decay, before)
    count = before if rule.switches.variant.counts else 0.0
    return StepHyperparameters(lr, rule.b1, rule.b2, rule.eps, decay, count)


def _state_in(state: Any) -> NovogradState | QuantizedNovogradState:
    """Returns the only state of NovoGrad in the state of a wrapper."""
    kinds = (NovogradState, QuantizedNovogradState)
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    found = [node for node in nodes if isinstance(node, kinds)]
    if len(found) != 1:
        raise ValueError(f"state must contain one NovogradState, got {len(found)} of them")
    if found[0].count == 0:
        raise ValueError("state must be the state after a step, got one before the first step")
    return found[0]


def _name(path: Any) -> str:
    """Returns the path of a leaf, with slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
