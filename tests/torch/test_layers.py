"""Layers in PyTorch: a part of a tensor gets the same numbers as a separate tensor."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from novograd.layers import Rows, Split, Stacked
from novograd.torch import NovoGrad
from tests.helpers.torch import every_backend, parameters, set_gradients

OPTIONS = {"lr": 0.1, "weight_decay": 0.1, "betas": (0.9, 0.5)}
STEPS = 30


def train(optimizer, steps=STEPS):
    for step in range(steps):
        set_gradients([p for group in optimizer.param_groups for p in group["params"]], step)
        optimizer.step()


def train_apart(weight, cut, **options):
    """Trains the pieces of a weight as separate parameters, with the pieces of its gradients."""
    twin = nn.Parameter(weight.detach().clone())
    pieces = [nn.Parameter(piece.contiguous()) for piece in cut(twin.detach())]
    optimizer = NovoGrad(pieces, **OPTIONS | options)
    for step in range(STEPS):
        set_gradients([twin], step)
        for piece, gradient in zip(pieces, cut(twin.grad), strict=True):
            piece.grad = gradient.contiguous()
        optimizer.step()
    return pieces, optimizer


def assert_is_apart(weight, optimizer, cut, **options):
    """Compares weights, momentum buffer and second moment with the separate pieces."""
    pieces, apart = train_apart(parameters([weight.shape])[0], cut, **options)
    state = optimizer.state[weight]
    moments = [apart.state[piece]["exp_avg"] for piece in pieces]
    norms = torch.stack([apart.state[piece]["exp_avg_sq"] for piece in pieces])
    for whole, expected in ((weight.detach(), pieces), (state["exp_avg"], moments)):
        torch.testing.assert_close(list(cut(whole)), [x.detach() for x in expected])
    torch.testing.assert_close(state["exp_avg_sq"].flatten(), norms)


@every_backend
@pytest.mark.parametrize(
    ("shape", "layers", "cut"),
    [
        ((8, 6, 4), Stacked(), lambda x: x.unbind()),  # experts: (E, in, out)
        ((3, 5, 40), Stacked(1), lambda x: x.unbind(1)),
        ((30, 7), Split((10, 10, 10)), lambda x: x.split(10)),
        ((5, 48), Split((16, 32), axis=1), lambda x: x.split([16, 32], 1)),
    ],
    ids=["experts", "inner axis", "fused", "fused along the second axis"],
)
def test_layers_of_a_tensor_equal_separate_tensors(shape, layers, cut, backend):
    (w,) = parameters([shape])
    optimizer = NovoGrad([w], layers=layers, **OPTIONS | backend)
    train(optimizer)
    assert_is_apart(w, optimizer, cut, **backend)


def test_the_fused_projection_of_attention_has_layers():
    attention = nn.MultiheadAttention(8, 2)

    def layers(name, parameter):
        return Split((8, 8, 8)) if name.startswith("in_proj") else None

    optimizer = NovoGrad(attention.named_parameters(), layers=layers, **OPTIONS)
    twins = {
        name: [nn.Parameter(x.clone()) for x in w.detach().split(8)]
        for name, w in attention.named_parameters()
        if name.startswith("in_proj")
    }
    apart = NovoGrad([x for parts in twins.values() for x in parts], **OPTIONS)
    for step in range(STEPS):
        attention.zero_grad()
        torch.manual_seed(step)
        x = torch.randn(5, 3, 8)
        attention(x, x, x)[0].square().sum().backward()
        for name, pieces in twins.items():
            gradient = attention.get_parameter(name).grad
            for piece, part in zip(pieces, gradient.split(8), strict=True):
                piece.grad = part.clone()
        optimizer.step()
        apart.step()
    for name, pieces in twins.items():
        torch.testing.assert_close(attention.get_parameter(name), torch.cat(pieces))
    shapes = {tuple(state["exp_avg_sq"].shape) for state in optimizer.state.values()}
    assert shapes == {(), (3, 1), (3,)}


@every_backend
def test_a_step_of_rows_is_as_long_as_a_step_of_the_whole_tensor(backend):
    (w,) = parameters([(6, 5)])
    before = w.detach().clone()
    optimizer = NovoGrad([w], lr=0.5, layers=Rows(), **backend)
    set_gradients([w], 0)
    optimizer.step()
    step = before - w.detach()
    torch.testing.assert_close(step.norm().item(), 0.5)
    torch.testing.assert_close(step.norm(dim=1), torch.full((6,), 0.5 / 6**0.5))


@every_backend
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2, 2), (9,)])
def test_rows_can_take_steps_with_a_root_mean_square_of_one(backend, shape):
    (w,) = parameters([shape])
    before = w.detach().clone()
    optimizer = NovoGrad([w], lr=0.5, layers=Rows(scale="rms"), **backend)
    set_gradients([w], 0)
    optimizer.step()
    step = (before - w.detach()).reshape(shape[0], -1)
    torch.testing.assert_close(step.square().mean(1).sqrt(), torch.full((shape[0],), 0.5))


@every_backend
def test_a_layer_is_skipped_alone(backend):
    (w,) = parameters([(3, 4, 5)])
    optimizer = NovoGrad([w], layers=Stacked(), skip_nonfinite=True, **OPTIONS | backend)
    train(optimizer, 2)
    before = copy.deepcopy((w.detach(), *optimizer.state[w].values()))
    w.grad[1, 2, 3] = torch.inf
    optimizer.step()
    for old, new in zip(before, (w.detach(), *optimizer.state[w].values()), strict=True):
        assert torch.equal(new[1], old[1])
        assert not torch.equal(new[0], old[0])


@every_backend
def test_complex_weights_have_layers(backend):
    w = parameters([(3, 4)], torch.complex64)[0]
    pairs = nn.Parameter(torch.view_as_real(w.detach()).clone())
    optimizer = NovoGrad([w], layers=Stacked(), **OPTIONS | backend)
    real = NovoGrad([pairs], layers=Stacked(), **OPTIONS | backend)
    for step in range(3):
        set_gradients([pairs], step)
        w.grad = torch.view_as_complex(pairs.grad)
        optimizer.step()
        real.step()
    torch.testing.assert_close(torch.view_as_real(w.detach()), pairs.detach())


def test_half_precision_keeps_single_precision_norms_through_a_file():
    def trained(seed):
        (w,) = parameters([(8, 3)], torch.bfloat16, seed)
        return w, NovoGrad([w], layers=Rows(), **OPTIONS)

    w, optimizer = trained(0)
    train(optimizer, 4)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin, other = trained(1)
    other.load_state_dict(torch.load(file, weights_only=True))
    twin.data.copy_(w.data)
    assert other.state[twin]["exp_avg_sq"].dtype == torch.float32
    assert torch.equal(other.state[twin]["exp_avg_sq"], optimizer.state[w]["exp_avg_sq"])
    train(optimizer, 3)
    train(other, 3)
    assert torch.equal(w, twin)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_keep_their_layers(duplicate):
    (w,) = parameters([(4, 3)])
    optimizer = NovoGrad([w], layers=Rows(scale="rms"), **OPTIONS)
    train(optimizer, 2)
    twin = duplicate(optimizer)
    train(optimizer, 2)
    train(twin, 2)
    assert torch.equal(twin.param_groups[0]["params"][0], w)


def test_a_copy_does_not_confuse_groups_with_the_same_address():
    """In another process, a group may get the old address of another group."""
    weights = parameters([(4, 3), (4, 3)])
    optimizer = NovoGrad([{"params": weights[:1], "layers": Rows()}, {"params": weights[1:]}])
    state = pickle.loads(pickle.dumps(optimizer.__getstate__()))
    assert not {id(group) for group in optimizer.param_groups} & set(state["_layers"])
    again = NovoGrad([torch.zeros(1)])
    state["param_groups"] = optimizer.param_groups[::-1]  # the old addresses, exchanged
    again.__setstate__(state)
    train(again, 1)
    shapes = [again.state[w]["exp_avg_sq"].shape for w in (weights[1], weights[0])]
    assert shapes == [(4, 1), ()]


def test_groups_have_their_own_layers():
    weights = parameters([(4, 3), (4, 3)])
    optimizer = NovoGrad([{"params": weights[:1]}, {"params": weights[1:], "layers": Rows()}])
    train(optimizer, 1)
    assert [optimizer.state[w]["exp_avg_sq"].shape for w in weights] == [(), (4, 1)]


def test_a_function_sees_names_and_parameters():
    seen = []
    model = nn.Linear(3, 4)
    NovoGrad(model.named_parameters(), layers=lambda *given: seen.append(given))
    assert seen == [("weight", model.weight), ("bias", model.bias)]
    seen.clear()
    NovoGrad(model.parameters(), layers=lambda *given: seen.append(given))
    assert [name for name, _ in seen] == [None, None]


@pytest.mark.parametrize(
    ("layers", "error", "said"),
    [
        (
            "rows",
            TypeError,
            "layers must be Stacked, Split, Rows, Whole, None or a function, got 'rows'",
        ),
        (Rows, TypeError, "layers must be Stacked, Split, Rows, Whole, None or a function"),
        (
            lambda name, w: 3,
            TypeError,
            "layers must return Stacked, Split, Rows, Whole or None, got 3",
        ),
        (Stacked(2), ValueError, r"'weight': Stacked\(axes=2\) does not fit .* shape \(4, 3\)"),
        (Split((3, 2)), ValueError, r"'weight': Split\(sizes=\(3, 2\), axis=0\) does not fit"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, error, said):
    with pytest.raises(error, match=said):
        NovoGrad(nn.Linear(3, 4).named_parameters(), layers=layers)


def test_a_group_that_is_refused_is_not_added():
    optimizer = NovoGrad(parameters([(4, 3)]))
    with pytest.raises(ValueError, match="does not fit"):
        optimizer.add_param_group({"params": parameters([(4, 3)]), "layers": Stacked(5)})
    assert len(optimizer.param_groups) == 1


def test_the_state_of_other_layers_is_refused():
    whole, rows = (NovoGrad(parameters([(4, 3)]), layers=layers) for layers in (None, Rows()))
    train(whole, 1)
    with pytest.raises(ValueError, match=r"'exp_avg_sq' of parameter 0 must have shape \(4, 1\)"):
        rows.load_state_dict(whole.state_dict())


def test_steps_with_layers_compile():
    torch.compiler.reset()
    layers = {(4, 3): Rows(), (6, 20): Split((16, 4), axis=1), (3, 2, 2): Stacked(0), (5,): None}
    params = parameters(layers)
    twins = copy.deepcopy(params)
    options = OPTIONS | {"lr": torch.tensor(0.1), "layers": lambda _, w: layers[tuple(w.shape)]}
    compiled = torch.compile(NovoGrad(params, **options).step, fullgraph=True)
    eager = NovoGrad(twins, **options)
    for step in range(3):
        set_gradients(params, step)
        set_gradients(twins, step)
        compiled()
        eager.step()
    torch.testing.assert_close(params, twins)
