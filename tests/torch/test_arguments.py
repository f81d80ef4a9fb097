"""Invalid arguments and gradients are refused, and nothing changes."""

import copy
import inspect
import pickle
from dataclasses import replace

import pytest
import torch

from novograd.layers import Stacked, Whole
from novograd.torch import NovoGrad
from novograd.torch.options import OPTIONS
from novograd.variants import get
from tests.helpers.torch import parameters, set_gradients, states_of, train


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"lr": -0.1}, ValueError, r"lr must be in \[0, inf\), got -0.1"),
        ({"lr": float("nan")}, ValueError, r"lr must be in \[0, inf\), got nan"),
        ({"lr": float("inf")}, ValueError, r"lr must be in \[0, inf\), got inf"),
        ({"lr": "0.1"}, TypeError, "lr must be a number, got '0.1' of type str"),
        ({"lr": True}, TypeError, "lr must be a number, got True of type bool"),
        ({"lr": torch.tensor(-1.0)}, ValueError, r"lr must be in \[0, inf\), got -1.0"),
        ({"lr": torch.zeros(2)}, ValueError, r"Tensor lr must be 1-element, got shape \(2,\)"),
        ({"betas": (1.0, 0.98)}, ValueError, r"betas\[0\] must be in \[0, 1\), got 1.0"),
        ({"betas": (0.9, -0.1)}, ValueError, r"betas\[1\] must be in \[0, 1\), got -0.1"),
        ({"betas": (0.9, None)}, TypeError, r"betas\[1\] must be a number, got None"),
        ({"betas": 0.9}, TypeError, "betas must be a pair of numbers, got 0.9"),
        ({"betas": (0.9,)}, TypeError, r"betas must be a pair of numbers, got \(0.9,\)"),
        ({"betas": "98"}, TypeError, "betas must be a pair of numbers, got '98'"),
        ({"eps": -1e-8}, ValueError, r"eps must be in \[0, inf\), got -1e-08"),
        ({"weight_decay": -1}, ValueError, r"weight_decay must be in \[0, inf\), got -1"),
        ({"grad_averaging": 1}, TypeError, "grad_averaging must be True or False, got 1"),
        ({"nesterov": 1}, TypeError, "nesterov must be True or False, got 1"),
        ({"maximize": "no"}, TypeError, "maximize must be True or False, got 'no'"),
        ({"skip_nonfinite": 0}, TypeError, "skip_nonfinite must be True or False, got 0"),
        ({"foreach": 1}, TypeError, "foreach must be True or False, got 1"),
        ({"fused": "yes"}, TypeError, "fused must be True or False, got 'yes'"),
        (
            {"fused": True, "foreach": True},
            RuntimeError,
            "fused and foreach cannot be True together",
        ),
        ({"capturable": 1}, TypeError, "capturable must be True or False, got 1"),
    ],
)
def test_bad_options_are_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        NovoGrad(parameters(), **arguments)
    with pytest.raises(error, match=said):
        NovoGrad([{"params": parameters(), **arguments}])
    optimizer = NovoGrad(parameters())
    with pytest.raises(error, match=said):
        optimizer.add_param_group({"params": parameters(), **arguments})
    assert len(optimizer.param_groups) == 1


def test_options_after_grad_averaging_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        NovoGrad(parameters(), 0.1, (0.9, 0.9), 1e-8, 0.0, False, True)  # type: ignore


@pytest.mark.parametrize("named", [True, False])
def test_sparse_gradients_are_refused_by_name_and_before_anything_changes(named):
    params = parameters([(3, 2), (4, 2)])
    given = list(zip(["first", "second"], params, strict=True)) if named else params
    optimizer = NovoGrad(given)
    train(optimizer, 2)
    set_gradients(params, 2)
    params[1].grad = params[1].grad.to_sparse()
    before = copy.deepcopy((params, optimizer.state_dict()["state"]))
    name = "'second'" if named else r"1 of param_groups\[0\]"
    with pytest.raises(RuntimeError, match=f"parameter {name}: it must be dense, got"):
        optimizer.step()
    after = params, optimizer.state_dict()["state"]
    for one, other in zip(after, before, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_sparse_embedding_is_refused_before_any_state_is_made():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = NovoGrad(embedding.parameters())
    embedding(torch.tensor([1, 1])).sum().backward()
    with pytest.raises(RuntimeError, match="must be dense"):
        optimizer.step()
    assert not optimizer.state


def test_defaults_come_from_the_variant():
    w = parameters()
    defaults = NovoGrad(w).defaults
    assert [defaults[x] for x in ("lr", "betas", "eps")] == [0.01, (0.95, 0.98), 1e-8]
    assert defaults["grad_averaging"] is False
    defaults = NovoGrad(w, variant="apex", eps=1e-3).defaults
    assert [defaults[x] for x in ("lr", "betas", "eps")] == [1e-3, (0.9, 0.999), 1e-3]
    assert defaults["grad_averaging"] is True
    with pytest.raises(
        ValueError, match="lr must be given: the variant 'flashlight' has no default"
    ):
        NovoGrad(w, variant="flashlight")
    with pytest.raises(ValueError, match=r"variant must be one of documented, .*, got 'adam'"):
        NovoGrad(w, variant="adam")
    with pytest.raises(TypeError, match="variant must be a name or a Variant, got 3"):
        NovoGrad(w, variant=3)


def shapes_of_v(optimizer):
    """Returns the shape of v of each parameter after a step."""
    train(optimizer, 1)
    return [tuple(state["exp_avg_sq"].shape) for state in states_of(optimizer)]


def test_nesterov_and_layers_come_from_the_variant():
    shapes, whole = ((4, 3), (5,), ()), [(), (), ()]
    assert NovoGrad(parameters()).defaults["nesterov"] is False
    rows = NovoGrad(parameters(shapes), variant="rows")
    assert [rows.defaults[x] for x in ("lr", "betas", "nesterov")] == [1e-3, (0.9, 0.98), True]
    assert shapes_of_v(rows) == [(4, 1), (5,), ()]
    given = NovoGrad(parameters(shapes), variant="rows", nesterov=False, layers=Whole())
    assert given.defaults["nesterov"] is False
    assert shapes_of_v(given) == whole
    chosen = {5: Whole(), 12: Stacked(1), 1: None}
    some = NovoGrad(parameters(shapes), variant="rows", layers=lambda _, w: chosen[w.numel()])
    assert shapes_of_v(some) == [(1, 3), (), ()]


def test_each_group_has_the_layers_of_its_variant():
    first, second, third = (parameters([(4, 3)]) for _ in range(3))
    groups = [{"params": first}, {"params": second, "variant": "rows"}]
    optimizer = NovoGrad(groups)
    optimizer.add_param_group({"params": third, "variant": "rows", "layers": Whole()})
    assert shapes_of_v(optimizer) == [(), (4, 1), ()]
    twin = pickle.loads(pickle.dumps(optimizer))
    assert shapes_of_v(copy.deepcopy(twin)) == [(), (4, 1), ()]


def test_a_state_dict_brings_the_variant_and_its_layers():
    documented, rows = (NovoGrad(parameters(), variant=name) for name in ("documented", "rows"))
    for source in (documented, rows):
        train(source, 3)
        for made in ("documented", "rows"):
            other = NovoGrad(parameters(), variant=made)
            other.load_state_dict(source.state_dict())
            train(other, 3, start=3)
            state = [x["exp_avg_sq"].shape for x in states_of(other)]
            assert state == [x["exp_avg_sq"].shape for x in states_of(source)]
    with pytest.raises(ValueError, match=r"'exp_avg_sq' of parameter 0 must have shape \(\)"):
        NovoGrad(parameters(), layers=Whole()).load_state_dict(rows.state_dict())


@pytest.mark.parametrize("named", [True, False])
def test_layers_of_a_variant_that_do_not_fit_a_parameter_are_refused_by_its_name(named):
    params = parameters([(4, 3), (5,)])
    given = list(zip(["first", "second"], params, strict=True)) if named else params
    name = "'second'" if named else r"1 of param_groups\[0\]"
    mine = replace(get("rows"), name="mine", layers=Stacked(1))
    with pytest.raises(ValueError, match=rf"parameter {name}: Stacked\(axes=1\) does not fit"):
        NovoGrad(given, variant=mine)


def test_a_custom_variant_is_saved(tmp_path):
    mine = replace(get("rows"), name="mine", amsgrad=True, start="step")
    ws = [parameters() for _ in range(2)]
    first, other = (NovoGrad(w, lr=0.1, variant=mine) for w in ws)
    train(first, steps=3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.param_groups[0]["variant"] == mine
    assert other.state[ws[1][0]]["step"] == 3
    assert other.state[ws[1][0]]["max_exp_avg_sq"].shape == (3, 1)


def test_the_table_of_options_has_the_defaults_of_the_class():
    signature = inspect.signature(NovoGrad).parameters
    defaults = {
        name: x.default for name, x in signature.items() if name not in ("params", "layers")
    }
    assert {name: option.default for name, option in OPTIONS.items()} == defaults
