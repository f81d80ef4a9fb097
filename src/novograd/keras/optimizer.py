"""NovoGrad as a ``keras.optimizers.Optimizer``."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from novograd import quantized, rule, variants
from novograd.foreign import explains_arguments
from novograd.hyperparameters import check_flag, check_number
from novograd.keras import moments
from novograd.keras.layers import (
    StepOptions,
    VariableUpdate,
    deserialized,
    layer_norms,
    serialized,
    spread,
)
from novograd.layers import (
    Layers,
    check_layers,
    layers_of,
    row_axes,
    second_moment_shape,
    step_scale,
)
from novograd.variants import Variant, VariantName

if keras.backend.backend() == "tensorflow":
    from novograd.keras import tensorflow as backend
elif keras.backend.backend() == "jax":
    from novograd.keras import jax as backend
elif keras.backend.backend() == "torch":
    from novograd.keras import torch as backend
else:  # such as OpenVINO, which can load models but not train them
    from novograd.keras import plain as backend


@keras.saving.register_keras_serializable(package="novograd")
class NovoGrad(keras.optimizers.Optimizer):
    """Stochastic gradient descent with layer-wise normalised gradients.

    A layer is a variable, unless ``layers`` says otherwise. For each layer with gradient ``g_t``
    and weights ``w_{t-1}``::

        v_t = beta_2*v_{t-1} + (1 - beta_2)*|g_t|^2    v_1 = |g_1|^2; one number per layer
        m_t = beta_1*m_{t-1} + k*lr_t*(g_t/sqrt(v_t + epsilon) + weight_decay*w_{t-1})
        w_t = w_{t-1} - m_t                            k = 1 - beta_1 with grad_averaging, else 1

    While ``v`` is exactly 0, the layer has no history: its first gradient that is not zero sets
    ``v``.

    This is the documented rule. Every other published NovoGrad is a ``variant`` with its own
    defaults: see ``novograd.variants`` and docs/variants.md.

    State: ``variables`` has an order that saved files rely on and that will not change. First come
    the variables of the base class: ``iteration``; ``learning_rate`` unless it is a schedule or
    callable; the averages of ``use_ema`` and the sums of ``gradient_accumulation_steps`` if these
    are used. Then come two variables for each weight. ``momentum`` is ``m_t``, with its sign and
    the learning rate inside, in the weight's dtype. ``v`` is in float32 (float64 for float64
    weights). It is a scalar, or has one number for each layer, in the shape that
    ``novograd.layers`` gives. Variants with amsgrad have ``v_max`` after ``v``. With
    ``moment_dtype="int8"``, a weight whose momentum buffer is quantised has ``momentum_scale`` as
    its last variable, in float32 and in the shape of ``novograd.quantized.scale_shape``. A file
    that was saved on one backend can be loaded on the others.

    Numbers: the norm and all scalars have at least float32 precision. float16 and bfloat16 weights
    are updated in float32 arithmetic and rounded once. If ``|g_t|^2`` is too large for the dtype of
    ``v``, the step ignores that gradient and keeps ``v``, so that the weights stay finite. If
    ``|g_t|^2`` is too small, it counts as zero. A gradient that itself holds an infinity or NaN
    makes the weights NaN, as with every Keras optimizer. Keras stores ``learning_rate`` in
    ``keras.config.floatx()``: set that to ``"float64"`` for full float64 precision.

    Sparse gradients, such as ``tf.IndexedSlices`` of an embedding, are made dense. Duplicate
    indices are summed before gradients are clipped. Rows that a batch does not use still change by
    their momentum buffer. Under a distribution strategy, the norm is computed from the gradient
    summed over the replicas. Under ``keras.distribution``, the momentum buffer has the layout of
    its weight. So has ``v``, on the axes on which it has the full length.

    Args:
        learning_rate: ``lr``; a float, a ``keras.optimizers.schedules.LearningRateSchedule``, or
            a callable without arguments that returns the value. The defaults of ``learning_rate``,
            ``beta_1``, ``beta_2``, ``epsilon``, ``grad_averaging``, ``nesterov`` and ``layers``
            come from the variant. The documented rule has 0.01, 0.95, 0.98, 1e-8, False, False and
            whole variables.
        beta_1: Decay rate of ``m``, in [0, 1).
        beta_2: Decay rate of ``v``, in [0, 1). With 0, each gradient is normalised by its own norm.
        epsilon: Added to ``v`` inside the root, to avoid a division by zero.
        weight_decay: Factor of the weights in ``m``; the decay is not applied a second time.
            Weights named in ``exclude_from_weight_decay`` do not decay. None means 0, as in every
            Keras optimizer.
        grad_averaging: Whether the new term of ``m`` is multiplied by ``1 - beta_1``.
        nesterov: Whether to use Nesterov momentum.
        variant: The published form of NovoGrad: a name, or a ``novograd.variants.Variant``.
        layers: Which weights share one ``v``: ``Stacked``, ``Split``, ``Rows`` or ``Whole`` of
            ``novograd.layers``; None for the variant's default; or a function of a variable that
            returns one of these, where None means the whole variable. ``get_config`` includes it.
            Keras stores a function by the name under which it is registered.
        clipnorm: This and the arguments below are the same in every Keras optimizer. Gradients are
            clipped before their norm is computed.
        clipvalue: See ``keras.optimizers.Optimizer``.
        global_clipnorm: See ``keras.optimizers.Optimizer``.
        use_ema: See ``keras.optimizers.Optimizer``.
        ema_momentum: See ``keras.optimizers.Optimizer``.
        ema_overwrite_frequency: See ``keras.optimizers.Optimizer``.
        loss_scale_factor: See ``keras.optimizers.Optimizer``.
        gradient_accumulation_steps: See ``keras.optimizers.Optimizer``.
        name: Name of the optimizer.
        moment_dtype: The dtype of the momentum buffers of weights with at least two axes and 4,096
            elements: "int8", "bfloat16", or None for the dtype of the weights. "int8" takes a byte
            a weight, and a scale for each block of 128 (see ``novograd.quantized`` and
            docs/int8.md). The other buffers have the dtype of their weights.
        **kwargs: Passed to the base class unchanged.

    Raises:
        TypeError: If a hyperparameter of the rule is not a number, or a flag is not a bool.
        ValueError: If a number is negative, NaN or infinite, or a beta is 1 or more; if
            ``moment_dtype`` is another dtype; or if Keras rejects one of its arguments, for example
            an int as ``learning_rate``. ``build`` raises it if ``layers`` do not fit a weight.

    Source: NVIDIA Clara Train 3.1, ``ai4med.libs.optimizers``; Ginsburg et al., "Stochastic
    Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks",
    arXiv:1905.11286.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, 2.0], name="w")
        >>> optimizer = NovoGrad(learning_rate=0.5)
        >>> optimizer.apply([keras.ops.array([3.0, 4.0])], [w])
        >>> print(keras.ops.convert_to_numpy(w))
        [0.7 1.6]
        >>> [variable.name for variable in optimizer.variables]
        ['iteration', 'learning_rate', 'w_momentum', 'w_v']
        >>> float(keras.ops.convert_to_numpy(optimizer.variables[3]))
        25.0
    """

    @explains_arguments
    def __init__(
        self,
        learning_rate: Any = None,
        beta_1: float | None = None,
        beta_2: float | None = None,
        epsilon: float | None = None,
        weight_decay: float | None = 0.0,
        grad_averaging: bool | None = None,
        nesterov: bool | None = None,
        variant: VariantName | Variant = "documented",
        layers: Any = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "novograd",
        *,
        moment_dtype: str | None = None,
        **kwargs: Any,
    ):
        """Checks the arguments (see the class). ``build`` creates the state."""
        chosen = variants.get(variant)
        if learning_rate is None:
            learning_rate = chosen.lr
        if learning_rate is None:
            raise ValueError(
                f"learning_rate must be given: the variant {chosen.name!r} has no default"
            )
        if isinstance(learning_rate, float):  # Keras checks the other types
            learning_rate = check_number("learning_rate", learning_rate)
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=(
                None if weight_decay is None else check_number("weight_decay", weight_decay)
            ),
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        self.variant = chosen
        self.beta_1 = check_number("beta_1", chosen.beta1 if beta_1 is None else beta_1, below=1)
        self.beta_2 = check_number("beta_2", chosen.beta2 if beta_2 is None else beta_2, below=1)
        self.epsilon = check_number("epsilon", chosen.eps if epsilon is None else epsilon)
        self.grad_averaging = check_flag(
            "grad_averaging", chosen.grad_averaging if grad_averaging is None else grad_averaging
        )
        self.nesterov = check_flag("nesterov", chosen.nesterov if nesterov is None else nesterov)
        self.layers = check_layers("layers", layers)
        self.moment_dtype = _check_moment_dtype(moment_dtype)

    def build(self, variables: list[Any]) -> None:
        """Creates the state of the given weights, unless it exists already.

        Raises:
            ValueError: If a variable is complex, or its layers do not fit its shape.
        """
        if self.built:
            return
        for variable in variables:
            dtype = keras.backend.standardize_dtype(variable.dtype)
            if dtype.startswith("complex"):
                raise ValueError(
                    f"variable {variable.path!r} has the dtype {dtype}; NovoGrad for Keras needs "
                    "real variables: use two, for the real and the imaginary part"
                )
        shapes = [tuple(variable.shape) for variable in variables]  # TensorFlow has its own type
        chosen = [
            self._layers_of(variable, shape)
            for variable, shape in zip(variables, shapes, strict=True)
        ]
        super().build(variables)
        self._chosen_layers = chosen
        self._states = [
            # For such a variable (a scale of float8), the gradient is the new value.
            None
            if self._overwrite_variable_with_gradient(variable)
            else self._new_state(variable, second_moment_shape(layers, shape))
            for variable, layers, shape in zip(variables, chosen, shapes, strict=True)
        ]

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Takes one step of the variables.

        Sparse gradients are made dense first. So Keras clips, accumulates and unscales gradients
        whose duplicate indices are summed.

        Args:
            grads: The gradients; each is None or has the shape of its variable.
            trainable_variables: The variables, by default the variables given to ``build``.

        Raises:
            ValueError: If a gradient has another shape, if there are more or fewer gradients than
                variables, or if ``build`` or Keras rejects the variables.
        """
        dense = [None if gradient is None else backend.dense(gradient) for gradient in grads]
        variables = self._trainable_variables
        if trainable_variables is not None:
            variables = trainable_variables = list(trainable_variables)
            if len(dense) != len(variables):
                raise ValueError(
                    "grads must have one gradient or None for each variable, got "
                    f"{len(dense)} for {len(variables)} variables"
                )
        for gradient, variable in zip(dense, variables, strict=False):
            if gradient is not None and not backend.fits(gradient, variable):
                raise ValueError(
                    f"the gradient of {variable.name} must have its shape {tuple(variable.shape)}, "
                    f"got {tuple(gradient.shape)}"
                )
        super().apply(dense, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Takes one step of one variable."""
        update = self._update_of(gradient, variable)
        _, _, momentum, v, decay, layers, maximum, scale = update
        dtype = _compute_dtype(variable)
        # TensorFlow may not know the shape of the gradient. On other backends this does nothing.
        g = ops.cast(ops.reshape(gradient, variable.shape), dtype)
        w, m = ops.cast(variable, dtype), moments.wide(update, dtype)
        s, old = layer_norms(g, layers, self.variant.norm), ops.convert_to_tensor(v)
        numbers = self._numbers(ops.convert_to_tensor(learning_rate, dtype), decay, dtype)
        factor, largest = step_scale(layers, variable.shape), None
        if maximum is not None:
            largest = ops.convert_to_tensor(maximum)
        new, largest, scalars = rule.advance(s, old, numbers, factor, largest, xp=ops)
        scalars = rule.Coefficients(*(spread(x, layers) for x in scalars))
        w, m = rule.linear_pass(w, m, g, scalars, beta1=self.beta_1, nesterov=self.nesterov)
        self.assign(variable, ops.cast(w, variable.dtype))
        if scale is not None:
            m, scales = moments.quantised(m, tuple(scale.shape), self.iterations)
            self.assign(scale, scales)
        self.assign(momentum, ops.cast(m, momentum.dtype))
        self.assign(v, new)
        if maximum is not None:
            self.assign(maximum, largest)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that create an equal optimizer; the state is not included."""
        return super().get_config() | {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "grad_averaging": self.grad_averaging,
            "nesterov": self.nesterov,
            "variant": variants.as_config(self.variant),
            "layers": serialized(self.layers),
            "moment_dtype": self.moment_dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "NovoGrad":
        """Returns a new optimizer from a config."""
        layers = deserialized(config.get("layers"), custom_objects)
        variant = variants.from_config(config.get("variant", "documented"))
        return super().from_config(config | {"layers": layers, "variant": variant}, custom_objects)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        """Takes the step by kernels where the backend has them, then variable by variable."""
        hyper = StepOptions(
            learning_rate,
            self.beta_1,
            self.beta_2,
            self.epsilon,
            self.grad_averaging,
            self.nesterov,
            self.variant,
            self.iterations,
        )
        rest = backend.step(list(map(self._update_of, grads, trainable_variables)), hyper)
        grads = [update.gradient for update in rest]
        trainable_variables = [update.variable for update in rest]
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _layers_of(self, variable: Any, shape: tuple[int, ...]) -> Layers:
        """Returns the layers of a variable; if they do not fit, the error names the variable."""
        layers = self.variant.layers if self.layers is None else self.layers
        try:
            return layers_of(layers, (variable,), shape, row_axes(variable.name))
        except ValueError as error:
            raise ValueError(f"variable {variable.path!r}: {error}") from error

    def _update_of(self, gradient: Any, variable: Any) -> VariableUpdate:
        index = self._get_variable_index(variable)
        momentum, v, *others = self._states[index]
        decay = self._decay(variable)
        layers = self._chosen_layers[index]
        return VariableUpdate(gradient, variable, momentum, v, decay, layers, *others)

    def _numbers(self, learning_rate: Any, weight_decay: float, dtype: str) -> rule.Numbers:
        """Returns the numbers of the rule; those that are tensors have the given dtype."""
        return rule.numbers(
            self.variant,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            weight_decay=weight_decay,
            grad_averaging=self.grad_averaging,
            # With epsilon 0, a gradient of zeros would give 0/0.
            floor=float(np.finfo(dtype).tiny),
            count=ops.cast(self.iterations, dtype) if self.variant.counts else 0.0,
            xp=ops,
        )

    def _decay(self, variable: Any) -> float:
        return (self.weight_decay or 0.0) if self._use_weight_decay(variable) else 0.0

    def _new_state(self, variable: Any, shape: tuple[int, ...]) -> tuple[Any, Any, Any, Any]:
        """Creates momentum, v, v_max and momentum_scale of a variable, in the order of files."""
        whole = tuple(variable.shape)
        if self.moment_dtype is None or not quantized.is_quantised(whole):
            momentum = self.add_variable_from_reference(variable, name="momentum")
        else:
            momentum = self.add_variable(
                shape=whole,
                dtype=self.moment_dtype,
                layout=getattr(variable, "_layout", None),
                name=f"{variable.path.replace('/', '_')}_momentum",
            )
        prefix = momentum.name.removesuffix("momentum")

        def new(name: str, shape: tuple[int, ...], dtype: str) -> Any:
            layout = backend.v_layout(momentum, shape)
            return self.add_variable(shape=shape, dtype=dtype, layout=layout, name=prefix + name)

        v = new("v", shape, _compute_dtype(variable))
        maximum = new("v_max", shape, _compute_dtype(variable)) if self.variant.amsgrad else None
        if momentum.dtype != "int8":
            return momentum, v, maximum, None
        return momentum, v, maximum, new("momentum_scale", quantized.scale_shape(whole), "float32")

    def _apply_weight_decay(self, variables: Any) -> None:
        """Does nothing: the step includes the decay, and the base class would apply it again."""


# The names by which compile() finds the class, in addition to "novograd>NovoGrad".
keras.saving.get_custom_objects().update(novograd=NovoGrad, NovoGrad=NovoGrad)


def _check_moment_dtype(dtype: Any) -> str | None:
    """Returns the name of the dtype of momentum buffers after checking it."""
    if dtype is None:
        return None
    try:
        name = keras.backend.standardize_dtype(dtype)
    except ValueError:
        name = None
    if name not in ("int8", "bfloat16"):
        raise ValueError(f"moment_dtype must be 'int8', 'bfloat16' or None, got {dtype!r}")
    return name


def _compute_dtype(variable: Any) -> str:
    """Returns the dtype of ``v`` and the arithmetic: float64 for float64, else float32."""
    return "float64" if keras.backend.standardize_dtype(variable.dtype) == "float64" else "float32"
