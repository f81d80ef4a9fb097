"""Facts about the memory of tensors change if and only if a plan must change."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from novograd.torch import memory
from novograd.torch.memory import described
from novograd.torch.parts import Part

pytestmark = pytest.mark.usefixtures("way_to_read_memory")
plain = torch.zeros(2, 3, 4, 5)
DIFFERENT = {
    "shape": torch.zeros(2, 3, 5, 4),
    "axes": torch.zeros(2, 3, 20),
    "dtype": plain.double(),
    "order in memory": plain.to(memory_format=torch.channels_last),
    "gaps": torch.zeros(2, 3, 4, 6)[..., :5],
    "device": plain.to("meta"),
    "class": torch.nn.Parameter(plain),
    "subclass": plain.as_subclass(torch.nn.Buffer),
    "fake": FakeTensorMode().from_tensor(plain),
    "sparse": plain.to_sparse(),
    "missing": None,
}


@pytest.mark.parametrize("other", DIFFERENT)
def test_facts_differ(other):
    facts = described({"param": [plain, DIFFERENT[other], plain]})[0]
    assert facts != described({"param": [plain, plain, plain]})[0]
    assert facts == described({"param": [plain, DIFFERENT[other], plain]})[0]


def test_facts_do_not_depend_on_the_memory_itself():
    other = torch.ones(2, 3, 4, 5)
    assert described({"param": [plain]})[0] == described({"param": [other]})[0]


def test_facts_depend_on_the_fields():
    fields = "param", "grad", "maximum"
    found = [described({field: [plain, plain]})[0] for field in fields]
    found.append(described({"param": [plain], "grad": [plain]})[0])
    assert all(x != y for i, x in enumerate(found) for y in found[:i])


def test_many_axes_fit():
    many = torch.zeros([1] * 60)
    two, three = (described({"param": [many] * count})[0] for count in (2, 3))
    assert two != three == described({"param": [many] * 3})[0]


@pytest.mark.parametrize("first", [plain, plain.as_subclass(torch.nn.Buffer)])
def test_addresses_are_those_of_torch(first):
    square, step = torch.zeros(2), torch.zeros(())
    parts = [
        Part(first[1], plain[0], plain[1, 1], square[1], step=step),
        Part(plain, plain, plain, square, square=square),
    ]
    expected = [
        [0 if x is None else x.data_ptr() for x in (getattr(part, name) for part in parts)]
        for name in memory.ADDRESSES
    ]
    assert memory.addresses(parts).tolist() == expected
