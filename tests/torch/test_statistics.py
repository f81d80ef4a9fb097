"""The statistics of a step equal what the step did."""

import math
from collections import Counter

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode

from novograd.layers import Rows, Split
from novograd.torch import NovoGrad
from novograd.torch.statistics import layer_statistics
from novograd.variants import VARIANTS
from tests.torch import ranks


def weights(dtype=torch.float32):
    torch.manual_seed(0)
    return {
        "matrix": torch.nn.Parameter(torch.randn(6, 4, dtype=dtype)),
        "vector": torch.nn.Parameter(torch.randn(6, dtype=dtype)),
    }


def trained(params, steps=3, **options):
    """Trains, and returns the optimizer and the weights before the last step."""
    optimizer = NovoGrad(params.items(), **{"lr": 0.01} | options)
    for step in range(steps):
        before = {name: w.detach().clone() for name, w in params.items()}
        for w in params.values():
            w.grad = torch.randn_like(w) * (3 if step == steps - 1 else 1)
        optimizer.step()
    return optimizer, before


@pytest.mark.parametrize("layers", [None, Split((2, 4)), Rows(scale="rms")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_update_is_the_distance_that_the_weights_moved(variant, dtype, layers):
    params = weights(dtype)
    optimizer, before = trained(params, variant=variant, layers=layers, maximize=variant == "tfa")
    found = layer_statistics(optimizer)
    assert list(found) == list(params)
    for name, w in params.items():
        moved = (w - before[name]).norm().item()
        assert found[name].weight_norm == pytest.approx(w.norm().item(), rel=1e-5)
        # A float32 weight of size 1 moves by about 1e-3, which leaves 4 digits.
        assert found[name].update_ratio == pytest.approx(moved / w.norm().item(), rel=1e-3)


def test_root_v_and_the_effective_learning_rate_are_means_over_layers():
    w = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = NovoGrad([("w", w)], lr=0.5, variant="rows", eps=0.0)
    w.grad = torch.tensor([[3.0, 4.0], [0.0, 10.0]])
    optimizer.step()
    found = layer_statistics(optimizer)["w"]
    assert found.root_v == pytest.approx(math.sqrt((25 + 100) / 2))
    # The rate lr/|g| of each row, times the root of its length: a step as long as Adam's.
    assert found.learning_rate == pytest.approx(0.5 * math.sqrt(2) * (1 / 5 + 1 / 10) / 2)
    without = NovoGrad([("w", w)], lr=0.5, betas=(0.9, 0.98), eps=0.0)
    without.step()
    norm = math.sqrt(125)
    assert layer_statistics(without)["w"].learning_rate == pytest.approx(0.5 / norm / (1 - 0.9))


def test_clipped_is_the_share_of_layers_with_a_shortened_gradient():
    w = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = NovoGrad([("w", w)], variant="rows")
    w.grad = torch.ones(4, 2)
    optimizer.step()
    assert layer_statistics(optimizer)["w"].clipped == 0
    w.grad = torch.tensor([[9.0, 9.0], [0.5, 0.5], [0.1, 0.1], [8.0, 8.0]])
    optimizer.step()
    assert layer_statistics(optimizer)["w"].clipped == 0.5
    optimizer.zero_grad()
    assert math.isnan(layer_statistics(optimizer)["w"].clipped)


def test_without_gradients_the_update_is_that_of_the_momentum_buffer():
    params = weights()
    optimizer, before = trained(params, variant="nvidia")
    optimizer.zero_grad()
    w = params["vector"]
    moved = (w - before["vector"]).norm().item() / w.norm().item()
    found = layer_statistics(optimizer)["vector"]
    assert found.update_ratio == pytest.approx(moved, rel=1e-3)
    assert found.clipped == 0  # the variant has no clip


def test_the_names_of_parameters_without_names_are_numbers():
    a, b, c = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = NovoGrad([{"params": [a, b]}, {"params": [c]}])
    assert layer_statistics(optimizer) == {}
    b.grad = c.grad = torch.ones(2)
    optimizer.step()
    assert list(layer_statistics(optimizer)) == ["0.1", "1.0"]


def test_the_learning_rate_may_be_a_tensor():
    options = ({"lr": 0.01}, {"lr": torch.tensor(0.01)})
    one, other = (layer_statistics(trained(weights(), **given)[0]) for given in options)
    for name, found in one.items():
        assert found == pytest.approx(other[name], rel=1e-6)


def test_weights_of_zero_have_an_infinite_ratio():
    w = torch.nn.Parameter(torch.ones(2))
    optimizer = NovoGrad([("w", w)], lr=1.0, eps=0.0)
    w.grad = torch.ones(2) * math.sqrt(0.5)
    optimizer.step()
    with torch.no_grad():
        w.zero_()
    assert layer_statistics(optimizer)["w"].update_ratio == math.inf


def test_nothing_changes_and_the_host_reads_once():
    params = weights()
    optimizer, _ = trained(params, variant="rows")
    before = {name: w.detach().clone() for name, w in params.items()}
    state = {w: {k: x.clone() for k, x in optimizer.state[w].items()} for w in params.values()}
    calls = Counter()

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls[str(function)] += 1
            return function(*args, **kwargs or {})

    with Reads():
        layer_statistics(optimizer)
    # `tolist` of a tensor of several numbers does not dispatch; these would be reads of scalars.
    assert calls["aten._local_scalar_dense.default"] == 0
    assert calls["aten.sum.default"] > 0
    for name, w in params.items():
        torch.testing.assert_close(w.detach(), before[name], rtol=0, atol=0)
        torch.testing.assert_close(optimizer.state[w], state[w], rtol=0, atol=0)


def test_another_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"optimizer must be a novograd.torch.NovoGrad, .* SGD$"):
        layer_statistics(torch.optim.SGD([torch.zeros(1)]))


def sharded(layers):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    if torch.distributed.is_initialized():
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        fully_shard(model, mesh=mesh)
    optimizer = NovoGrad(model.named_parameters(), lr=0.01, variant="rows", layers=layers)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(5, 4)).square().mean().backward()
        optimizer.step()
    return layer_statistics(optimizer)


def split_first(name, parameter):
    return Split((1, 5)) if name.startswith("0.") else None


@pytest.mark.parametrize("layers", [None, split_first])
def test_shards_have_the_statistics_of_whole_weights(layers, tmp_path):
    expected = sharded(layers)
    for found in ranks.run(2, sharded, tmp_path, layers):
        assert list(found) == list(expected)
        for name, one in found.items():
            assert one == pytest.approx(expected[name], rel=1e-4)
