"""Parameter groups, which users and the programs that run an optimizer edit as they like."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from novograd.layers import check_layers
from novograd.torch.layout import Layout, Layouts
from novograd.torch.pieces import refuse_pieces, shapes_of
from novograd.torch.sharding import is_sharded

Group = dict[str, Any]


class Member(NamedTuple):
    """A parameter as a member of its group.

    Attributes:
        param: The parameter.
        group: The group.
        number: The place of the group among all groups.
        position: The place of the parameter in the group.

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
        """The name of the parameter, if the group still has one for each."""
        names = self.group.get("param_names")
        if names and len(names) == len(self.group["params"]):
            return names[self.position]
        return None

    def __str__(self) -> str:
        """Returns the name of the parameter for a message, or its place."""
        name = self.name
        return f"{self.position} of param_groups[{self.number}]" if name is None else repr(name)


def members(number: int, group: Group) -> list[Member]:
    """Returns the members of a group.

    Args:
        number: The place of the group among all groups.
        group: The group.

    Example:
        >>> [str(one) for one in members(0, {"params": [torch.zeros(1)], "param_names": ["bias"]})]
        ["'bias'"]
    """
    return [Member(param, group, number, i) for i, param in enumerate(group["params"])]


def trained(number: int, group: Group) -> list[Member]:
    """Returns the members of a group that have a gradient.

    Args:
        number: The place of the group among all groups.
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

    The layers of a group are kept here, because programs flatten, compare and save the entries of
    groups, and layers may be a function, which no file can hold. Programs also replace groups and
    their parameters. So each method is given the groups as they are now. No group or parameter is
    kept alive.

    Args:
        default: The layers of a group that is not known.
        layers: The layers of the first groups, in their order.

    Attributes:
        sharded: Whether a parameter was a DTensor when the groups were last looked at.

    Example:
        >>> from novograd.layers import Rows
        >>> groups, group = Groups(), {"params": [torch.zeros(2, 3)], "layers": Rows()}
        >>> groups.note([group])
        >>> "layers" in group, groups.layers_of(0, group)
        (False, Rows(axes=None, scale='norm'))
        >>> groups.layout(*members(0, group)).v_shape
        torch.Size([2, 1])
    """

    def __init__(self, default: Any = None, layers: Iterable[Any] = ()) -> None:
        """Knows no groups yet."""
        self.sharded = False
        self._default = default
        # The keys are the identities of the groups, once these have been seen.
        self._layers: dict[int, Any] = dict(enumerate(layers))
        self._layouts = Layouts()
        self._shapes: Counter[torch.Size] = Counter()
        self._noted: list[Any] = []

    @property
    def layers(self) -> list[Any]:
        """The layers of all groups, in the order of the groups."""
        return list(self._layers.values())

    def layers_of(self, number: int, group: Group) -> Any:
        """Returns the layers of a group.

        A group that a program has put in the place of another has the layers of the other.
        """
        if "layers" in group:
            return check_layers("layers", group["layers"])
        if id(group) in self._layers:
            return self._layers[id(group)]
        known = self.layers
        return known[number] if number < len(known) else self._default

    def layout(self, member: Member) -> Layout:
        """Returns where the layers of a parameter are.

        Raises:
            ValueError: If the layers do not fit the parameter, which the message names.
            RuntimeError: If ``FullyShardedDataParallel`` has flattened the parameter.
        """
        layers = self.layers_of(member.number, member.group)
        try:
            return self._layouts.of(layers, member.name, member.param)
        except (ValueError, RuntimeError) as error:
            raise type(error)(f"parameter {member}: {error}") from error

    def check_layouts(self, number: int, group: Group) -> None:
        """Raises an error, naming the parameter, if the layers of a group do not fit one."""
        for member in members(number, group):
            if not is_lazy(member.param):
                self.layout(member)

    def follow(self, groups: Sequence[Group]) -> None:
        """Notes the groups anew if they have changed.

        Raises:
            RuntimeError: If flat pieces have taken the place of parameters.
        """
        if self._noted != _identities(groups):
            refuse_pieces(self._shapes, self._plain_shapes(groups))
            self.note(groups)
        else:
            self.sharded = _any_sharded(groups)  # the contents of tensors can be exchanged

    def note(self, groups: Sequence[Group]) -> None:
        """Notes the layers and the parameters of all groups."""
        self.take_layers(groups)
        self._shapes = self._plain_shapes(groups)
        self.sharded = _any_sharded(groups)
        self._layouts.forget_others(_parameters(groups))
        self._noted = _identities(groups)

    def take_layers(self, groups: Sequence[Group]) -> None:
        """Takes the layers out of the groups and keeps them."""
        self._layers = {
            id(group): self.layers_of(number, group) for number, group in enumerate(groups)
        }
        for group in groups:
            group.pop("layers", None)

    def _plain_shapes(self, groups: Sequence[Group]) -> Counter[torch.Size]:
        """Returns the shapes of the parameters of groups without layers."""
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
    """Returns a value that differs once groups or parameters have changed."""
    return [
        # Lazy parameters get their shapes later.
        ("layers" in group, id(group), *((id(w), is_lazy(w)) for w in group["params"]))
        for group in groups
    ]
