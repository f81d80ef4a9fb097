"""The plan of the last step is used again only while it is still right."""

import copy
import weakref

import pytest
import torch

from novograd.torch import NovoGrad
from novograd.torch.backends import eager, foreach, native
from novograd.torch.groups import trained
from novograd.torch.layout import layout_of
from novograd.torch.plan import Plan
from novograd.torch.state import whole_part
from tests.helpers.torch import parameters, set_gradients

pytestmark = pytest.mark.usefixtures("way_to_read_memory")
OPTIONS = {"lr": 0.1, "weight_decay": 0.1, "variant": "apex"}


def nothing(optimizer, params):
    pass


def without_a_gradient(optimizer, params):
    params[1].grad = None


def gradient_in_another_order(optimizer, params):
    params[3].grad = params[3].grad.to(memory_format=torch.channels_last)


def weights_in_another_order(optimizer, params):
    params[3].data = params[3].data.to(memory_format=torch.channels_last)


def gradient_of_a_subclass(optimizer, params):
    params[0].grad = params[0].grad.as_subclass(torch.nn.Buffer)


def another_variant(optimizer, params):
    optimizer.param_groups[0]["variant"] = "pytorch-optimizer-3"


def other_kernels(optimizer, params):
    optimizer.param_groups[0]["fused"] = False


def another_moment(optimizer, params):
    state = optimizer.state[params[0]]
    state["exp_avg"] = 2 * state["exp_avg"]


def another_second_moment(optimizer, params):
    state = optimizer.state[params[0]]
    state["exp_avg_sq"] = 2 * state["exp_avg_sq"]


def another_count(optimizer, params):
    optimizer.state[params[0]]["step"] = torch.tensor(7.0)


def another_memory_of_the_state(optimizer, params):
    for entry in optimizer.state[params[0]].values():
        entry.data = 2 * entry


def another_memory_of_the_weights(optimizer, params):
    params[0].data = 2 * params[0].data


def a_gradient_that_is_negated_later(optimizer, params):
    pairs = torch.complex(params[0].grad, params[0].grad).conj()
    params[0].grad = pairs.imag
    assert params[0].grad.is_neg()


def no_state(optimizer, params):
    optimizer.state[params[0]].clear()


def loaded_state(optimizer, params):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def another_group(optimizer, params):
    added = torch.nn.Parameter(torch.ones(3))
    added.grad = torch.ones(3)
    optimizer.add_param_group({"params": [added]})


def groups_in_another_order(optimizer, params):
    another_group(optimizer, params)
    optimizer.param_groups.reverse()


CHANGES = (
    nothing,
    without_a_gradient,
    gradient_in_another_order,
    weights_in_another_order,
    gradient_of_a_subclass,
    another_variant,
    other_kernels,
    another_moment,
    another_second_moment,
    another_count,
    another_memory_of_the_state,
    another_memory_of_the_weights,
    a_gradient_that_is_negated_later,
    no_state,
    loaded_state,
    another_group,
    groups_in_another_order,
)


def without_stored_plan(optimizer):
    """Returns an optimizer with the same parameters and state but without a stored plan."""
    again = NovoGrad([torch.zeros(1)])
    again.__setstate__(optimizer.__getstate__())
    return again


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("foreach", [None, True, False])
def test_a_step_after_a_change_equals_a_step_without_a_stored_plan(change, foreach):
    ends = []
    for remembers in (True, False):
        params = parameters()
        optimizer = NovoGrad(params, foreach=foreach, **OPTIONS)
        for step in range(5):
            set_gradients(params, step)
            if step == 2:
                change(optimizer, params)
            if not remembers:
                optimizer = without_stored_plan(optimizer)
            optimizer.step()
        ends.append([w.detach() for group in optimizer.param_groups for w in group["params"]])
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("backend", [eager, foreach, native])
def test_a_stored_plan_gets_the_new_gradients(backend):
    params = parameters()
    optimizer = NovoGrad(params)
    set_gradients(params, 0)
    optimizer.step()
    (group,), states = optimizer.param_groups, optimizer.state
    layout = layout_of(None, None, params[0])
    chosen = trained(0, group)
    parts = [whole_part(one, one.param.grad, layout, states[one.param]) for one in chosen]
    plan = Plan(group, None, {backend: parts}, states)
    set_gradients(params, 1)
    again = plan.recall(group, None, states)
    assert list(again) == [backend]
    assert all(part.grad is w.grad for part, w in zip(again[backend], params, strict=True))


@pytest.mark.parametrize("remembers", [True, False])
def test_gradients_may_move_between_parameters_of_the_same_shape(remembers):
    params = parameters([(5,), (5,)])
    optimizer = NovoGrad(params, **OPTIONS)
    set_gradients(params, 0)
    optimizer.step()
    for step in range(4):
        set_gradients(params, step)
        params[step % 2].grad = None
        before = [w.detach().clone() for w in params]
        states = [optimizer.state[w]["exp_avg"].clone() for w in params]
        if not remembers:
            optimizer = without_stored_plan(optimizer)
        optimizer.step()
        for i, w in enumerate(params):
            still = i == step % 2
            assert torch.equal(w, before[i]) == still
            assert torch.equal(optimizer.state[w]["exp_avg"], states[i]) == still


def test_gradients_are_not_kept_alive():
    (w,) = parameters([(5,)])
    optimizer = NovoGrad([w])
    w.grad = torch.ones_like(w)
    freed = []
    weakref.finalize(w.grad, freed.append, True)
    optimizer.step()
    w.grad = None
    assert freed
