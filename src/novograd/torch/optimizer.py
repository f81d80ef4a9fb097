"""NovoGrad as a ``torch.optim.Optimizer``."""

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

from novograd import variants
from novograd.foreign import explains_arguments
from novograd.native import usable
from novograd.torch.backends import PreparedStep, Scaling
from novograd.torch.choice import assign, compiles, require_kernels
from novograd.torch.gradients import check_gradients
from novograd.torch.groups import Groups, trained
from novograd.torch.loading import check_state_dict, restore, with_moment_dtypes
from novograd.torch.options import check_options, with_new
from novograd.torch.parts import Part
from novograd.torch.planner import Planner, rows
from novograd.torch.steps import steps_of
from novograd.variants import Variant, VariantName

# All living optimizers: if a group moves to another optimizer, its layers move too.
_OPTIMIZERS: weakref.WeakSet["NovoGrad"] = weakref.WeakSet()
_OPTIMIZERS_LOCK = threading.Lock()


class NovoGrad(torch.optim.Optimizer):
    """Stochastic gradient descent with layer-wise normalised gradients.

    A layer is a parameter, unless ``layers`` says otherwise. For each layer with gradient ``g_t``
    and weights ``w_{t-1}``::

        v_t = beta2*v_{t-1} + (1 - beta2)*|g_t|^2      v_1 = |g_1|^2; one number per layer
        m_t = beta1*m_{t-1} + k*lr_t*(g_t/sqrt(v_t + eps) + weight_decay*w_{t-1})
        w_t = w_{t-1} - m_t                            k = 1 - beta1 with grad_averaging, else 1

    The learning rate is inside ``m``. So a change of the learning rate takes effect over about
    ``1/(1 - beta1)`` steps. While ``v`` is exactly 0, the layer has no history: its first gradient
    that is not zero sets ``v``.

    This is the documented rule. Every other published NovoGrad is a ``variant`` with its own
    defaults: see ``novograd.variants`` and docs/variants.md.

    State: each parameter has the momentum buffer ``exp_avg`` and the second moment ``exp_avg_sq``.
    ``exp_avg`` is ``m_t``, in the parameter's dtype. ``exp_avg_sq`` is ``v_t``, in float32 (float64
    for float64 parameters), also after ``load_state_dict``. It is 0-d, or has one number for each
    layer, in the shape that ``novograd.layers`` gives. Variants with amsgrad also have
    ``max_exp_avg_sq``, with the shape and dtype of ``exp_avg_sq``. Variants that count steps, and
    parameters that are rounded at random, have a 0-d ``step``. With ``moment_dtype``, see
    docs/int8.md: an int8 ``exp_avg`` has its scales in ``exp_avg_scale``, one float32 number for
    each block of 128 elements. A complex ``exp_avg`` in another dtype has real pairs, along one
    more axis.

    Numbers: float16 and bfloat16 parameters are updated in float32 arithmetic and rounded once.
    Complex numbers are treated as pairs of real numbers. If ``|g_t|^2`` is too large for the dtype
    of ``v``, the step ignores that gradient and keeps ``v``, so that the weights stay finite. If
    ``|g_t|^2`` is too small, it counts as zero. A gradient that itself holds an infinity or NaN
    makes the weights NaN, as with torch's own optimizers, unless ``skip_nonfinite`` is set.

    Parameters may be DTensors, made by ``fully_shard`` or tensor parallelism. The norm is always
    computed for the whole layer. This needs one all-reduce per step for each process group (see
    docs/pytorch.md). All processes must call ``step``.

    A step never modifies a gradient and never waits for a device. So a CUDA graph can capture it,
    and ``torch.compile`` can compile it. There, give the learning rate as a tensor, because a
    number becomes a constant of the graph.

    Args:
        params: Parameters, named parameters, or dicts that define parameter groups. Each group may
            set any of the options below.
        lr: Learning rate; a float, or a tensor of one element. The defaults of ``lr``, ``betas``,
            ``eps``, ``grad_averaging``, ``nesterov`` and ``layers`` come from the variant. The
            documented rule has 0.01, (0.95, 0.98), 1e-8, False, False and whole parameters.
        betas: Decay rates of ``m`` and ``v``, each in [0, 1). With ``beta2 = 0``, each gradient is
            normalised by its own norm.
        eps: Added to ``v`` inside the root, to avoid a division by zero.
        weight_decay: Factor of the weights in ``m``.
        grad_averaging: Whether the new term of ``m`` is multiplied by ``1 - beta1``.
        variant: The published form of NovoGrad: a name, or a ``novograd.variants.Variant``.
        nesterov: Whether to use Nesterov momentum.
        maximize: Whether to maximize the objective instead of minimizing it.
        skip_nonfinite: Whether a layer keeps its weights, momentum buffer and ``v`` in a step in
            which its ``|g_t|^2`` is infinite or NaN.
        foreach: True updates all parameters together, by torch's foreach operations. False updates
            one parameter at a time. None uses foreach operations for the plain tensors that the
            kernels do not support.
        fused: True updates all parameters by kernels, with one call for all of them: the native
            kernels on the CPU, Triton kernels on GPUs. None uses the kernels for the parameters
            that they support, unless ``foreach`` is given. False never uses the kernels. The
            kernels support dense tensors, real or complex, in float64, float32 and half precision.
            On GPUs they do not support amsgrad or another norm: there, None uses foreach.
        stochastic_rounding: Whether bfloat16 weights are rounded up or down at random. The nearer
            neighbour is more likely, so that steps too small to change the weights add up. The
            random numbers depend only on the number of steps and on the place in the parameter:
            not on torch's generator, the backend or the sharding.
        moment_dtype: The dtype of ``exp_avg``: ``torch.int8``, ``torch.bfloat16``, or None for the
            dtype of the weights. Parameters with fewer than two axes or 4,096 elements always keep
            theirs in the dtype of the weights. In 8 bits, each block of 128 elements along the
            last axis has a scale, and a step rounds at random, always in the same way for the same
            step. ``load_state_dict`` converts to this dtype, and warns.
        capturable: Accepted for code that sets it. A step can be captured with either value.
        layers: Which weights share one ``v``: ``Stacked``, ``Split``, ``Rows`` or ``Whole`` of
            ``novograd.layers``; None for the variant's default; or a function ``(name, parameter)``
            that returns one of these, where None means the whole parameter. The ``name`` is None
            unless named parameters are given. A group may have its own ``layers``. ``param_groups``
            and state dicts do not include ``layers``.

    Raises:
        TypeError: If an argument has a type that is not named above.
        ValueError: If a number is negative, NaN or infinite, or a beta is 1 or more; if ``lr`` is
            missing and the variant has no default; if ``layers`` do not fit a parameter; if
            ``moment_dtype`` is none of these; or if it is ``torch.int8``, and a shard or a part of
            ``Split`` begins inside a block.
        RuntimeError: If ``fused`` is True, and the kernels are not installed or ``foreach`` is True
            too; or if ``FullyShardedDataParallel`` has flattened a parameter.

    Source: NVIDIA Clara Train 3.1, ``ai4med.libs.optimizers``; Ginsburg et al., "Stochastic
    Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks",
    arXiv:1905.11286.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = NovoGrad([w], lr=0.5)
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> optimizer.step()
        >>> w.detach(), optimizer.state[w]["exp_avg_sq"]
        (tensor([0.7000, 1.6000]), tensor(25.))
    """

    @explains_arguments
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor | None = None,
        betas: tuple[float, float] | None = None,
        eps: float | None = None,
        weight_decay: float = 0.0,
        grad_averaging: bool | None = None,
        *,
        variant: VariantName | Variant = "documented",
        nesterov: bool | None = None,
        maximize: bool = False,
        skip_nonfinite: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        stochastic_rounding: bool = False,
        moment_dtype: torch.dtype | None = None,
        capturable: bool = False,
        layers: Any = None,
    ) -> None:
        """Checks the arguments (see the class). The first step creates the state."""
        chosen = variants.get(variant)
        if lr is None and chosen.lr is None:
            raise ValueError(f"lr must be given: the variant {chosen.name!r} has no default")
        defaults = {
            "lr": chosen.lr if lr is None else lr,
            "betas": (chosen.beta1, chosen.beta2) if betas is None else betas,
            "eps": chosen.eps if eps is None else eps,
            "weight_decay": weight_decay,
            "grad_averaging": chosen.grad_averaging if grad_averaging is None else grad_averaging,
            "variant": variant,
            "nesterov": chosen.nesterov if nesterov is None else nesterov,
            "maximize": maximize,
            "skip_nonfinite": skip_nonfinite,
            "stochastic_rounding": stochastic_rounding,
            "moment_dtype": moment_dtype,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "layers": layers,
        }
        check_options(defaults)
        self._groups = Groups(layers)
        self._planner = Planner(self._groups)
        super().__init__(params, defaults)
        _register(self)
        if fused is None and foreach is None:
            params = [param for group in self.param_groups for param in group["params"]]
            if any(param.device.type == "cpu" for param in params):
                usable()  # warns if the kernels are not installed

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group.

        Args:
            param_group: ``params`` and any options that differ from the optimizer's defaults.

        Raises:
            TypeError: If ``param_group`` is not a dict, or an option has a wrong type.
            ValueError: If an option is out of range, a parameter is in another group already, or
                ``layers`` do not fit a parameter.
            RuntimeError: If ``FullyShardedDataParallel`` has flattened a parameter.

        Example:
            >>> optimizer = NovoGrad([torch.zeros(2)])
            >>> optimizer.add_param_group({"params": [torch.zeros(3)], "weight_decay": 1e-3})
            >>> [group["weight_decay"] for group in optimizer.param_groups]
            [0.0, 0.001]
        """
        self._groups.refresh(self.param_groups)
        if isinstance(param_group, dict):
            param_group = _with_layers(param_group, self.defaults)
            check_options(self.defaults | param_group)
        super().add_param_group(param_group)
        number, added = len(self.param_groups) - 1, self.param_groups[-1]
        try:
            require_kernels(added["fused"], added["params"])
            self._groups.check_layouts(number, added)
        except BaseException:
            self.param_groups.pop()
            raise
        self._groups.remember(self.param_groups)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: A function that evaluates the model again. It is called first, with gradients
                enabled.

        Returns:
            The result of the closure, or None without a closure.

        Raises:
            RuntimeError: If parameters were replaced by flat pieces; if the state of a parameter
                does not fit the parameter; if a gradient is sparse; if only one of a gradient and
                its parameter is a DTensor; if ``fused`` is True and the kernels do not support a
                parameter; or if the native kernels would write to memory that two parameters share.
                Then nothing has changed.

        Example:
            >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
            >>> optimizer = NovoGrad([w], lr=0.5)
            >>> def closure():
            ...     optimizer.zero_grad()
            ...     loss = (w**2).sum()
            ...     loss.backward()
            ...     return loss
            >>> optimizer.step(closure).item()
            5.0
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        compiling = torch.compiler.is_compiling()
        if compiling and (self._groups.sharded or not compiles(self.param_groups)):
            cast(Callable[[], None], torch.compiler.disable(self._take_step))()
        else:
            self._take_step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Returns state and options, without ``layers``: give ``layers`` to the constructor again.

        Example:
            >>> from novograd.layers import Rows
            >>> optimizer = NovoGrad([torch.zeros(2, 3)], layers=Rows())
            >>> "layers" in optimizer.state_dict()["param_groups"][0]
            False
        """
        self._groups.take_layers(self.param_groups)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state dict. Its parameters may have another dtype or be on another device.

        The optimizer keeps its own ``moment_dtype``. If that of the state dict differs, the
        momentum buffers are converted, with a warning.

        Args:
            state_dict: A state dict of this class.

        Raises:
            ValueError: If the state dict is from another optimizer, or does not fit the parameters.
                Then nothing has changed.

        Example:
            >>> optimizer = NovoGrad([torch.zeros(2)])
            >>> optimizer.load_state_dict(torch.optim.SGD([torch.zeros(2)]).state_dict())
            Traceback (most recent call last):
                ...
            ValueError: state_dict is not from NovoGrad: param_groups[0] has no 'betas'; from \
another optimizer, such as AdamW, load only the weights
        """
        self._groups.refresh(self.param_groups)
        loading: list[dict[str, Any]] = []

        def check(_: torch.optim.Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            check_state_dict(given, self.param_groups, self._groups.layout)
            loading.append(given)
            return with_moment_dtypes(given, self.param_groups)

        # As a pre-hook, check sees the result of the user's pre-hooks. As the first post-hook,
        # restore runs before the user's post-hooks, so that these see the final state.
        hooks = [
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(
                lambda _: restore(self.state, loading[0], self.param_groups, self._groups.layout),
                prepend=True,
            ),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether `step` unscales the gradients and skips itself if one of them is not finite.

        ``GradScaler`` reads this property. If it is True, ``GradScaler`` sets ``grad_scale`` and
        ``found_inf`` for the step. If it is False, ``GradScaler`` waits for the device, to decide
        whether to call ``step``.
        """
        return self._planner.unscales(self.param_groups, self.state)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the entries for a copy, including the layers, which the groups do not hold."""
        self._groups.take_layers(self.param_groups)
        return super().__getstate__() | {"_layers": dict(enumerate(self._groups.layers))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Sets the entries of a copy. If the copy has no layers, keeps the layers set here."""
        entries = state.copy()
        known = dict(enumerate(self._groups.layers)) if hasattr(self, "_groups") else {}
        layers = entries.pop("_layers", known)
        super().__setstate__(entries)
        self._groups = Groups(self.defaults.get("layers"), layers.values())
        self._planner = Planner(self._groups)
        for number, group in enumerate(self.param_groups):
            group.update(with_new(group))
            require_kernels(group["fused"], group["params"])
            self._groups.check_layouts(number, group)
        self._groups.remember(self.param_groups)
        _register(self)

    def _take_step(self) -> None:
        """Takes a step, after checking that it is possible."""
        found_inf, scaling = getattr(self, "found_inf", None), None
        if found_inf is not None:
            scaling = Scaling(getattr(self, "grad_scale", None), found_inf)
        if torch.compiler.is_compiling():
            ready = self._traceable_steps(scaling)
        else:
            ready = self._planner.prepare(self.param_groups, self.state, scaling)
        for step in ready:
            step.take()

    def _traceable_steps(self, scaling: Scaling | None) -> list[PreparedStep]:
        """Returns the steps in a form that torch.compile can trace."""
        ready: list[PreparedStep] = []
        for number, group in enumerate(self.param_groups):
            check_gradients(trained(number, group), self._groups, self.state)
        for number, group in enumerate(self.param_groups):
            columns: tuple[list[Any], ...] = tuple([] for _ in range(len(Part._fields) + 1))
            self._init_group(group, number, *columns)
            assigned = assign(group, zip(*columns, strict=True))
            ready += steps_of(group, assigned, scaling)
        return ready

    def _init_group(self, group: dict[str, Any], number: int, *columns: list[Any]) -> None:
        """Creates missing state of a group, and appends the rows of the group to the columns.

        torch.compile knows a method of this name. It calls the method before it traces the rest,
        and finds the tensors in the lists.
        """
        for row in rows(trained(number, group), self._groups, self.state):
            for column, x in zip(columns, row, strict=True):
                column.append(x)


def _register(optimizer: NovoGrad) -> None:
    with _OPTIMIZERS_LOCK:
        _OPTIMIZERS.add(optimizer)


def _with_layers(group: dict[str, Any], options: Iterable[str]) -> dict[str, Any]:
    """Returns a group with its layers as an entry, even if an optimizer has removed the entry."""
    if "layers" in group:
        return group.copy()  # so that the caller's group keeps the entry
    if set(options) - group.keys() != {"layers"}:
        return group  # an optimizer's group would have all other options
    with _OPTIMIZERS_LOCK:  # other threads may make optimizers
        living = list(_OPTIMIZERS)
    for optimizer in living:
        for number, known in enumerate(optimizer.param_groups):
            if known is group:
                return group | {"layers": optimizer._groups.layers_of(number, group)}
    return group
