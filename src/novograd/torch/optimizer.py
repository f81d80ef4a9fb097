"""NovoGrad as a ``torch.optim.Optimizer``."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from novograd import variants
from novograd.layers import check_layers
from novograd.native import usable
from novograd.torch import plan, sharding
from novograd.torch.backends import Backend, Scaling, Step, triton
from novograd.torch.groups import name_of, refuse_pieces, shapes_of
from novograd.torch.layout import Layout, Layouts
from novograd.torch.options import OPTIONS, Options, check_options, with_new
from novograd.torch.parts import Part, parts
from novograd.torch.plan import (
    Assignment,
    Plan,
    kernels_for,
    require_kernels,
    wants_kernels,
    whole_part,
)
from novograd.torch.sharding import Norms
from novograd.torch.state import check_loaded, follow, new_state, restore
from novograd.torch.state import problem as problem_of_state
from novograd.variants import Variant

# All that live, for groups that go from one to another.
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
        self._forget()
        super().__init__(params, defaults)
        _OPTIMIZERS.add(self)
        if fused is None and foreach is None and _any_on_cpu(self.param_groups):
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
        self._follow_groups()
        if isinstance(param_group, dict):
            param_group = _with_layers(param_group)
            check_options(self.defaults | param_group)
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except BaseException:
            self.param_groups.pop()
            raise
        self._note_groups()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: Called first, with gradients enabled, to evaluate the model anew.

        Returns:
            What the closure returned; None without one.

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
        if torch.compiler.is_compiling() and (self._sharded or self._needs_triton()):
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
        self._take_layers()
        return super().state_dict()

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
        self._follow_groups()
        loading: list[dict[str, Any]] = []

        def check(_: torch.optim.Optimizer, given: dict[str, Any]) -> None:
            self._check_state_dict(given)
            loading.append(given)

        # As hooks, check sees what the user's own hooks made of the dict, and they see the state
        # as it will be used.
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
        return all(map(self._unscales, range(len(self.param_groups))))

    # -- its parts -------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy is made of."""
        self._take_layers()
        return super().__getstate__() | {"_layers": dict(enumerate(self._layers.values()))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes the state of another, with the layers that are set here where it has none."""
        super().__setstate__(state)
        chosen = self.__dict__.get("_layers", {})
        self._forget()
        self._layers = dict(enumerate(chosen.values()))  # the groups are others now
        for group in self.param_groups:
            group.update(with_new(group))
            self._check_group(group)
        self._note_groups()
        _OPTIMIZERS.add(self)

    def _forget(self) -> None:
        """Makes anew what is known of groups and parameters beside what they hold themselves."""
        # Of the groups in order, by the identity of each, which is not one of a copy.
        self._layers: dict[int, Any] = {}
        self._shapes: Counter[torch.Size] = Counter()
        self._layouts = Layouts()
        self._plans: dict[int, Plan] = {}
        self._noted: list[Any] = []
        self._sharded = False

    def _follow_groups(self) -> None:
        """Takes notice of what has been changed in the groups since they were last used.

        Raises:
            RuntimeError: If flat pieces have taken the place of parameters.
        """
        if self._noted != self._identities():
            refuse_pieces(self._shapes, self._plain_shapes())
            self._note_groups()
        else:
            self._sharded = self._any_sharded()  # the contents of tensors can be exchanged

    def _note_groups(self) -> None:
        """Notes the layers and the parameters of all groups, as they are now."""
        self._take_layers()
        self._shapes = self._plain_shapes()
        self._sharded = self._any_sharded()
        self._layouts.forget_others(chain(*(group["params"] for group in self.param_groups)))
        self._noted = self._identities()

    def _take_layers(self) -> None:
        """Takes the layers out of the groups.

        Programs flatten, compare and save the entries of groups, and layers may be a function,
        which no file can hold.
        """
        self._layers = {id(group): self._layers_of(group) for group in self.param_groups}
        for group in self.param_groups:
            group.pop("layers", None)

    def _any_sharded(self) -> bool:
        """Whether a parameter is a DTensor."""
        params = chain(*(group["params"] for group in self.param_groups))
        return any(map(sharding.is_sharded, params))

    def _identities(self) -> list[Any]:
        """Returns by what changes of groups and parameters can be seen."""
        return [
            # Lazy parameters get their shapes later.
            ("layers" in group, id(group), *((id(w), is_lazy(w)) for w in group["params"]))
            for group in self.param_groups
        ]

    def _layers_of(self, group: dict[str, Any]) -> Any:
        """Returns the layers of a group, also of one that a program has put in another's place."""
        if "layers" in group:
            return check_layers("layers", group["layers"])
        if id(group) in self._layers:
            return self._layers[id(group)]
        number = next(i for i, known in enumerate(self.param_groups) if known is group)
        known = list(self._layers.values())
        return known[number] if number < len(known) else self.defaults.get("layers")

    def _plain_shapes(self) -> Counter[torch.Size]:
        """Returns the shapes of the parameters of groups without layers."""
        plain = (group for group in self.param_groups if self._layers_of(group) is None)
        return shapes_of([param for group in plain for param in group["params"]])

    def _layout(self, group: dict[str, Any], index: int) -> Layout:
        """Returns where the layers of a parameter of a group are; its errors name it."""
        param, name = group["params"][index], name_of(group, index)
        try:
            return self._layouts.of(self._layers_of(group), name, param)
        except (ValueError, RuntimeError) as error:
            raise type(error)(f"parameter {self._name(group, index)}: {error}") from error

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises an error, naming the parameter, if one of a group cannot be trained."""
        require_kernels(group["fused"], group["params"])
        for index, param in enumerate(group["params"]):
            if not is_lazy(param):
                self._layout(group, index)

    def _take_step(self) -> None:
        """Takes a step, having checked first that it can be taken."""
        again = [self._recalled(number) for number in range(len(self.param_groups))]
        if None in again and not torch.compiler.is_compiling():
            self._follow_groups()
        for group, assigned in zip(self.param_groups, again, strict=True):
            if assigned is None:
                self._check_gradients(group)
        norms = self._norms() if self._sharded else None
        work = [
            step
            for number, assigned in enumerate(again)
            for step in self._prepared(number, norms, assigned)
        ]
        if norms is not None:
            for step in work:
                step.square_sums()
            missing = norms.all_reduce()
            if missing:
                work += [
                    step
                    for group in self.param_groups
                    for step in self._prepared_without_gradient(group, missing, norms)
                ]
        for step in work:
            step.take()

    def _init_group(
        self, group: dict[str, Any], *columns: list[Any], norms: Norms | None = None
    ) -> None:
        """Appends to the columns what has a gradient, after making state that does not exist yet.

        torch.compile knows a method of this name, and calls it before it traces the rest.
        """
        for index, param in enumerate(group["params"]):
            if param.grad is not None:
                row = self._row(group, index, sharding.local_gradient(param), norms)
                for column, x in zip(columns, row, strict=True):
                    column.append(x)

    def _row(
        self, group: dict[str, Any], index: int, grad: Tensor, norms: Norms | None
    ) -> tuple[Any, ...]:
        """Returns the fields of a ``Part``, and where it is cut; makes its state if need be."""
        param, layout = group["params"][index], self._layout(group, index)
        state = self._state_of(group, index, layout)
        if not state:
            state = self.state[param]
            state.update(new_state(group, param, layout))
        square = norms.squares.get(param) if norms else None
        return *whole_part(param, grad, layout.scale, state, square), layout.cuts

    def _recalled(self, number: int) -> Assignment | None:
        """Returns what updates a group, if that is as in the last step."""
        if self._sharded or torch.compiler.is_compiling() or number not in self._plans:
            return None
        group = self.param_groups[number]
        return self._plans[number].recall(group, self._layers_of(group), self.state)

    def _prepared(
        self, number: int, norms: Norms | None, assigned: Assignment | None
    ) -> list[Step]:
        """Returns the step of what has a gradient in a group."""
        group = self.param_groups[number]
        if assigned is None:
            # As columns, in which torch.compile finds the tensors.
            columns: tuple[list[Any], ...] = tuple([] for _ in range(len(Part._fields) + 1))
            self._init_group(group, *columns, norms=norms)
            assigned = plan.assign(group, zip(*columns, strict=True))
            if not self._sharded and not torch.compiler.is_compiling():
                layers = self._layers_of(group)
                self._plans[number] = Plan(group, layers, assigned, self.state)
        return plan.steps(group, assigned, self._scaling())

    def _prepared_without_gradient(
        self, group: dict[str, Any], params: list[Tensor], norms: Norms
    ) -> list[Step]:
        """Returns the step of what has a gradient in other processes only."""
        rows = [
            self._row(group, index, torch.zeros_like(sharding.local(param)), norms)
            for index, param in enumerate(group["params"])
            if any(param is one for one in params)
        ]
        return plan.steps(group, plan.assign(group, rows), self._scaling())

    def _scaling(self) -> Scaling | None:
        """Returns what a ``GradScaler`` has set."""
        found_inf = getattr(self, "found_inf", None)
        return None if found_inf is None else Scaling(getattr(self, "grad_scale", None), found_inf)

    def _unscales(self, number: int) -> bool:
        """Whether all of a group will be updated by backends that unscale gradients themselves."""
        group, assigned = self.param_groups[number], self._recalled(number)
        if assigned is not None:
            return all(backend.UNSCALES for backend, _ in assigned)
        return wants_kernels(group) and all(
            self._unscales_parameter(group, index)
            for index, param in enumerate(group["params"])
            if param.grad is not None
        )

    def _unscales_parameter(self, group: dict[str, Any], index: int) -> bool:
        """Whether kernels that unscale gradients themselves can take a parameter."""
        kernels = kernels_for(group["params"][index].device)
        return kernels.UNSCALES and self._problem_of_kernels(kernels, group, index) is None

    def _needs_triton(self) -> bool:
        """Whether kernels are asked for that torch.compile does not take."""
        return any(
            triton.takes(param.device)
            for group in self.param_groups
            if group["fused"] or group["stochastic_rounding"]
            for param in group["params"]
        )

    def _norms(self) -> Norms | None:
        """Makes room for the norms of layers of which other processes have pieces, if any do."""
        shardings = {}
        for group in self.param_groups:
            for index, param in enumerate(group["params"]):
                if param.requires_grad and sharding.is_sharded(param):
                    found = self._layout(group, index).sharding
                    if found is not None and found.groups:
                        shardings[param] = found
        return Norms(shardings) if shardings else None

    def _check_gradients(self, group: dict[str, Any]) -> None:
        """Raises RuntimeError, naming the parameter, if a gradient of a group cannot be used."""
        for index, param in enumerate(group["params"]):
            if param.grad is None:
                continue
            problem = None
            if param.grad.layout is not torch.strided:
                problem = f"it is {param.grad.layout}, and must be dense"
            elif (
                self._sharded and not sharding.is_sharded(param.grad) and sharding.is_sharded(param)
            ):
                problem = "it must be a DTensor where the parameter is one"
            elif torch.compiler.is_compiling():
                pass
            elif group["stochastic_rounding"] and param.dtype == torch.bfloat16:
                problem = self._problem_of_kernels(triton, group, index)
            elif group["fused"]:
                problem = self._problem_of_kernels(kernels_for(param.device), group, index)
            if problem is None and self._sharded and variants.get(group["variant"]).norm != "l2":
                problem = f"the norm of variant {group['variant']!r} is not known of shards"
            if problem:
                asked = "".join(
                    f"with {x}=True " for x in ("fused", "stochastic_rounding") if group[x]
                )
                raise RuntimeError(
                    f"NovoGrad cannot use {asked}the gradient of parameter "
                    f"{self._name(group, index)}: {problem}"
                )

    def _state_of(self, group: dict[str, Any], index: int, layout: Layout) -> dict[str, Any]:
        """Returns the state of a parameter in its dtypes; it is empty before the first step.

        Raises RuntimeError, naming the parameter, if the state cannot be used.
        """
        param = group["params"][index]
        state = self.state.get(param, {})
        if state:
            follow(state, param)
            problem = problem_of_state(state, group, param, layout)
            if problem:
                name = self._name(group, index)
                raise RuntimeError(f"NovoGrad cannot use the state of parameter {name}: {problem}")
        return state

    def _problem_of_kernels(
        self, kernels: Backend, group: dict[str, Any], index: int
    ) -> str | None:
        """Returns why the kernels of a module cannot take a parameter, or None if they can."""
        param, layout = group["params"][index], self._layout(group, index)
        state = self._state_of(group, index, layout) or {
            "exp_avg": param,
            "exp_avg_sq": layout.new_second_moment(param),
        }
        whole = whole_part(param, sharding.local(param.grad), layout.scale, state)
        problems = (kernels.problem(x, cast(Options, group)) for x in parts(whole, layout.cuts))
        return next(filter(None, problems), None)

    def _name(self, group: dict[str, Any], index: int) -> str:
        """Returns the name of a parameter, or where it is."""
        name = name_of(group, index)
        if name is not None:
            return repr(name)
        number = next(i for i, known in enumerate(self.param_groups) if known is group)
        return f"{index} of param_groups[{number}]"

    def _check_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError if a state dict cannot be loaded; the base class checks the groups."""
        for number, group in enumerate(state_dict["param_groups"]):
            for name, option in OPTIONS.items():
                if name not in group and not option.is_new:
                    other = "grad_averaging" in group
                    raise ValueError(
                        "state_dict is not one of NovoGrad: "
                        f"param_groups[{number}] has no {name!r}"
                        + ("; `novograd convert` reads those of other NovoGrads" * other)
                    )
            check_options(with_new(group))
        for theirs, ours in zip(state_dict["param_groups"], self.param_groups, strict=False):
            require_kernels(theirs["fused"], ours["params"])
        check_loaded(state_dict, self.param_groups, self._layout)


def _any_on_cpu(groups: list[dict[str, Any]]) -> bool:
    return any(param.device.type == "cpu" for group in groups for param in group["params"])


def _with_layers(group: dict[str, Any]) -> dict[str, Any]:
    """Returns a group with its layers as an entry, also if another optimizer has taken them out."""
    if "layers" in group:
        return group.copy()  # what the caller has keeps the entry
    for optimizer in _OPTIMIZERS:
        if any(known is group for known in optimizer.param_groups):
            return group | {"layers": optimizer._layers_of(group)}
    return group
