"""NovoGrad as a ``torch.optim.Optimizer``."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

from novograd import variants
from novograd.native import usable
from novograd.torch.backends import Scaling, Step
from novograd.torch.choice import assign, demands_triton, require_kernels
from novograd.torch.gradients import check_gradients
from novograd.torch.groups import Groups, trained
from novograd.torch.loading import check_state_dict, restore
from novograd.torch.options import check_options, with_new
from novograd.torch.parts import Part
from novograd.torch.planner import Planner, rows
from novograd.torch.steps import steps_of
from novograd.variants import Variant

# All that live, because a group that goes from one to another takes its layers along.
_OPTIMIZERS: weakref.WeakSet["NovoGrad"] = weakref.WeakSet()


class NovoGrad(torch.optim.Optimizer):
    """Stochastic gradient descent with layer-wise normalised gradients.

    For each layer, which is a parameter unless ``layers`` says otherwise, with gradient ``g_t`` and
    weights ``w_{t-1}``::

        v_t = beta2*v_{t-1} + (1 - beta2)*|g_t|^2      v_1 = |g_1|^2; one number per layer
        m_t = beta1*m_{t-1} + k*lr_t*(g_t/sqrt(v_t + eps) + weight_decay*w_{t-1})
        w_t = w_{t-1} - m_t                            k = 1 - beta1 with grad_averaging, else 1

    The learning rate is inside the moment, so that a change of it takes effect over the next
    ``1/(1 - beta1)`` steps or so. While ``v`` is exactly 0 there is no history: the first gradient
    that is not zero sets it.

    This is the documented rule. Every other published NovoGrad is a ``variant`` of it, with its own
    defaults: see ``novograd.variants`` and docs/variants.md.

    The state of a parameter is ``exp_avg``, which is ``m_t`` in the parameter's dtype, and
    ``exp_avg_sq``, which is ``v_t``: a float32 tensor (float64 for float64 parameters), also after
    ``load_state_dict``. It is 0-d, or of the shape that ``novograd.layers`` gives. Variants with
    amsgrad have a ``max_exp_avg_sq`` like it, and those that count steps a 0-d ``step``. float16
    and bfloat16 parameters are updated in float32 arithmetic and rounded once; complex ones behave
    as their real pairs.

    Where ``|g_t|^2`` is too large for the dtype of ``v``, that gradient counts for nothing and
    ``v`` stays as it was, so that the weights stay finite; where it is too small, it counts as
    zero. A gradient that itself holds an infinity or NaN makes the weights NaN, as with torch's
    own optimizers, unless ``skip_nonfinite`` is set.

    Parameters may be DTensors, of ``fully_shard`` or tensor parallelism: norms are of whole layers,
    for which a step takes one all-reduce for each process group (see docs/pytorch.md). All
    processes have to call ``step``.

    A step never modifies a gradient and never waits for a device. So it can be captured in a CUDA
    graph and compiled by ``torch.compile``; put the learning rate in a tensor there, since a
    number becomes part of the graph.

    Args:
        params: Parameters, named parameters or dicts that define parameter groups; each group may
            set any of the options below.
        lr: Learning rate; a float, or a tensor of one element. This and the next arguments have
            the defaults of the variant; those of the documented rule are 0.01, (0.95, 0.98), 1e-8,
            and False for ``grad_averaging``.
        betas: Decay rates of ``m`` and of ``v``, in [0, 1). With ``beta2 = 0`` each gradient is
            normalised by its own norm.
        eps: Added to ``v`` inside the root, to avoid a division by zero.
        weight_decay: Factor of the weights in the moment.
        grad_averaging: Whether what enters the moment is multiplied by ``1 - beta1``.
        variant: Which NovoGrad: a name, or a ``novograd.variants.Variant``.
        nesterov: Whether to use Nesterov momentum.
        maximize: Whether to maximize the objective instead of minimizing it.
        skip_nonfinite: Whether a parameter is left untouched, with its state, in a step in which
            its ``|g|^2`` is not finite.
        foreach: Whether to update all parameters together by torch's foreach operations, rather
            than one at a time; by default those plain tensors that the kernels do not take.
        fused: Whether to update all parameters by kernels, in one call for all of them: native
            ones on the CPU, and Triton's on GPUs; by default, unless ``foreach`` is given, those
            that they can take: dense tensors, real or complex, in float64, float32 and half
            precision. On GPUs not with amsgrad or another norm, which foreach takes.
        stochastic_rounding: Whether bfloat16 weights are rounded up or down at random, the more
            often to a neighbour the nearer it is, so that steps too small to change them add up.
            By the kernels for GPUs only; the numbers are those of torch's generator.
        capturable: Accepted for code that sets it. A step can be captured either way.
        layers: What shares one ``v``: ``Stacked``, ``Split`` or ``Rows`` of ``novograd.layers``, or
            None for the whole parameter; or a function ``(name, parameter)`` that returns one of
            these, whose ``name`` is None unless named parameters are given. A group may have its
            own. Neither ``param_groups`` nor state dicts hold it.

    Raises:
        TypeError: If an argument has a type not named above.
        ValueError: If a number is out of range: negative, NaN or infinite, or a beta of 1 or more;
            if ``lr`` is missing and the variant has none; or if ``layers`` do not fit a parameter.
        RuntimeError: If ``fused`` is True, and the kernels are not installed or ``foreach`` is True
            as well; if ``stochastic_rounding`` is asked of foreach; or if
            ``FullyShardedDataParallel`` has flattened a parameter.

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

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor | None = None,
        betas: tuple[float, float] | None = None,
        eps: float | None = None,
        weight_decay: float = 0.0,
        grad_averaging: bool | None = None,
        *,
        variant: str | Variant = "documented",
        nesterov: bool = False,
        maximize: bool = False,
        skip_nonfinite: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        stochastic_rounding: bool = False,
        capturable: bool = False,
        layers: Any = None,
    ) -> None:
        """Checks the arguments, which the class documents, and creates no state yet."""
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
            "nesterov": nesterov,
            "maximize": maximize,
            "skip_nonfinite": skip_nonfinite,
            "stochastic_rounding": stochastic_rounding,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "layers": layers,
        }
        check_options(defaults)
        self._groups = Groups(layers)
        self._planner = Planner(self._groups)
        super().__init__(params, defaults)
        _OPTIMIZERS.add(self)
        if fused is None and foreach is None:
            params = [param for group in self.param_groups for param in group["params"]]
            if any(param.device.type == "cpu" for param in params):
                usable()  # says so, if there are no kernels

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group.

        Args:
            param_group: ``params`` and any options that differ from the optimizer's defaults.

        Raises:
            TypeError: If it is no dict, or an option has a wrong type.
            ValueError: If an option is out of range, a parameter is in another group already, or
                its ``layers`` do not fit it.
            RuntimeError: If a parameter belongs to ``FullyShardedDataParallel``.

        Example:
            >>> optimizer = NovoGrad([torch.zeros(2)])
            >>> optimizer.add_param_group({"params": [torch.zeros(3)], "weight_decay": 1e-3})
            >>> [group["weight_decay"] for group in optimizer.param_groups]
            [0.0, 0.001]
        """
        self._groups.follow(self.param_groups)
        if isinstance(param_group, dict):
            param_group = _with_layers(param_group)
            check_options(self.defaults | param_group)
        super().add_param_group(param_group)
        number, added = len(self.param_groups) - 1, self.param_groups[-1]
        try:
            require_kernels(added["fused"], added["params"])
            self._groups.check_layouts(number, added)
        except BaseException:
            self.param_groups.pop()
            raise
        self._groups.note(self.param_groups)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: Called first, with gradients enabled, to evaluate the model anew.

        Returns:
            The result of the closure; None without one.

        Raises:
            RuntimeError: If flat pieces have taken the place of parameters; if the state of a
                parameter does not fit it; if a gradient is sparse, or is a DTensor and its
                parameter not or the other way round; if ``fused`` is True or bfloat16 is to be
                rounded at random and the kernels cannot take a parameter; or if those for the CPU
                would have to write to memory that two parameters share. Then nothing has changed.

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
        if compiling and (self._groups.sharded or demands_triton(self.param_groups)):
            cast(Callable[[], None], torch.compiler.disable(self._take_step))()
        else:
            self._take_step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Returns state and options, without ``layers``, which the constructor is given again.

        Example:
            >>> from novograd.layers import Rows
            >>> optimizer = NovoGrad([torch.zeros(2, 3)], layers=Rows())
            >>> "layers" in optimizer.state_dict()["param_groups"][0]
            False
        """
        self._groups.take_layers(self.param_groups)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state dict, also one of parameters in another dtype or on another device.

        Args:
            state_dict: The state of a NovoGrad of this module.

        Raises:
            ValueError: If it is the state of another optimizer, or does not fit the parameters;
                then nothing has changed.

        Example:
            >>> optimizer = NovoGrad([torch.zeros(2)])
            >>> optimizer.load_state_dict(torch.optim.SGD([torch.zeros(2)]).state_dict())
            Traceback (most recent call last):
                ...
            ValueError: state_dict is not one of NovoGrad: param_groups[0] has no 'betas'
        """
        self._groups.follow(self.param_groups)
        loading: list[dict[str, Any]] = []

        def check(_: torch.optim.Optimizer, given: dict[str, Any]) -> None:
            check_state_dict(given, self.param_groups, self._groups.layout)
            loading.append(given)

        # As a hook, check sees the dict that the user's own hooks have made. These see the state as
        # it will be used.
        hooks = [
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(
                lambda _: restore(self.state, loading[0], self.param_groups), prepend=True
            ),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a step unscales gradients itself, and leaves itself out if they are infinite.

        ``GradScaler`` asks for it, and if so sets ``grad_scale`` and ``found_inf`` for the step. If
        not it waits for the device, to see whether the step is to be taken.
        """
        return self._planner.unscales(self.param_groups, self.state)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the entries of a copy, among them the layers, which no group holds."""
        self._groups.take_layers(self.param_groups)
        return super().__getstate__() | {"_layers": dict(enumerate(self._groups.layers))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes the entries of another, with the layers that are set here where it has none."""
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
        self._groups.note(self.param_groups)
        _OPTIMIZERS.add(self)

    def _take_step(self) -> None:
        """Takes a step, having checked first that it can be taken."""
        found_inf, scaling = getattr(self, "found_inf", None), None
        if found_inf is not None:
            scaling = Scaling(getattr(self, "grad_scale", None), found_inf)
        if torch.compiler.is_compiling():
            ready = self._traced(scaling)
        else:
            ready = self._planner.prepare(self.param_groups, self.state, scaling)
        for step in ready:
            step.take()

    def _traced(self, scaling: Scaling | None) -> list[Step]:
        """Returns the steps to be taken in a form that torch.compile can trace."""
        ready: list[Step] = []
        for number, group in enumerate(self.param_groups):
            check_gradients(trained(number, group), self._groups, self.state)
        for number, group in enumerate(self.param_groups):
            columns: tuple[list[Any], ...] = tuple([] for _ in range(len(Part._fields) + 1))
            self._init_group(group, number, *columns)
            assigned = assign(group, zip(*columns, strict=True))
            ready += steps_of(group, assigned, scaling)
        return ready

    def _init_group(self, group: dict[str, Any], number: int, *columns: list[Any]) -> None:
        """Appends the rows of a group to columns, after making state that does not exist yet.

        torch.compile knows a method of this name. It calls the method before it traces the rest,
        and finds the tensors in the lists.
        """
        for row in rows(trained(number, group), self._groups, self.state):
            for column, x in zip(columns, row, strict=True):
                column.append(x)


def _with_layers(group: dict[str, Any]) -> dict[str, Any]:
    """Returns a group with its layers as an entry, also if another optimizer has taken them out."""
    if "layers" in group:
        return group.copy()  # the group of the caller keeps the entry
    for optimizer in _OPTIMIZERS:
        for number, known in enumerate(optimizer.param_groups):
            if known is group:
                return group | {"layers": optimizer._groups.layers_of(number, group)}
    return group
