"""The state in state_dict, load_state_dict, files and distributed checkpoints."""

import copy

import pytest
import torch
from torch.distributed.checkpoint import state_dict as dcp

from novograd.layers import Rows, Split
from novograd.torch import NovoGrad
from novograd.variants import VARIANTS
from tests.helpers.torch import every_backend, parameters, set_gradients, states_of, train

DTYPES = pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64],
    ids=str,
)


def unchanged(optimizer, before):
    """Checks that the state still equals an earlier ``state_dict``."""
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)


@DTYPES
@every_backend
def test_training_continues_from_a_file(tmp_path, dtype, backend):
    params = parameters(dtype=dtype)
    optimizer = NovoGrad(params, lr=0.1, weight_decay=0.1, **backend)
    train(optimizer, 4)
    file = tmp_path / "checkpoint.pt"
    torch.save({"weights": params, "optimizer": optimizer.state_dict()}, file)
    train(optimizer, 4, start=4)

    stored = torch.load(file, weights_only=True)
    again = NovoGrad(stored["weights"])
    again.load_state_dict(stored["optimizer"])
    train(again, 4, start=4)
    torch.testing.assert_close(stored["weights"], params, rtol=0, atol=0)
    torch.testing.assert_close(states_of(again), states_of(optimizer), rtol=0, atol=0)


@DTYPES
def test_the_second_moment_keeps_its_digits(dtype):
    params = parameters(dtype=dtype)
    optimizer = NovoGrad(params)
    set_gradients(params, 0, scale=300.0)  # float16 cannot store the squares
    optimizer.step()
    copy_ = NovoGrad(parameters(dtype=dtype, seed=1))
    copy_.load_state_dict(optimizer.state_dict())
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for mine, loaded in zip(states_of(optimizer), states_of(copy_), strict=True):
        assert loaded["exp_avg_sq"].dtype == wide
        assert loaded["exp_avg_sq"].shape == ()
        assert torch.equal(loaded["exp_avg_sq"], mine["exp_avg_sq"])
        assert loaded["exp_avg"].dtype == dtype


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float32),
        (torch.float32, torch.float64),
    ],
)
def test_state_loads_into_parameters_of_another_dtype(saved, loaded):
    optimizer = NovoGrad(parameters(dtype=saved))
    train(optimizer, 3)
    other = NovoGrad(parameters(dtype=loaded))
    other.load_state_dict(optimizer.state_dict())
    wide = torch.float64 if loaded == torch.float64 else torch.float32
    for mine, theirs in zip(states_of(optimizer), states_of(other), strict=True):
        assert theirs["exp_avg"].dtype == loaded
        assert theirs["exp_avg_sq"].dtype == wide
        assert torch.equal(theirs["exp_avg_sq"], mine["exp_avg_sq"].to(wide))
    train(other, 1)


def test_state_loads_to_another_device():
    optimizer = NovoGrad(parameters())
    train(optimizer, 1)
    elsewhere = [torch.nn.Parameter(p.detach().to("meta")) for p in parameters()]
    other = NovoGrad(elsewhere)
    other.load_state_dict(optimizer.state_dict())
    for state in states_of(other):
        assert {name: x.device.type for name, x in state.items()} == {
            "exp_avg": "meta",
            "exp_avg_sq": "meta",
        }


def test_a_given_state_dict_is_not_modified():
    optimizer = NovoGrad(parameters(dtype=torch.bfloat16))
    train(optimizer, 2)
    given = optimizer.state_dict()
    before = copy.deepcopy(given)
    NovoGrad(parameters(dtype=torch.float32)).load_state_dict(given)
    assert given["param_groups"] == before["param_groups"]
    torch.testing.assert_close(given["state"], before["state"], rtol=0, atol=0)


def test_hooks_of_the_user_see_and_may_change_the_loaded_state():
    optimizer = NovoGrad(parameters(dtype=torch.bfloat16))
    train(optimizer, 2)
    other = NovoGrad(parameters(dtype=torch.bfloat16))
    seen = []

    def double(_, given):
        given = copy.deepcopy(given)
        for state in given["state"].values():
            state["exp_avg_sq"] *= 2
        return given

    other.register_load_state_dict_pre_hook(double)
    other.register_load_state_dict_post_hook(
        lambda loaded: seen.extend(state["exp_avg_sq"].item() for state in states_of(loaded))
    )
    other.load_state_dict(optimizer.state_dict())
    assert seen == [2 * state["exp_avg_sq"].item() for state in states_of(optimizer)]
    assert len(other._optimizer_load_state_dict_pre_hooks) == 1
    assert len(other._optimizer_load_state_dict_post_hooks) == 1


def adamw():
    other = torch.optim.AdamW(parameters())
    train(other, 1)
    return other.state_dict()


def of_other_shapes():
    other = NovoGrad(parameters([(5, 3), (7,), (), (2, 3, 3, 5)]))
    train(other, 1)
    return other.state_dict()


def changed(change):
    other = NovoGrad(parameters())
    train(other, 1)
    given = other.state_dict()
    change(given)
    return given


def peers():
    """State of the many NovoGrads with a scalar v but without the learning rate in the momentum."""
    given = changed(lambda _: None)
    for group in given["param_groups"]:
        for option in ("nesterov", "maximize", "skip_nonfinite", "foreach", "fused", "capturable"):
            del group[option]
        group["amsgrad"] = False
    return given


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (adamw, "param_groups.0. has no 'grad_averaging'; from another .* load only the weights"),
        (peers, "param_groups.0. has no 'nesterov'; `novograd convert` reads"),
        (of_other_shapes, r"'exp_avg' of parameter 0 must have shape \(3, 5\), got \(5, 3\)"),
        (
            lambda: changed(lambda given: given["state"][1].pop("exp_avg_sq")),
            "not from NovoGrad: no 'exp_avg_sq' for parameter 1",
        ),
        (
            lambda: changed(lambda given: given["state"][1].update(exp_avg_sq=torch.zeros(7))),
            r"'exp_avg_sq' of parameter 1 must have shape \(\), got \(7,\)",
        ),
        (
            lambda: changed(lambda given: given["param_groups"][0].update(lr=-1.0)),
            r"lr must be in \[0, inf\), got -1.0",
        ),
        (
            lambda: NovoGrad(parameters()[:2]).state_dict(),
            "contains a parameter group that doesn't match the size",
        ),
        (
            lambda: NovoGrad([{"params": [p]} for p in parameters()]).state_dict(),
            "has a different number of parameter groups",
        ),
    ],
)
def test_state_that_does_not_fit_is_refused_and_nothing_changes(make, said):
    optimizer = NovoGrad(parameters(), lr=0.3)
    train(optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=said):
        optimizer.load_state_dict(make())
    unchanged(optimizer, before)
    assert not optimizer._optimizer_load_state_dict_pre_hooks


def zero_step(model, optimizer):
    """Makes the state of a fresh optimizer as torch.distributed.checkpoint does."""
    made = dcp.get_optimizer_state_dict(model, optimizer)
    assert len(made["state"]) == 2


def schedule_from_zero(model, optimizer):
    """Does the same without torch's function, for a schedule that begins with 0."""
    (group,) = optimizer.param_groups
    lr = group["lr"]
    group["lr"] = 0 * lr
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    group["lr"] = lr


@every_backend
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layers", [None, Rows(), Split((1, 2))], ids=str)
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize("prepare", [zero_step, schedule_from_zero])
def test_a_first_step_without_learning_rate_and_gradients_has_no_effect(
    backend, variant, layers, lr, prepare
):
    """pytorch/pytorch 164929: no decay may enter the momentum, and the step must not count."""
    results = []
    for prepared in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 3)
        optimizer = NovoGrad(
            model.parameters(),
            lr=lr,
            weight_decay=0.1,
            variant=variant,
            layers=layers,
            **backend,
        )
        if prepared:
            prepare(model, optimizer)
            assert all(not x.any() for state in states_of(optimizer) for x in state.values())
        train(optimizer, 5)
        results.append((list(model.parameters()), states_of(optimizer)))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@every_backend
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("what", ["gradient", "lr"])
def test_a_first_step_with_a_learning_rate_or_a_gradient_counts(backend, variant, what):
    """Only a step without a rate and without gradients has no effect."""
    (w,) = parameters([(3, 5)])
    optimizer = NovoGrad([w], lr=0.0 if what == "gradient" else 0.1, variant=variant, **backend)
    w.grad = torch.zeros_like(w)
    if what == "gradient":
        w.grad[0, 0] = 1.0
    optimizer.step()
    state = optimizer.state[w]
    assert state.get("step", 1) == 1
    assert state["exp_avg_sq"].any() == (what == "gradient")


def test_distributed_checkpointing_round_trip(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3).to(torch.bfloat16)
    optimizer = NovoGrad(model.parameters(), lr=0.1, weight_decay=0.1)
    train(optimizer, 3)
    saved = copy.deepcopy(dcp.get_state_dict(model, optimizer))
    train(optimizer, 3, start=3)

    again = torch.nn.Linear(5, 3).to(torch.bfloat16)
    resumed = NovoGrad(again.parameters())
    dcp.set_state_dict(again, resumed, model_state_dict=saved[0], optim_state_dict=saved[1])
    train(resumed, 3, start=3)
    torch.testing.assert_close(list(again.parameters()), list(model.parameters()), rtol=0, atol=0)
    torch.testing.assert_close(states_of(resumed), states_of(optimizer), rtol=0, atol=0)


def test_state_can_be_loaded_again():
    optimizer = NovoGrad(parameters())
    train(optimizer, steps=2)
    for _ in range(3):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def test_a_state_dict_from_before_stochastic_rounding_loads():
    optimizer = NovoGrad(parameters())
    train(optimizer, steps=2)
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["stochastic_rounding"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["stochastic_rounding"] is False
    train(optimizer, steps=1)


def test_state_of_another_novograd_is_refused_with_advice():
    theirs = {"lr": 0.1, "betas": (0.9, 0.98), "grad_averaging": False, "params": [0]}
    with pytest.raises(
        ValueError, match="has no 'eps'; `novograd convert` reads state dicts of other"
    ):
        NovoGrad([torch.zeros(2)]).load_state_dict({"state": {}, "param_groups": [theirs]})
