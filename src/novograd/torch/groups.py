"""Parameter groups. Users, and programs that run an optimizer, may edit them at any time."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from novograd import variants
from novograd.layers import check_layers
from novograd.torch.layout import Layouts, ParameterLayout
from novograd.torch.pieces import refuse_pieces, shapes_of
from novograd.torch.sharding import is_sharded

Group = dict[str, Any]


class Member(NamedTuple):
    """A parameter as a member of its group.

    Attributes:
        param: The parameter.
        group: The group.
        number: The index of the group among all groups.
        position: The index of the parameter in the group.

    Example:
        >>> str(Member(torch.zeros(1), {"params": [torch.zeros(1)]}, 2, 0))
        '0 of param_groups[2]'
    """

    param: Tensor
    group: Group
    number: int
    position: int

    @property
    def name(self) -> str | None:
        """The name of the parameter, if the group still has a name for each parameter."""
        names = self.group.get("param_names")
        if names and len(names) == len(self.group["params"]):
            return names[self.position]
        return None

    def __str__(self) -> str:
        """Returns the name of the parameter for a message, or its position."""
        name = self.name
        return f"{self.position} of param_groups[{self.number}]" if name is None else repr(name)


def members(number: int, group: Group) -> list[Member]:
    """Returns the members of a group.

    Args:
        number: The index of the group among all groups.
        group: The group.

    Example:
        >>> [str(one) for one in members(0, {"params": [torch.zeros(1)], "param_names": ["bias"]})]
        ["'bias'"]
    """
    return [Member(param, group, number, i) for i, param in enumerate(group["params"])]


def trained(number: int, group: Group) -> list[Member]:
    """Returns the members of a group that have a gradient.

    Args:
        number: The index of the group among all groups.
        group: The group.

    Example:
        >>> trained(0, {"params": [torch.zeros(1)]})
        []
    """
    return [
        Member(param, group, number, i)
        for i, param in enumerate(group["params"])
        if param.grad is not None
    ]


class Groups:
    """The facts about parameter groups that the groups themselves do not hold.

    The layers of a group are kept here. Programs flatten, compare and save the entries of groups,
    but layers may be a function, and a function cannot be saved. Programs also replace groups and
    their parameters. So each method gets the current groups. No group or parameter is kept alive.

    Args:
        default: The layers of unknown groups.
        layers: The layers of the first groups, in the order of the groups.

    Attributes:
        sharded: Whether a parameter was a DTensor when the groups were last checked.

    Example:
        >>> from novograd.layers import Rows
        >>> groups, group = Groups(), {"params": [torch.zeros(2, 3)], "layers": Rows()}
        >>> groups.remember([group])
        >>> "layers" in group, groups.layers_of(0, group)
        (False, Rows(axes=None, scale='norm'))
        >>> groups.layout(*members(0, group)).v_shape
        torch.Size([2, 1])
    """

    def __init__(self, default: Any = None, layers: Iterable[Any] = ()) -> None:
        """Creates the object; ``remember`` adds the groups."""
        self.sharded = False
        self._default = default
        # The keys are the ids of the groups; before the first ``remember``, their indices.
        self._layers: dict[int, Any] = dict(enumerate(layers))
        self._layouts = Layouts()
        self._shapes: Counter[torch.Size] = Counter()
        self._seen: list[Any] = []

    @property
    def layers(self) -> list[Any]:
        """The layers of all groups, in the order of the groups."""
        return list(self._layers.values())

    def layers_of(self, number: int, group: Group) -> Any:
        """Returns the layers of a group; None means the default of its variant.

        If a program has replaced a group, the new group has the layers of the old group.
        """
        if "layers" in group:
            return check_layers("layers", group["layers"])
        if id(group) in self._layers:
            return self._layers[id(group)]
        known = self.layers
        return known[number] if number < len(known) else self._default

    def layout(self, member: Member) -> ParameterLayout:
        """Returns where the layers of a parameter are.

        Raises:
            ValueError: If the layers do not fit the parameter, or the blocks of a quantised
                momentum buffer do not fit the layers or the shards. The message names the
                parameter.
            RuntimeError: If ``FullyShardedDataParallel`` has flattened the parameter.
        """
        layers = self.layers_of(member.number, member.group)
        if layers is None:
            layers = variants.get(member.group["variant"]).layers
        try:
            quantised = member.group.get("moment_dtype") is torch.int8
            return self._layouts.of(layers, member.name, member.param, quantised=quantised)
        except (ValueError, RuntimeError) as error:
            raise type(error)(f"parameter {member}: {error}") from error

    def check_layouts(self, number: int, group: Group) -> None:
        """Raises an error that names the parameter, if the layers of a group do not fit it."""
        for member in members(number, group):
            if not is_lazy(member.param):
                self.layout(member)

    def refresh(self, groups: Sequence[Group]) -> None:
        """Remembers the groups again if they have changed.

        Raises:
            RuntimeError: If parameters were replaced by flat pieces.
        """
        if self._seen != _identities(groups):
            refuse_pieces(self._shapes, self._plain_shapes(groups))
            self.remember(groups)
        else:
            self.sharded = _any_sharded(groups)  # torch can swap the contents of tensors

    def remember(self, groups: Sequence[Group]) -> None:
        """Remembers the layers and the parameters of all groups."""
        self.take_layers(groups)
        self._shapes = self._plain_shapes(groups)
        self.sharded = _any_sharded(groups)
        self._layouts.forget_others(_parameters(groups))
        self._seen = _identities(groups)

    def take_layers(self, groups: Sequence[Group]) -> None:
        """Moves the layers from the groups into this object."""
        self._layers = {
            id(group): self.layers_of(number, group) for number, group in enumerate(groups)
        }
        for group in groups:
            group.pop("layers", None)

    def _plain_shapes(self, groups: Sequence[Group]) -> Counter[torch.Size]:
        """Returns the shapes of the parameters of all groups without layers."""
        return shapes_of(
            [
                param
                for number, group in enumerate(groups)
                if self.layers_of(number, group) is None
                for param in group["params"]
            ]
        )


def _parameters(groups: Sequence[Group]) -> Iterator[Tensor]:
    """Yields the parameters of all groups."""
    for group in groups:
        yield from group["params"]


def _any_sharded(groups: Sequence[Group]) -> bool:
    """Whether a parameter is a DTensor."""
    return any(map(is_sharded, _parameters(groups)))


def _identities(groups: Sequence[Group]) -> list[Any]:
    """Returns a value that changes if groups or parameters are replaced."""
    return [
        # Lazy parameters get their shapes later.
        ("layers" in group, id(group), *((id(w), is_lazy(w)) for w in group["params"]))
        for group in groups
    ]
