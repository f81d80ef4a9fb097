"""Statistics of the last step, for each variable."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from novograd import rule, statistics
from novograd.keras import moments
from novograd.keras.layers import layer_norms, spread
from novograd.layers import step_scale
from novograd.statistics import LayerStatistics, Sums, of_parameter

if TYPE_CHECKING:
    from novograd.keras.optimizer import NovoGrad


def layer_statistics(
    optimizer: "NovoGrad", gradients: Sequence[Any] | None = None
) -> dict[str, LayerStatistics]:
    """Returns statistics of the last step, for each variable.

    It costs nothing while it is not called. A call computes on the device, and then reads all
    numbers at once. Call it after a step, for example in ``on_train_batch_end`` of a callback.

    Args:
        optimizer: The optimizer.
        gradients: The gradients of the step, as the optimizer got them, in the order of the
            variables; a gradient may be None. Without gradients the share of clipped layers is NaN,
            and an update with Nesterov momentum counts without the gradient.

    Returns:
        The statistics by the paths of the variables; empty before the first step. Variables whose
        gradient is their new value are left out.

    Raises:
        TypeError: If ``optimizer`` is not a ``novograd.keras.NovoGrad``.
        ValueError: If there are not as many ``gradients`` as variables.

    Example:
        >>> from novograd.keras import NovoGrad
        >>> w = keras.Variable([1.0, 2.0], name="w")
        >>> optimizer = NovoGrad(learning_rate=0.5)
        >>> optimizer.apply([ops.array([3.0, 4.0])], [w])
        >>> found = layer_statistics(optimizer)["w"]
        >>> found.root_v, round(found.weight_norm, 4), round(found.update_ratio, 4)
        (5.0, 1.7464, 0.2863)
    """
    if not hasattr(optimizer, "_update_of"):
        raise TypeError(
            "optimizer must be a novograd.keras.NovoGrad, got an object of type "
            f"{type(optimizer).__name__}"
        )
    if not optimizer.built or int(optimizer.iterations) == 0:
        return {}
    variables = optimizer._trainable_variables
    given = [None] * len(variables) if gradients is None else list(gradients)
    if len(given) != len(variables):
        raise ValueError(
            f"gradients must have one for each of {len(variables)} variables, got {len(given)}"
        )
    found = {
        variable.path: _sums(optimizer, variable, gradient)
        for variable, gradient, state in zip(variables, given, optimizer._states, strict=True)
        if state is not None
    }
    totals = ops.stack([ops.stack([ops.cast(x, "float32") for x in s[:5]]) for s in found.values()])
    return {
        name: of_parameter([float(x) for x in row], found[name].layers)
        for name, row in zip(found, np.asarray(ops.convert_to_numpy(totals)), strict=True)
    }


def _sums(optimizer: "NovoGrad", variable: Any, gradient: Any) -> Sums:
    """Returns the sums of a variable."""
    update = optimizer._update_of(gradient, variable)
    v: Any = ops.convert_to_tensor(update.v)
    g = None if gradient is None else ops.cast(gradient, v.dtype)
    return statistics.sums(
        ops.cast(variable, v.dtype),
        moments.wide(update, keras.backend.standardize_dtype(v.dtype)),
        g,
        None if g is None else layer_norms(g, update.layers, optimizer.variant.norm),
        v,
        None if update.maximum is None else ops.convert_to_tensor(update.maximum),
        _numbers_of_last_step(
            optimizer, update.weight_decay, keras.backend.standardize_dtype(v.dtype)
        ),
        scale=step_scale(update.layers, variable.shape),
        nesterov=optimizer.nesterov,
        spread=lambda x: spread(x, update.layers),
        xp=ops,
    )


def _numbers_of_last_step(optimizer: "NovoGrad", decay: float, dtype: str) -> rule.Numbers:
    """Returns the numbers of the rule in the last step; the optimizer has counted it already."""
    before: Any = ops.subtract(optimizer.iterations, 1)
    rate: Any = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(before)
    else:
        rate = optimizer.learning_rate
    return rule.numbers(
        optimizer.variant,
        lr=ops.cast(rate, dtype),
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        weight_decay=decay,
        grad_averaging=optimizer.grad_averaging,
        floor=float(np.finfo(dtype).tiny),
        count=ops.cast(before, dtype) if optimizer.variant.counts else 0.0,
        xp=ops,
    )
