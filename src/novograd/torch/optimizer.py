"""NovoGrad as a ``torch.optim.Optimizer``."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, compress
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from novograd import rule
from novograd.hyperparameters import check_flag, check_number
from novograd.native import require, usable
from novograd.torch import foreach, native, single_tensor
from novograd.torch.scalars import Options, compute_dtype


class NovoGrad(torch.optim.Optimizer):
    """Stochastic gradient descent with layer-wise normalised gradients.

    For each parameter ("layer") with gradient ``g_t`` and weights ``w_{t-1}``::

        v_t = beta2*v_{t-1} + (1 - beta2)*|g_t|^2      v_1 = |g_1|^2; one number per parameter
        m_t = beta1*m_{t-1} + k*lr_t*(g_t/sqrt(v_t + eps) + weight_decay*w_{t-1})
        w_t = w_{t-1} - m_t                            k = 1 - beta1 with grad_averaging, else 1

    The learning rate is inside the moment, so that a change of it takes effect over the next
    ``1/(1 - beta1)`` steps or so. While ``v`` is exactly 0 there is no history: the first gradient
    that is not zero sets it.

    The state of a parameter is ``exp_avg``, which is ``m_t`` in the parameter's dtype, and
    ``exp_avg_sq``, which is ``v_t``: a 0-d float32 tensor (float64 for float64 parameters), and
    remains one through ``load_state_dict``. float16 and bfloat16 parameters are updated in float32
    arithmetic and rounded once; complex ones behave as their real pairs.

    Where ``|g_t|^2`` is too large for the dtype of ``v``, that gradient counts for nothing and
    ``v`` stays as it was, so that the weights stay finite; where it is too small, it counts as
    zero. A gradient that itself holds an infinity or NaN makes the weights NaN, as with torch's
    own optimizers, unless ``skip_nonfinite`` is set.

    A step never modifies a gradient and never waits for a device. So it can be captured in a CUDA
    graph and compiled by ``torch.compile``; put the learning rate in a tensor there, since a
    number becomes part of the graph.

    Args:
        params: Parameters, named parameters or dicts that define parameter groups; each group may
            set any of the options below.
        lr: Learning rate; a float, or a tensor of one element.
        betas: Decay rates of ``m`` and of ``v``, in [0, 1). With ``beta2 = 0`` each gradient is
            normalised by its own norm.
        eps: Added to ``v`` inside the root, to avoid a division by zero.
        weight_decay: Factor of the weights in the moment.
        grad_averaging: Whether what enters the moment is multiplied by ``1 - beta1``.
        nesterov: Whether to use Nesterov momentum.
        maximize: Whether to maximize the objective instead of minimizing it.
        skip_nonfinite: Whether a parameter is left untouched, with its state, in a step in which
            its ``|g|^2`` is not finite.
        foreach: Whether to update all parameters together by torch's foreach operations, rather
            than one at a time; by default those plain tensors that the native kernels do not take.
        fused: Whether to update all parameters by the native kernels, in one call for all of them;
            by default, unless ``foreach`` is given, those that they can take: dense tensors on the
            CPU, real or complex, in float64, float32 and half precision.
        capturable: Accepted for code that sets it. A step can be captured either way.

    Raises:
        TypeError: If an argument has a type not named above.
        ValueError: If a number is out of range: negative, NaN or infinite, or a beta of 1 or more.
        RuntimeError: If ``fused`` is True, and the kernels are not installed or ``foreach`` is True
            as well.

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
        lr: float | Tensor = 0.01,
        betas: tuple[float, float] = (rule.BETA1, rule.BETA2),
        eps: float = rule.EPSILON,
        weight_decay: float = rule.WEIGHT_DECAY,
        grad_averaging: bool = rule.GRAD_AVERAGING,
        *,
        nesterov: bool = False,
        maximize: bool = False,
        skip_nonfinite: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        """Checks the arguments, which the class documents, and creates no state yet."""
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "grad_averaging": grad_averaging,
            "nesterov": nesterov,
            "maximize": maximize,
            "skip_nonfinite": skip_nonfinite,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
        }
        _check_options(defaults)
        super().__init__(params, defaults)
        if fused is None and foreach is None and _any_on_cpu(self.param_groups):
            usable()  # says so, if there are no kernels

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group.

        Args:
            param_group: ``params`` and any options that differ from the optimizer's defaults.

        Raises:
            TypeError: If it is no dict, or an option has a wrong type.
            ValueError: If an option is out of range, or a parameter is in another group already.

        Example:
            >>> optimizer = NovoGrad([torch.zeros(2)])
            >>> optimizer.add_param_group({"params": [torch.zeros(3)], "weight_decay": 1e-3})
            >>> [group["weight_decay"] for group in optimizer.param_groups]
            [0.0, 0.001]
        """
        if isinstance(param_group, dict):
            _check_options(self.defaults | param_group)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: Called first, with gradients enabled, to evaluate the model anew.

        Returns:
            What the closure returned; None without one.

        Raises:
            RuntimeError: If a gradient is sparse or sharded (a DTensor), if ``fused`` is True and
                the kernels cannot take a parameter, or if they would have to write to memory that
                two parameters share; then nothing has changed.

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
        for number, group in enumerate(self.param_groups):
            self._check_gradients(group, number)
        compiling = torch.compiler.is_compiling()
        work = []
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            exp_avgs: list[Tensor] = []
            exp_avg_sqs: list[Tensor] = []
            self._init_group(group, params, grads, exp_avgs, exp_avg_sqs)
            if not params:
                continue
            options = _for_compiler(group) if compiling else cast(Options, group)
            for implementation, tensors in _assigned(group, params, grads, exp_avgs, exp_avg_sqs):
                if implementation is native and not compiling:
                    take = native.prepared(*tensors)
                else:
                    take = partial(implementation.step, *tensors)
                work.append((take, options))
        for take, options in work:
            take(options)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict`` returned, also of parameters in another dtype or device.

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
        loading: list[dict[str, Any]] = []

        def check(_: torch.optim.Optimizer, given: dict[str, Any]) -> None:
            self._check_state_dict(given)
            loading.append(given)

        # As hooks, check sees what the user's own hooks made of the dict, and they see the state
        # as it will be used.
        hooks = [
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(
                lambda _: self._restore_second_moments(loading[0]), prepend=True
            ),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    # -- its parts -------------------------------------------------------------------------------

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
    ) -> None:
        """Appends to the lists what has a gradient, after making state that does not exist yet.

        torch.compile knows a method of this name, and calls it before it traces the rest.
        """
        for param in group["params"]:
            if param.grad is None:
                continue
            state = self.state[param]
            if not state:
                state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros(
                    (), dtype=compute_dtype(param.dtype), device=param.device
                )
            params.append(param)
            grads.append(param.grad)
            exp_avgs.append(state["exp_avg"])
            exp_avg_sqs.append(state["exp_avg_sq"])

    def _check_gradients(self, group: dict[str, Any], number: int) -> None:
        """Raises RuntimeError, naming the parameter, if a gradient of a group cannot be used."""
        for index, param in enumerate(group["params"]):
            if param.grad is None:
                continue
            if type(param) is not Parameter and hasattr(param, "device_mesh"):
                problem = "its norm, over all shards of a DTensor, is not implemented yet"
            elif param.grad.layout is not torch.strided:
                problem = f"it is {param.grad.layout}, and must be dense"
            elif group["fused"]:
                state = self.state.get(param) or {"exp_avg": param}
                problem = native.problem(param, param.grad, state["exp_avg"])
            else:
                problem = None
            if problem:
                names = group.get("param_names")
                name = repr(names[index]) if names else f"{index} of param_groups[{number}]"
                fused = "with fused=True " if group["fused"] else ""
                raise RuntimeError(
                    f"NovoGrad cannot use {fused}the gradient of parameter {name}: {problem}"
                )

    def _check_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError if a state dict cannot be loaded; the base class checks the groups."""
        for number, group in enumerate(state_dict["param_groups"]):
            for option in self.defaults:
                if option not in group:
                    raise ValueError(
                        f"state_dict is not one of NovoGrad: param_groups[{number}] has no "
                        f"{option!r}"
                    )
            _check_options(group)
        for index, param in _paired(state_dict, self.param_groups):
            state = state_dict["state"].get(index, {})
            if not state:
                continue
            for name, shape in (("exp_avg", param.shape), ("exp_avg_sq", torch.Size())):
                if name not in state:
                    raise ValueError(
                        f"state_dict is not one of NovoGrad: no {name!r} for parameter {index!r}"
                    )
                if state[name].shape != shape:
                    raise ValueError(
                        f"state_dict does not fit: {name!r} of parameter {index!r} must have "
                        f"shape {tuple(shape)}, got {tuple(state[name].shape)}"
                    )

    def _restore_second_moments(self, state_dict: dict[str, Any]) -> None:
        """Loads v anew: the base class has cast it to the dtype of the weights."""
        for index, param in _paired(state_dict, self.param_groups):
            state = state_dict["state"].get(index, {})
            if state:
                self.state[param]["exp_avg_sq"] = state["exp_avg_sq"].to(
                    param.device, compute_dtype(param.dtype)
                )


def _check_options(options: dict[str, Any]) -> None:
    """Checks the options of a parameter group."""
    lr = options["lr"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, got shape {tuple(lr.shape)}")
        lr = lr.item()
    check_number("lr", lr)
    betas = options["betas"]
    if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
        raise TypeError(f"betas must be a pair of numbers, got {betas!r}")
    for number, beta in enumerate(betas):
        check_number(f"betas[{number}]", beta, below=1)
    check_number("eps", options["eps"])
    check_number("weight_decay", options["weight_decay"])
    for name in ("grad_averaging", "nesterov", "maximize", "skip_nonfinite", "capturable"):
        check_flag(name, options[name])
    for name in ("foreach", "fused"):
        if options[name] is not None:
            check_flag(name, options[name])
    if options["fused"] and options["foreach"]:
        raise RuntimeError("fused and foreach cannot be True together")
    if options["fused"]:
        require()


def _assigned(
    group: dict[str, Any],
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
) -> Iterator[tuple[Any, list[list[Tensor]]]]:
    """Yields each implementation with the four lists of its tensors, as it takes them."""
    chosen = [_implementation(group, *layer) for layer in zip(params, grads, exp_avgs, strict=True)]
    for implementation in (native, foreach, single_tensor):
        mine = [choice is implementation for choice in chosen]
        if any(mine):
            take = list if implementation is native else _as_real
            columns = (params, grads, exp_avgs, exp_avg_sqs)
            yield implementation, [take(compress(column, mine)) for column in columns]


def _implementation(group: dict[str, Any], param: Tensor, grad: Tensor, exp_avg: Tensor) -> Any:
    """Returns the module that updates a parameter."""
    fused = group["foreach"] is None if group["fused"] is None else group["fused"]
    if fused and native.problem(param, grad, exp_avg) is None:
        return native
    if group["foreach"] is None:
        return foreach if type(param) in (Tensor, Parameter) else single_tensor
    return foreach if group["foreach"] else single_tensor


def _for_compiler(group: dict[str, Any]) -> Options:
    """Puts the numbers of a group that may change from step to step into 0-d tensors.

    A number that has changed once becomes an input of the compiled step. But where one operation
    takes it as an argument, as add does alpha, Inductor fixes its value everywhere, without a
    guard (seen in torch 2.13). float64 keeps 1 - beta2 as exact as it is between numbers.
    """
    one = torch.ones((), dtype=torch.float64, device=group["params"][0].device)
    beta1, beta2 = group["betas"]
    numbers = {
        "lr": group["lr"] if isinstance(group["lr"], Tensor) else group["lr"] * one,
        "betas": (beta1 * one, beta2 * one),
        # Without decay its part of the step is left out.
        "weight_decay": group["weight_decay"] * one if group["weight_decay"] else 0.0,
    }
    return cast(Options, group | numbers)


def _any_on_cpu(groups: list[dict[str, Any]]) -> bool:
    return any(param.device.type == "cpu" for group in groups for param in group["params"])


def _as_real(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Views complex tensors as their real pairs."""
    return [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in tensors]


def _paired(
    state_dict: dict[str, Any], param_groups: list[dict[str, Any]]
) -> Iterable[tuple[Any, Tensor]]:
    """Pairs the indices of a state dict with parameters, by position as the base class does."""
    return zip(
        chain.from_iterable(group["params"] for group in state_dict["param_groups"]),
        chain.from_iterable(group["params"] for group in param_groups),
        strict=False,  # the base class refuses other numbers of parameters
    )
