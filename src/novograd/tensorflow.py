"""The documented NovoGrad, on TensorFlow's ``MomentumOptimizer``.

``NovoGrad`` is the class that NVIDIA Clara Train 3.1 documents as
``ai4med.libs.optimizers.NovoGrad``. It needs TensorFlow >= 2.12 and works in sessions and graphs,
eager execution, ``tf.function`` with and without XLA, and ``MirroredStrategy``.
"""

import inspect
from collections.abc import Callable, Iterable
from numbers import Real
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from novograd import rule
from novograd.foreign import explains_arguments, naming_extra
from novograd.hyperparameters import check_flag, check_number
from novograd.layers import (
    Layers,
    Split,
    check_layers,
    layers_of,
    row_axes,
    second_moment_shape,
    step_scale,
)
from novograd.variants import DOCUMENTED

with naming_extra():
    import tensorflow as tf

# The functions that the rule uses from an array library.
_XP = SimpleNamespace(where=tf.compat.v1.where, isfinite=tf.math.is_finite)
# Below this, the division by beta1 in _fold_decay costs accuracy.
_SMALLEST_FOLDING_BETA1 = 0.1


class NovoGrad(tf.compat.v1.train.MomentumOptimizer):
    """Stochastic gradient descent with layer-wise normalised gradients.

    A layer is a variable, unless ``layers`` says otherwise. For each layer with gradient ``g_t``
    and weights ``w_{t-1}``::

        v_t = beta2*v_{t-1} + (1 - beta2)*|g_t|^2      v_1 = |g_1|^2; one number per layer
        m_t = beta1*m_{t-1} + k*lr_t*(g_t/sqrt(v_t + epsilon) + weight_decay*w_{t-1})
        w_t = w_{t-1} - m_t                            k = 1 - beta1 with grad_averaging, else 1

    While ``v`` is exactly 0, the layer has no history: its first gradient that is not zero sets
    ``v``.

    There are two slots. ``momentum`` is ``m_t``, with its sign and the learning rate inside, in the
    variable's dtype. ``v`` is in float32 (float64 for float64 variables). It is a scalar, or has
    one number for each layer, in the shape that ``novograd.layers`` gives.

    Numbers: the norm and all scalars have at least float32 precision. float16 and bfloat16 weights
    are updated in float32 arithmetic and rounded once. If ``|g_t|^2`` is too large for the dtype of
    ``v``, the step ignores that gradient and keeps ``v``, so that the weights stay finite. If
    ``|g_t|^2`` is too small, it counts as zero. A gradient that itself holds an infinity or NaN
    makes the weights NaN, as with every TensorFlow optimizer.

    ``tf.IndexedSlices`` gradients stay sparse, as in the base class. Duplicate indices are summed
    before the norm is computed. Rows without a gradient keep their weights and momentum buffer, and
    also their ``v`` if each row has its own. Under a distribution strategy, the norm is computed
    from the gradient summed over the replicas. Each partition of a partitioned variable is a
    separate layer, or has separate layers.

    Args:
        learning_rate: ``lr``; a float, a scalar tensor or variable, or a callable without
            arguments that returns one of these. It may change from step to step.
        beta1: Decay rate of ``m``, in [0, 1); given like ``learning_rate``.
        beta2: Decay rate of ``v``, in [0, 1); given like ``learning_rate``. With 0, each gradient
            is normalised by its own norm.
        epsilon: Added to ``v`` inside the root, to avoid a division by zero; a float.
        weight_decay: Factor of the weights in ``m``; given like ``learning_rate``.
        grad_averaging: Whether the new term of ``m`` is multiplied by ``1 - beta1``.
        use_locking: Whether to use locks for the updates of weights and momentum buffers.
        name: Prefix of the names of the operations and slots.
        use_nesterov: Whether to use Nesterov momentum.
        layers: Which weights share one ``v``: ``Stacked``, ``Split`` or ``Rows`` of
            ``novograd.layers``; None for the whole variable; or a function of a variable that
            returns one of these. It must always return the same for the same variable.

    Raises:
        TypeError: If an argument has a type that is not named above, or a callable needs arguments.
        ValueError: If a Python number is negative, NaN or infinite, or a beta is 1 or more; or if a
            tensor is not a scalar.

    Source: NVIDIA Clara Train 3.1, ``ai4med.libs.optimizers``; Ginsburg et al., "Stochastic
    Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks",
    arXiv:1905.11286.

    Example:
        >>> import tensorflow as tf
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = NovoGrad(learning_rate=0.5)
        >>> _ = optimizer.apply_gradients([(tf.constant([3.0, 4.0]), w)])
        >>> print(w.numpy())
        [0.7 1.6]
        >>> float(optimizer.get_slot(w, "v"))
        25.0
        >>> from novograd.layers import Stacked
        >>> experts = tf.Variable([[1.0, 2.0], [3.0, 4.0]])
        >>> optimizer = NovoGrad(learning_rate=0.5, layers=Stacked())
        >>> _ = optimizer.apply_gradients([(tf.constant([[3.0, 4.0], [0.0, 2.0]]), experts)])
        >>> print(optimizer.get_slot(experts, "v").numpy())
        [[25.]
         [ 4.]]
    """

    @explains_arguments
    def __init__(
        self,
        learning_rate: Any = 1.0,
        beta1: Any = DOCUMENTED.beta1,
        beta2: Any = DOCUMENTED.beta2,
        epsilon: float = DOCUMENTED.eps,
        weight_decay: Any = 0.0,
        grad_averaging: bool = DOCUMENTED.grad_averaging,
        use_locking: bool = False,
        name: str = "NovoGrad",
        *,
        use_nesterov: bool = False,
        layers: Layers | Callable[[Any], Layers] = None,
    ):
        """Checks the arguments (see the class). Variables are created later."""
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, got {name!r} of type {type(name).__name__}")
        beta1 = _check("beta1", beta1, below=1)
        super().__init__(
            _check("learning_rate", learning_rate),
            momentum=beta1,
            use_locking=check_flag("use_locking", use_locking),
            name=name,
            use_nesterov=check_flag("use_nesterov", use_nesterov),
        )
        self._beta1 = beta1
        self._beta2 = _check("beta2", beta2, below=1)
        self._epsilon = check_number("epsilon", epsilon)
        self._weight_decay = _check("weight_decay", weight_decay)
        self._grad_averaging = check_flag("grad_averaging", grad_averaging)
        self._layers = check_layers("layers", layers)

    def compute_gradients(
        self, loss: Any, var_list: Any = None, *base_arguments: Any, **base_keywords: Any
    ) -> Any:
        """Computes gradients like the base class, after checking the variables.

        Args:
            loss: A tensor, or in eager execution a callable without arguments that returns one.
            var_list: The variables; None for all trainable variables that the loss depends on.
            *base_arguments: Passed to the base class unchanged.
            **base_keywords: Passed to the base class unchanged.

        Returns:
            Pairs of (gradient, variable) for ``apply_gradients``.

        Raises:
            TypeError: If ``var_list`` has variables of Keras 3.
        """
        for variable in tf.nest.flatten(var_list):
            _check_variable("var_list", variable)
        return super().compute_gradients(loss, var_list, *base_arguments, **base_keywords)

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[Any, Any]],
        global_step: Any = None,
        name: str | None = None,
        **base_arguments: Any,
    ) -> Any:
        """Applies gradients to variables.

        Args:
            grads_and_vars: Pairs of (gradient, variable), as ``compute_gradients`` returns them.
                A variable does not change if its gradient is None.
            global_step: A variable to increment by one after the update.
            name: Name of the returned operation; the optimizer's name by default.
            **base_arguments: Passed to the base class unchanged, for arguments of newer releases of
                TensorFlow (``skip_gradients_aggregation``).

        Returns:
            An operation that applies the gradients and, if ``global_step`` was given, increments
            it. None in eager execution.

        Raises:
            TypeError: If ``grads_and_vars`` is malformed, or has variables of Keras 3.
            ValueError: If no variable has a gradient; if a variable is complex; if the layers of a
                variable do not fit its shape; or if the layers are ``Split`` along the first axis
                of a variable whose gradient is ``tf.IndexedSlices``, because the norms of its parts
                are not known.
            RuntimeError: If this is called in a cross-replica context, which needs
                ``_distributed_apply()`` instead.
        """
        pairs = _check_pairs(grads_and_vars)
        self._assert_valid_dtypes([var for gradient, var in pairs if gradient is not None])
        for gradient, var in pairs:
            if gradient is not None and isinstance(var, tf.Variable):
                _check_layout(self._layout(var), gradient, var)
        return super().apply_gradients(pairs, global_step, name, **base_arguments)

    def _valid_dtypes(self):
        # The base class also accepts complex numbers.
        return {dtype for dtype in super()._valid_dtypes() if dtype.is_floating}

    # -- slots -----------------------------------------------------------------------------------

    def _create_slots(self, var_list):
        super()._create_slots(var_list)
        for var in var_list:
            self._get_or_make_slot_with_initializer(
                var, tf.compat.v1.zeros_initializer(), None, None, "v", None
            )

    def _get_or_make_slot_with_initializer(
        self, var, initializer, shape, dtype, slot_name, op_name
    ):
        # The base class also calls this for a checkpoint that is restored before the first step. It
        # assumes that every slot has the shape, dtype and name of its variable.
        if slot_name == "v":
            shape = tf.TensorShape(self._layout(var).v_shape)
            dtype, op_name = _compute_dtype(var), self._name + "_v"
        slot = super()._get_or_make_slot_with_initializer(
            var, initializer, shape, dtype, slot_name, op_name
        )
        if slot_name == "v" and getattr(slot, "_save_slice_info", None):
            # TensorFlow assumes that the slot is as large as its partition, and saves it as a part.
            slot._set_save_slice_info(None)
        return slot

    def _layout(self, var: Any) -> "_VariableLayout":
        """Returns the layers of a variable, or of its copy on one replica."""
        if self._layers is None:  # the shape may be unknown, and is not needed
            return _VariableLayout()
        var = tf.distribute.get_strategy().extended.value_container(var)
        partitioned = getattr(var, "_save_slice_info", None)
        name = partitioned.full_name if partitioned else var.name.split(":")[0]
        shape = var.shape.as_list()
        layers = layers_of(self._layers, (var,), shape, row_axes(name.split("/")[-1]))
        return _VariableLayout(
            layers, second_moment_shape(layers, shape), step_scale(layers, shape)
        )

    # -- one step --------------------------------------------------------------------------------

    def _prepare(self):
        # Each callable is called once in a step. Python numbers stay Python numbers until they are
        # combined with a tensor. So 1 - beta2 is exact, and float64 variables get float64 scalars.
        self._lr_now, self._beta1_now, self._beta2_now, self._weight_decay_now = (
            _resolve(value)
            for value in (self._learning_rate, self._beta1, self._beta2, self._weight_decay)
        )
        # For the operations of the base class. Our step includes the learning rate already.
        self._learning_rate_tensor = tf.constant(1.0, tf.float64)
        self._momentum_tensor = (
            tf.constant(self._beta1_now, tf.float64)
            if isinstance(self._beta1_now, float)
            else self._beta1_now
        )

    def _resource_apply_dense(self, grad, var):
        return self._apply_to_all(super()._resource_apply_dense, grad, var, self._can_fold_decay())

    def _apply_dense(self, grad, var):
        return self._apply_to_all(super()._apply_dense, grad, var, False)

    def _resource_apply_sparse(self, grad, var, indices):
        scalars, store_v = self._update_v(grad, var, indices)
        return tf.group(self._linear_pass(grad, var, scalars, indices), store_v)

    def _apply_sparse(self, grad, var):
        return self._resource_apply_sparse(grad.values, var, grad.indices)

    # -- its parts -------------------------------------------------------------------------------

    def _apply_to_all(
        self, apply_momentum: Callable[[Any, Any], Any], grad: Any, var: Any, fold_decay: bool
    ) -> Any:
        """Takes a dense step, by the base class's operation if its precision is sufficient.

        That operation is the linear pass of the rule with c = d = 1: it computes
        m = beta1*m + step; w = w - m.
        """
        scalars, store_v = self._update_v(grad, var)
        if _compute_dtype(var) != var.dtype.base_dtype:
            return tf.group(self._linear_pass(grad, var, scalars), store_v)
        step = scalars.a * grad
        folded = []
        if self._decays() and fold_decay:
            folded.append(self._fold_decay(var, scalars.b))
        elif self._decays():
            step += scalars.b * var
        with tf.control_dependencies(folded):
            return tf.group(apply_momentum(step, var), store_v)

    def _update_v(self, grad: Any, var: Any, indices: Any = None) -> tuple[rule.Coefficients, Any]:
        """Returns the coefficients of the linear pass, and the operation that stores the new v.

        If indices of rows are given and each row has its own v, only the v of these rows change.
        """
        dtype, layout = _compute_dtype(var), self._layout(var)
        lr, beta1, beta2, weight_decay = (
            _cast(value, dtype)
            for value in (self._lr_now, self._beta1_now, self._beta2_now, self._weight_decay_now)
        )
        slot = self.get_slot(var, "v")
        if layout.v_shape[:1] != tuple(var.shape[:1]):
            indices = None
        old = _read(slot, indices)
        s = _squared_norms(tf.cast(grad, dtype), layout, by_row=indices is not None)
        numbers = rule.numbers(
            DOCUMENTED,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            epsilon=self._epsilon,
            weight_decay=weight_decay,
            grad_averaging=self._grad_averaging,
            # With epsilon 0, a gradient of zeros would give 0/0.
            floor=float(np.finfo(dtype.name).tiny),
        )
        # tf.compat.v1.where does not broadcast, but is five times as fast as tf.where on scalars.
        new, _, scalars = rule.advance(s, old, numbers, layout.scale, xp=_XP)
        scalars = scalars._replace(a=_repeated(scalars.a, layout.layers))
        return scalars, self._store(slot, new, indices)

    def _linear_pass(
        self, grad: Any, var: Any, scalars: rule.Coefficients, indices: Any = None
    ) -> Any:
        """Takes the linear pass of the rule in at least float32, on some rows or on all."""
        dtype = _compute_dtype(var)
        slot = self.get_slot(var, "momentum")
        w, m = (tf.cast(_read(x, indices), dtype) for x in (var, slot))
        w, m = rule.linear_pass(
            w,
            m,
            tf.cast(grad, dtype),
            scalars,
            beta1=_cast(self._beta1_now, dtype),
            nesterov=self._use_nesterov,
        )
        return tf.group(self._store(var, w, indices), self._store(slot, m, indices))

    def _store(self, target: Any, value: Any, indices: Any) -> Any:
        """Writes some rows of a variable, or all rows, rounded to its dtype."""
        value = tf.cast(value, target.dtype.base_dtype)
        if indices is None:
            return target.assign(value, use_locking=self._use_locking, read_value=False)
        return target.scatter_update(
            tf.IndexedSlices(value, indices), use_locking=self._use_locking
        )

    def _decays(self) -> bool:
        """Whether there is weight decay; False only if it is known to be 0."""
        return not isinstance(self._weight_decay_now, float) or self._weight_decay_now != 0

    def _can_fold_decay(self) -> bool:
        """Whether beta1*(m + b/beta1*w) + a*g can replace beta1*m + a*g + b*w."""
        return (
            isinstance(self._beta1_now, float)
            and self._beta1_now >= _SMALLEST_FOLDING_BETA1
            and not self._use_nesterov  # Nesterov's step needs a*g + b*w as a separate term
        )

    def _fold_decay(self, var: Any, b: Any) -> Any:
        """Adds ``b/beta1*w`` to the momentum buffer in place.

        This moves 12 bytes per weight and needs no temporary tensor. Adding ``b*w`` to the step
        instead would write a temporary tensor of the size of the variable and read it again
        (benchmarks/tensorflow_step.py measures both).
        """
        return tf.raw_ops.ResourceApplyGradientDescent(
            var=self.get_slot(var, "momentum").handle,
            alpha=tf.convert_to_tensor(-b / self._beta1_now, var.dtype.base_dtype),
            delta=tf.convert_to_tensor(var),
            use_locking=self._use_locking,
        )


class _VariableLayout(NamedTuple):
    """The layers of a variable, the shape of its v, and the factor of its normalised gradient.

    The defaults describe a variable that is one layer.
    """

    layers: Layers = None
    v_shape: tuple[int, ...] = ()
    scale: float = 1.0


def _squared_norms(grad: Any, layout: _VariableLayout, by_row: bool) -> Any:
    """Returns the squared norm of each layer, in the shape of v or of some rows of v."""
    layers, shape, _ = layout
    if not shape:
        # l2_loss is one pass without a temporary, and more accurate than a dot product.
        return 2 * tf.nn.l2_loss(grad)
    parts = [grad]
    if isinstance(layers, Split):
        parts, shape = tf.split(grad, layers.sizes, layers.axis), (1,) * len(shape)
    axes = [axis for axis, size in enumerate(shape) if size == 1 and (axis or not by_row)]
    sums = [tf.reduce_sum(tf.square(part), axes, keepdims=True) for part in parts]
    return tf.concat(sums, layers.axis) if isinstance(layers, Split) else sums[0]


def _repeated(scalars: Any, layers: Layers) -> Any:
    """Repeats one number per layer, so that the result broadcasts with the weights."""
    if not isinstance(layers, Split):
        return scalars
    parts = np.repeat(np.arange(len(layers.sizes)), layers.sizes)
    return tf.gather(scalars, parts, axis=layers.axis)


def _read(variable: Any, indices: Any) -> Any:
    """Returns some rows of a variable, or all rows."""
    return tf.convert_to_tensor(variable) if indices is None else tf.gather(variable, indices)


def _compute_dtype(var: Any) -> tf.DType:
    """Returns the dtype of ``v`` and the arithmetic: float64 for float64, else float32."""
    return tf.float64 if var.dtype.base_dtype == tf.float64 else tf.float32


def _resolve(value: Any) -> Any:
    """Calls a callable, and converts every kind of Python number to a float."""
    value = value() if callable(value) else value
    return float(value) if isinstance(value, Real) else value


def _cast(value: Any, dtype: tf.DType) -> Any:
    """Casts a tensor; a Python number stays, since TensorFlow gives it the dtype of the tensor."""
    return value if isinstance(value, float) else tf.cast(value, dtype)


def _check(name: str, value: Any, *, below: float = float("inf")) -> Any:
    """Checks a hyperparameter that may be a number, a scalar tensor or variable, or a callable."""
    if isinstance(value, Callable):
        return _check_callable(name, value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not (tf.is_tensor(value) or isinstance(value, tf.Variable)):
        return check_number(name, value, below=below)
    if value.shape.rank not in (0, None):
        raise ValueError(f"{name} must be a scalar, got a tensor of shape {value.shape}")
    if not (value.dtype.is_floating or value.dtype.is_integer):
        raise TypeError(f"{name} must be a real number, got a tensor of {value.dtype.name}")
    return value


def _check_callable(name: str, value: Callable[..., Any]) -> Callable[..., Any]:
    """Checks that a hyperparameter can be called without arguments."""
    try:
        inspect.signature(value).bind()
    except ValueError:  # some builtin functions do not tell their arguments
        pass
    except TypeError as error:
        raise TypeError(
            f"{name} must be callable without arguments, got {value!r}; for a schedule give "
            "lambda: schedule(step), where step is a variable that counts the steps"
        ) from error
    return value


def _check_layout(layout: _VariableLayout, gradient: Any, var: Any) -> None:
    """Checks that the norms of the layers can be computed from this kind of gradient."""
    layers = layout.layers
    sparse = isinstance(gradient, tf.IndexedSlices)
    if sparse and isinstance(layers, Split) and layers.axis % len(layout.v_shape) == 0:
        raise ValueError(
            f"layers of {var.name} must not be split along its first axis, got {layers}, because "
            "its gradient is tf.IndexedSlices; tf.convert_to_tensor makes the gradient dense"
        )


def _check_pairs(grads_and_vars: Any) -> tuple[tuple[Any, Any], ...]:
    """Checks that there are pairs with gradients, and returns them as a tuple."""
    try:
        pairs = tuple(grads_and_vars)
    except TypeError as error:
        raise TypeError(
            f"grads_and_vars must be (gradient, variable) pairs, got {grads_and_vars!r}"
        ) from error
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"grads_and_vars must hold (gradient, variable) pairs, got {pair!r}")
        _check_variable("grads_and_vars", pair[1])
    return tuple((_check_gradient(gradient), variable) for gradient, variable in pairs)


def _check_variable(name: str, variable: Any) -> None:
    """Raises TypeError for a variable of Keras 3, which is not one of TensorFlow."""
    if isinstance(getattr(variable, "value", None), tf.Variable):
        raise TypeError(
            f"{name} must have variables of TensorFlow, got the variable {variable.path!r} of "
            "Keras 3: give [v.value for v in model.trainable_variables], or use "
            "novograd.keras.NovoGrad"
        )


def _check_gradient(gradient: Any) -> Any:
    """Returns a gradient as a tensor, as the base class does, but raises only TypeError."""
    if gradient is None or isinstance(gradient, (tf.Tensor, tf.IndexedSlices)):
        return gradient
    try:
        return tf.convert_to_tensor(gradient)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"a gradient must be a tensor, tf.IndexedSlices or None, got {gradient!r}"
        ) from error
