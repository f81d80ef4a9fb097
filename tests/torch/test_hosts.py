"""Host programs may edit the groups and the state of an optimizer.

Many tests repeat a scenario from a report about another optimizer, which the docstring names.
torch's AdamW runs the same code: wherever AdamW continues, NovoGrad must continue too.
"""

import copy
import gc
import pickle
import sys
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp

from novograd.layers import Rows
from novograd.torch import NovoGrad
from novograd.variants import VARIANTS
from tests.helpers.torch import parameters, set_gradients, states_of, train

OPTIMIZERS = {
    "AdamW": torch.optim.AdamW,
    "whole tensors": NovoGrad,
    "rows": lambda params, **options: NovoGrad(params, layers=Rows(), **options),
    "function": lambda params, **options: NovoGrad(params, layers=by_shape, **options),
    "foreach": lambda params, **options: NovoGrad(params, foreach=True, **options),
    "counts steps": lambda params, **options: NovoGrad(params, variant="apex", **options),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def by_shape(name, parameter):
    return Rows() if parameter.ndim > 1 else None


def twins(params):
    return [nn.Parameter(param.detach().clone()) for param in params]


def assert_same(some, others):
    torch.testing.assert_close(list(some), list(others), rtol=0, atol=0)


# -- groups that are edited -----------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("steps", [0, 2])
def test_parameters_may_be_replaced(make, steps):
    """huggingface/accelerate 3855: ``prepare`` with FSDP2 assigns ``group["params"]``."""
    old, new, twin = parameters(seed=1), parameters(seed=2), parameters(seed=2)
    optimizer, fresh = make(old, lr=0.1, weight_decay=0.1), make(twin, lr=0.1, weight_decay=0.1)
    train(optimizer, steps)
    optimizer.param_groups[0]["params"] = new
    train(optimizer, 3)
    train(fresh, 3)
    assert_same(new, twin)


@every_optimizer
@pytest.mark.parametrize("rows", [9, 3], ids=["more", "fewer"])
def test_parameters_may_grow_and_shrink_with_their_state(make, rows):
    """nerfstudio-project/gsplat 252: points are added and removed, and their state is moved."""
    points, other = parameters([(6, 4), (6,)])
    optimizer = make([{"params": [points], "name": "points"}, {"params": [other]}], lr=0.1)
    train(optimizer, 2)
    grown = nn.Parameter(resized(points.detach(), rows))
    state = optimizer.state.pop(points)
    for name, value in state.items():
        if value.shape[:1] == points.shape[:1]:
            state[name] = resized(value, rows)
    optimizer.state[grown] = state
    optimizer.param_groups[0]["params"] = [grown]
    before = {name: x.clone() for name, x in state.items()}

    twin, same = nn.Parameter(grown.detach().clone()), nn.Parameter(other.detach().clone())
    again = make([{"params": [twin]}, {"params": [same]}], lr=0.1)
    again.state[twin] = before
    again.state[same] = copy.deepcopy(optimizer.state[other])
    train(optimizer, 2, start=2)
    train(again, 2, start=2)
    assert_same([grown, other], [twin, same])


def resized(x, rows):
    return torch.cat([x, torch.zeros(rows, *x.shape[1:])])[:rows].contiguous()


@every_optimizer
def test_parameters_may_be_added_to_a_group_and_removed(make):
    params, added = parameters(), parameters([(4, 2)])
    optimizer = make(params, lr=0.1)
    train(optimizer, 2)
    optimizer.param_groups[0]["params"] += added
    taken = optimizer.param_groups[0]["params"].pop(0)
    before = taken.detach().clone()
    train(optimizer, 2)
    assert_same([taken], [before])
    assert not torch.equal(added[0], parameters([(4, 2)])[0])


@every_optimizer
def test_groups_may_be_rebuilt(make):
    """Lightning-AI/pytorch-lightning 6891: BackboneFinetuning rebuilds the groups on resuming."""
    head, backbone = parameters([(4, 3)]), parameters([(5, 4), (5,)], seed=1)
    twin = twins(head + backbone)
    resumed, whole = make(head, lr=0.1), make(twin[:1], lr=0.1)
    whole.add_param_group({"params": twin[1:], "lr": 0.2})
    entries = {k: v for k, v in resumed.param_groups[0].items() if k != "params"}
    saved = pickle.loads(pickle.dumps(entries))
    resumed.param_groups = [saved | {"params": head}, saved | {"params": backbone, "lr": 0.2}]
    train(resumed, 3)
    train(whole, 3)
    assert_same(head + backbone, twin)


@every_optimizer
@pytest.mark.parametrize("copied", [False, True])
def test_an_optimizer_may_be_made_from_the_groups_of_another(make, copied):
    """horovod.torch.DistributedOptimizer derives its class from the class of the optimizer."""
    params = parameters()
    twin = twins(params)
    optimizer, other = make(twin, lr=0.1), make(params, lr=0.1)
    if copied:
        other = copy.deepcopy(other)
        params = other.param_groups[0]["params"]
    of_groups = type(other)(other.param_groups)
    del other
    gc.collect()
    train(of_groups, 3)
    train(optimizer, 3)
    assert_same(params, twin)


@every_optimizer
def test_float32_copies_may_replace_the_weights_of_the_model(make):
    """NVIDIA/apex's FP16_Optimizer and similar wrappers train float32 copies."""
    model = parameters(dtype=torch.bfloat16)
    optimizer = make(model, lr=0.1)
    group = optimizer.param_groups[0]
    masters = [nn.Parameter(param.detach().float()) for param in group["params"]]
    group["params"] = masters
    twin = twins(masters)
    fresh = make(twin, lr=0.1)
    train(optimizer, 2)
    train(fresh, 2)
    assert_same(masters, twin)
    assert {state["exp_avg"].dtype for state in states_of(optimizer)} == {torch.float32}


def test_layers_may_be_set_in_a_group():
    """ZeroRedundancyOptimizer of torch sets all entries of its groups like this in each step."""
    params = parameters()
    twin = twins(params)
    optimizer, expected = NovoGrad(params, lr=0.1), NovoGrad(twin, lr=0.1, layers=Rows())
    optimizer.param_groups[0]["layers"] = Rows()
    for step in range(3):
        train(optimizer, 1, start=step)
        train(expected, 1, start=step)
        optimizer.param_groups[0]["layers"] = Rows()
    assert_same(params, twin)
    assert "layers" not in optimizer.state_dict()["param_groups"][0]


def test_a_group_of_the_caller_is_not_modified():
    params = parameters()
    groups = [{"params": params, "layers": Rows()}]
    first, second = NovoGrad(groups), NovoGrad(groups)
    assert groups[0]["layers"] == Rows()
    for optimizer in (first, second):
        train(optimizer, 1)
        assert optimizer.state[params[0]]["exp_avg_sq"].shape == (3, 1)


# -- nothing is kept alive ------------------------------------------------------------------------


@every_optimizer
def test_removed_parameters_and_state_are_freed(make):
    params = parameters()
    optimizer = make(params, lr=0.1)
    train(optimizer, 2)
    kept = params.pop()
    freed = [weakref.ref(x) for param in params for x in (param, *optimizer.state[param].values())]
    for param in params:
        del optimizer.state[param]
    optimizer.param_groups[0]["params"] = [kept]
    del param, params
    gc.collect()
    assert [ref() for ref in freed] == [None] * len(freed)


@every_optimizer
def test_the_contents_of_parameters_can_be_exchanged(make):
    """``Module.to`` exchanges the contents of DTensors.

    ``torch.utils.swap_tensors`` refuses tensors with weak references.
    """
    params = parameters()
    twin = twins(params)
    optimizer, other = make(params, lr=0.1), make(twin, lr=0.1)
    for some in (optimizer, other):
        train(some, 2)
        some.zero_grad()
    for param in params:
        torch.utils.swap_tensors(param, nn.Parameter(param.detach().clone()))
    for some in (optimizer, other):
        train(some, 2, start=2)
    assert_same(params, twin)


# -- weights that change --------------------------------------------------------------------------


@every_optimizer
def test_lazy_modules_are_trained(make):
    """Lightning-AI/pytorch-lightning 7546: the optimizer is made before the first forward."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2))
    optimizer = make(model.parameters(), lr=0.1)
    x = torch.randn(5, 3)
    model(x)
    eager = copy.deepcopy(model)
    expected = make(eager.parameters(), lr=0.1)
    for some, taken in ((model, optimizer), (eager, expected)):
        for _ in range(3):
            some(x).square().sum().backward()
            taken.step()
            taken.zero_grad()
    assert_same(model.parameters(), eager.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"foreach": True},
        {"fused": True},
        {"foreach": False},
        {"layers": Rows()},
        {"variant": "apex"},
        {"variant": "nvidia-amsgrad"},
    ],
    ids=str,
)
def test_state_follows_weights_that_change_their_dtype(options):
    torch.manual_seed(0)
    model = nn.Linear(20, 3)
    optimizer = NovoGrad(model.parameters(), lr=0.1, **options)
    train(optimizer, 2)
    wide = copy.deepcopy(model).double()
    expected = NovoGrad(wide.parameters(), lr=0.1, **options)
    expected.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    model.double()
    train(optimizer, 3, start=2)
    train(expected, 3, start=2)
    assert_same(model.parameters(), wide.parameters())
    for state in states_of(optimizer):
        assert {state["exp_avg"].dtype, state["exp_avg_sq"].dtype} == {torch.float64}


def missing(state):
    del state["exp_avg"]


def of_other_weights(state):
    state["exp_avg"] = torch.zeros(4, 5)


def of_other_layers(state):
    state["exp_avg_sq"] = torch.zeros(3, 1)


def elsewhere(state):
    state["exp_avg"] = state["exp_avg"].to("meta")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (missing, "it has no 'exp_avg'"),
        (of_other_weights, r"'exp_avg' must have shape \(3, 5\), got \(4, 5\)"),
        (of_other_layers, r"'exp_avg_sq' must have shape \(\), got \(3, 1\)"),
        (elsewhere, "'exp_avg' must be on cpu like the parameter, got meta"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_state_that_does_not_fit_is_named_and_nothing_changes(change, said, options):
    model = nn.ParameterDict(
        dict(zip(("first", "second"), parameters([(2,), (3, 5)]), strict=True))
    )
    optimizer = NovoGrad(model.named_parameters(), lr=0.1, **options)
    train(optimizer, 2)
    change(optimizer.state[model["second"]])
    before = copy.deepcopy(list(model.parameters())), copy.deepcopy(optimizer.state[model["first"]])
    set_gradients(model.parameters(), 2)
    with pytest.raises(RuntimeError, match=f"state of parameter 'second': {said}"):
        optimizer.step()
    assert_same(model.parameters(), before[0])
    torch.testing.assert_close(dict(optimizer.state[model["first"]]), before[1], rtol=0, atol=0)


# -- pieces of parameters -------------------------------------------------------------------------


def one_for_all(params):
    """DeepSpeed's ZeRO 1 and 2: one process's part of all parameters, padded to a round size."""
    flat = torch.cat([param.detach().flatten() for param in params])
    return [nn.Parameter(torch.cat([flat, torch.zeros(-len(flat) % 8)])[: len(flat) // 2])]


def one_for_each(params):
    """Megatron-LM's distributed optimizer: one process's part of each parameter."""
    return [nn.Parameter(param.detach().flatten()[: param.numel() // 2]) for param in params]


def of_weights_only(params):
    """Like ``one_for_each``, but vectors stay whole."""
    return [param if param.ndim < 2 else one_for_each([param])[0] for param in params]


@pytest.mark.parametrize("cut", [one_for_all, one_for_each, of_weights_only])
@pytest.mark.parametrize("steps", [0, 2])
def test_flat_pieces_instead_of_parameters_are_refused(cut, steps):
    params = parameters([(4, 6), (8,), (6, 2)])
    optimizer = NovoGrad(params, lr=0.1)
    train(optimizer, steps)
    pieces = cut(params)
    optimizer.param_groups[0]["params"] = pieces
    set_gradients(pieces, 0)
    before = twins(pieces)
    if not optimizer.state:  # torch cannot save the state of replaced parameters
        optimizer.state_dict()
    for take in (optimizer.step, optimizer.step, lambda: optimizer.add_param_group({"params": []})):
        with pytest.raises(RuntimeError, match=r"hide the layers of.*fully_shard.*or give layers="):
            take()
    assert_same(pieces, before)


def test_flat_pieces_of_lazy_parameters_are_refused():
    model = nn.LazyLinear(4)
    optimizer = NovoGrad(model.parameters(), lr=0.1)
    model(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["params"] = pieces = one_for_all(list(model.parameters()))
    set_gradients(pieces, 0)
    with pytest.raises(RuntimeError, match="hide the layers of"):
        optimizer.step()


@pytest.mark.parametrize("cut", [one_for_all, one_for_each])
def test_flat_pieces_are_accepted_with_layers(cut):
    params = parameters([(4, 6), (8,), (6, 2)])
    optimizer = NovoGrad(params, lr=0.1, layers=lambda name, parameter: None)
    pieces = cut(params)
    before = twins(pieces)
    optimizer.param_groups[0]["params"] = pieces
    train(optimizer, 1)
    assert not any(map(torch.equal, pieces, before))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([(4, 6), (4,)], [(3, 6), (3,)]),  # units are pruned
        ([(4, 6), (4,)], [(4,)]),  # a weight is frozen
        ([(9, 3), (9,)], [(9, 3), (12,)]),  # only vectors change
        ([(4, 6), (4,)], [(24,), (4,)]),  # flattened, and still the same layer
        ([(4,)], [(7,)]),
    ],
)
def test_other_changes_of_shapes_are_accepted(before, after):
    optimizer = NovoGrad(parameters(before), lr=0.1)
    train(optimizer, 1)
    optimizer.param_groups[0]["params"] = parameters(after)
    train(optimizer, 2)


# -- state dicts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", list(OPTIMIZERS.values())[1:], ids=list(OPTIMIZERS)[1:])
def test_hooks_of_state_dict_see_what_is_saved(make):
    """pytorch/pytorch 105953: a hook may save the dict, or return another dict instead."""
    optimizer = make(parameters(), lr=0.1)
    train(optimizer, 2)
    seen = []

    def hook(_, state_dict):
        seen.append(pickle.loads(pickle.dumps(state_dict)))
        return {"state": state_dict["state"], "param_groups": [{"lr": 0.5, "params": [0]}]}

    optimizer.register_state_dict_post_hook(hook)
    assert optimizer.state_dict()["param_groups"] == [{"lr": 0.5, "params": [0]}]
    assert all("layers" not in group for group in seen[0]["param_groups"])
    again = make(parameters(), lr=0.3)
    again.load_state_dict(seen[0])
    assert again.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layers", [None, Rows(), by_shape], ids=["None", "Rows", "function"])
def test_flattened_state_dicts_can_be_loaded(variant, layers):
    torch.manual_seed(0)
    models = [nn.Linear(5, 3) for _ in range(2)]
    optimizers = [
        NovoGrad(model.named_parameters(), lr=0.1, variant=variant, layers=layers)
        for model in models
    ]
    train(optimizers[0], 3)
    models[1].load_state_dict(models[0].state_dict())
    options = dcp.StateDictOptions(flatten_optimizer_state_dict=True)
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(models[0], optimizers[0], options=options))
    dcp.set_optimizer_state_dict(models[1], optimizers[1], saved, options=options)
    for optimizer in optimizers:
        train(optimizer, 3, start=3)
    assert_same(models[0].parameters(), models[1].parameters())


@pytest.mark.parametrize("make", [OPTIMIZERS["AdamW"], OPTIMIZERS["counts steps"]])
@pytest.mark.parametrize("number", [3, 3.0])
def test_a_count_of_steps_may_be_loaded_as_a_number(make, number):
    params = parameters()
    optimizer = make(params, lr=0.1)
    train(optimizer, 3)
    twin = twins(params)
    again = make(twin, lr=0.1)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = number
    again.load_state_dict(saved)
    train(optimizer, 2, start=3)
    train(again, 2, start=3)
    assert_same(params, twin)


def test_a_count_of_steps_may_be_set_to_a_number():
    params = parameters()
    optimizer = NovoGrad(params, lr=0.1, variant="apex")
    train(optimizer, 3)
    twin = twins(params)
    again = NovoGrad(twin, lr=0.1, variant="apex")
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for state in states_of(again):
        state["step"] = 3
    train(optimizer, 2, start=3)
    train(again, 2, start=3)
    assert_same(params, twin)


@pytest.mark.parametrize(
    "layers",
    [
        lambda name, parameter: Rows() if name.endswith("weight") else None,
        lambda name, parameter: Rows() if "weight" in name else None,
    ],
)
def test_layers_by_name_of_parameters_without_names_say_what_to_give(layers):
    model = nn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"layers= .*name=None.*model\.named_parameters\(\)"):
        NovoGrad(model.parameters(), layers=layers)
    optimizer = NovoGrad(model.named_parameters(), layers=layers)
    train(optimizer, 1)
    assert optimizer.state[model.weight]["exp_avg_sq"].shape == (2, 1)
    assert optimizer.state[model.bias]["exp_avg_sq"].shape == ()


def test_threads_may_make_optimizers_at_the_same_time():
    """A search for the layers of a group must not meet an optimizer that another thread makes."""
    weight = torch.zeros(2, requires_grad=True)
    source = NovoGrad([weight], lr=0.1, layers=Rows())
    living, failed = [NovoGrad([weight], lr=0.1) for _ in range(500)], []

    def make():
        try:
            for _ in range(50):
                living.append(NovoGrad(source.param_groups, lr=0.1))
        except RuntimeError as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []
