"""Layers of DTensors: layers that are cut, whole on one process, or copied; missing gradients."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from novograd.layers import Rows, Split, Stacked
from novograd.torch import NovoGrad
from tests.helpers.parameters import some
from tests.helpers.torch import BACKENDS
from tests.torch.ranks import full, run

STEPS = 20
OPTIONS = {"lr": 0.02, "weight_decay": 0.05, "betas": (0.9, 0.95)}
WEIGHTS = {
    "whole": ((7, 5), None),
    "experts": ((4, 6, 3), Stacked()),
    "inner": ((3, 5, 20), Stacked(1)),
    "qkv": ((18, 4), Split((5, 6, 7))),
    "one part empty": ((3, 4), Split((2, 0, 1))),  # as many layers as rows
    "gates": ((3, 38), Split((18, 20), axis=1)),
    "rows": ((9, 4), Rows()),
    "rms": ((5, 3, 2), Rows(scale="rms")),
    "columns": ((3, 6), Rows(-1)),
    "bias": ((7,), Rows()),
    "scalar": ((), Rows()),
}
LAYERS = {name: layers for name, (_, layers) in WEIGHTS.items()}


def values(step, dtype):
    generator = torch.Generator().manual_seed(step)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, (shape, _) in WEIGHTS.items()
    }


def optimizer_of(weights, **options):
    return NovoGrad(weights.items(), layers=lambda name, _: LAYERS[name], **OPTIONS | options)


def train(dtype, placed, steps=range(STEPS), options=None):
    """Trains weights placed by ``placed(name, tensor)``; returns the weights and the optimizer."""
    weights = {k: nn.Parameter(placed(k, w)) for k, w in values(-1, dtype).items()}
    optimizer = optimizer_of(weights, **options or {})
    for step in steps:
        for name, g in values(step, dtype).items():
            weights[name].grad = placed(name, g)
        optimizer.step()
    return weights, optimizer


def everything(weights, optimizer):
    """Returns the full weights, momentum buffers and second moments."""
    return {
        name: (full(w), *(full(optimizer.state[w][key]) for key in ("exp_avg", "exp_avg_sq")))
        for name, w in weights.items()
    }


def alone(dtype=torch.float32):
    return everything(*train(dtype, lambda _, x: x.clone()))


def assert_same(actual, expected, tolerance):
    for name, (w, m, v) in expected.items():
        before = values(-1, w.dtype)[name]
        torch.testing.assert_close(actual[name][2], v, rtol=tolerance, atol=0, msg=name)
        movement = (w - before).abs().max()
        for x, y in zip(actual[name], (w, m), strict=False):
            assert (x - y).abs().max() <= tolerance * movement, name


PLACEMENTS = {
    "first axis": ((2,), (Shard(0),)),
    "second axis": ((2,), (Shard(1),)),
    "first axis, 4": ((4,), (Shard(0),)),
    "hybrid": ((2, 2), (Replicate(), Shard(0))),
    "both axes": ((2, 2), (Shard(0), Shard(1))),
    "both, the other way": ((2, 2), (Shard(1), Shard(0))),
    "one axis twice": ((2, 2), (Shard(0), Shard(0))),
    "copies": ((2,), (Replicate(),)),
}


def placed_over(shape, placements):
    mesh = init_device_mesh("cpu", shape)

    def place(_, x):
        fitting = [
            Replicate() if isinstance(p, Shard) and p.dim >= x.ndim else p for p in placements
        ]
        return distribute_tensor(x, mesh, fitting, src_data_rank=None)

    return place


def sharded(placement, dtype, options):
    shape, placements = PLACEMENTS[placement]
    weights, optimizer = train(dtype, placed_over(shape, placements), range(STEPS - 1), options)
    place = placed_over(shape, placements)
    for name, g in values(STEPS - 1, dtype).items():
        weights[name].grad = place(name, g)
    with CommDebugMode() as communication:
        optimizer.step()
    spread = {
        k for k, w in weights.items() if isinstance(optimizer.state[w]["exp_avg_sq"], DTensor)
    }
    return everything(weights, optimizer), communication.get_total_counts(), spread


def all_sharded(names):
    return {name: sharded(name, torch.float32, {}) for name in names}


@pytest.fixture(scope="module")
def of_every_placement(tmp_path_factory):
    """Runs every placement, in one group of processes for each size of mesh."""
    names = {2: [], 4: []}
    for name, (shape, _) in PLACEMENTS.items():
        names[torch.Size(shape).numel()].append(name)
    found = {}
    for world, group in names.items():
        ranks = run(world, all_sharded, tmp_path_factory.mktemp("processes"), group)
        found |= {name: [rank[name] for rank in ranks] for name in group}
    return found


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_layers_in_pieces_equal_whole_layers(of_every_placement, placement):
    expected = alone()
    cut = sum(isinstance(p, Shard) for p in PLACEMENTS[placement][1])
    for actual, collectives, _ in of_every_placement[placement]:
        assert_same(actual, expected, 1e-6)
        assert collectives == cut


@pytest.mark.parametrize("backend", ["single", "foreach"])
def test_every_backend_supports_layers_in_pieces(tmp_path, backend):
    options = BACKENDS[backend]
    for actual, *_ in run(4, sharded, tmp_path, "both axes", torch.float64, options):
        assert_same(actual, alone(torch.float64), 1e-12)


def test_second_moments_are_sharded_with_their_layers(of_every_placement):
    for *_, spread in of_every_placement["first axis"]:
        assert spread == {"experts", "rows", "rms", "bias"}


# -- gradients ------------------------------------------------------------------------------------


def partial():
    mesh = init_device_mesh("cpu", (2,))
    w = nn.Parameter(distribute_tensor(torch.ones(3, 4), mesh, [Replicate()]))
    optimizer = NovoGrad([w], **OPTIONS)
    share = torch.full((3, 4), 1.0 + dist.get_rank())
    w.grad = DTensor.from_local(share, mesh, [Partial()])
    optimizer.step()
    return full(w), optimizer.state[w]["exp_avg_sq"]


def test_partial_sums_are_added_before_their_norm(tmp_path):
    for w, v in run(2, partial, tmp_path):
        assert v == 12 * 3.0**2
        expected = 1 - 0.02 * (3 / v.sqrt() + 0.05)
        torch.testing.assert_close(w, expected.expand(3, 4))


def missing(where):
    mesh = init_device_mesh("cpu", (2,))
    first, second = (
        nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])) for _ in range(2)
    )
    optimizer = NovoGrad([first, second], **OPTIONS)
    gradient = torch.arange(12.0).view(4, 3)
    for step in range(3):
        first.grad = distribute_tensor(gradient + step, mesh, [Shard(0)], src_data_rank=None)
        second.grad = first.grad.clone()
        if where == "everywhere" or (where == "on one" and dist.get_rank() == 0):
            second.grad = None
        optimizer.step()
    state = {k: full(x) for k, x in optimizer.state[second].items()}
    return full(first), full(second), state


@pytest.mark.parametrize("where", ["everywhere", "on one"])
def test_gradients_may_be_missing_on_one_process_or_all(tmp_path, where):
    first, second = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    optimizer = NovoGrad([first, second], **OPTIONS)
    for step in range(3):
        first.grad = torch.arange(12.0).view(4, 3) + step
        if where == "on one":  # a missing gradient of a shard counts as zeros
            second.grad = torch.cat([torch.zeros(2, 3), first.grad[2:]])
        optimizer.step()
    for w, other, state in run(2, missing, tmp_path, where):
        torch.testing.assert_close(w, first.detach())
        torch.testing.assert_close(other, second.detach())
        assert state.keys() == optimizer.state[second].keys()
        for key, value in optimizer.state[second].items():
            torch.testing.assert_close(state[key], value)


def skipped():
    weights = {"rows": nn.Parameter(torch.ones(4, 2)), "whole": nn.Parameter(torch.ones(4, 2))}
    mesh = init_device_mesh("cpu", (2,))
    weights = {
        k: nn.Parameter(distribute_tensor(w.data, mesh, [Shard(1)])) for k, w in weights.items()
    }
    optimizer = optimizer_of(weights, skip_nonfinite=True)
    gradient = torch.ones(4, 2)
    gradient[1, 0] = torch.nan  # only one process has this element
    for w in weights.values():
        w.grad = distribute_tensor(gradient, mesh, [Shard(1)], src_data_rank=None)
    optimizer.step()
    return {k: full(w) for k, w in weights.items()}


def test_all_processes_with_a_piece_of_a_layer_skip_it(tmp_path):
    for weights in run(2, skipped, tmp_path):
        assert (weights["whole"] == 1).all()
        assert (weights["rows"][1] == 1).all()
        assert (weights["rows"][[0, 2, 3]] < 1).all()


def compiled():
    mesh = init_device_mesh("cpu", (2,))
    w = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))
    optimizer = NovoGrad([w], **OPTIONS)
    step = torch.compile(optimizer.step)
    for _ in range(2):
        w.grad = distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])
        step()
    return optimizer.state[w]["exp_avg_sq"]


def test_a_compiled_step_of_dtensors_uses_the_norm_of_the_whole_layer(tmp_path):
    assert run(2, compiled, tmp_path) == [12, 12]


# -- a first step at rate 0 -----------------------------------------------------------------------


def warmed_up_from_zero(prepared, place):
    """Trains rows from a step at rate 0 in which only one process has gradients."""
    w = nn.Parameter(place("rows", torch.ones(8, 4)))
    options = OPTIONS | {"variant": "apex", "lr": 0.0}
    optimizer = NovoGrad([w], layers=Rows(), **options)
    if prepared:  # torch.distributed.checkpoint runs this step
        w.grad = place("rows", torch.zeros(8, 4))
        optimizer.step()
        assert not any(full(x).any() for x in optimizer.state[w].values())
    for step in range(3):
        gradient = torch.ones(8, 4)
        gradient[4:] *= step
        w.grad = place("rows", gradient)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.1
    return full(w), full(optimizer.state[w]["step"])


def warmed_up_in_pieces(prepared):
    return warmed_up_from_zero(prepared, placed_over((2,), (Shard(0),)))


@pytest.mark.parametrize("prepared", some([True, False], kept=[True]))
def test_all_processes_count_a_first_step_alike(tmp_path, prepared):
    expected = warmed_up_from_zero(False, lambda _, x: x)
    for w, step in run(2, warmed_up_in_pieces, tmp_path, prepared):
        assert step == expected[1] == 3
        torch.testing.assert_close(w, expected[0], rtol=1e-6, atol=0)


# -- several meshes -------------------------------------------------------------------------------


def experts():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("ep", "dp"))
    expert = mesh.get_local_rank("ep")

    def step_of(names, place, seed):
        return {k: place(x) for k, x in values(seed, torch.float32).items() if k in names}

    def dense(x):
        return distribute_tensor(x, mesh, [Replicate(), Shard(0)], src_data_rank=None)

    def own(x):
        return distribute_tensor(x + expert, mesh["dp"], [Shard(0)], src_data_rank=None)

    weights = {
        **{k: nn.Parameter(x) for k, x in step_of({"whole"}, dense, -1).items()},
        **{k: nn.Parameter(x) for k, x in step_of({"qkv", "gates"}, own, -1).items()},
        **{k: nn.Parameter(x) for k, x in step_of({"bias"}, torch.clone, -1).items()},
    }
    optimizer = optimizer_of(weights)
    for step in range(STEPS):
        for name in weights:
            place = {"whole": dense, "bias": torch.clone}.get(name, own)
            weights[name].grad = step_of({name}, place, step)[name]
        with CommDebugMode() as communication:
            optimizer.step()
    return expert, everything(weights, optimizer), communication.get_total_counts()


def test_experts_may_be_on_their_own_meshes(tmp_path):
    expected = [
        everything(*train(torch.float32, lambda k, x, e=e: x + e * (k in {"qkv", "gates"})))
        for e in range(2)
    ]
    for expert, actual, collectives in run(4, experts, tmp_path):
        assert_same(actual, {k: expected[expert][k] for k in actual}, 1e-6)
        assert collectives == 1  # the same processes share the dense weights and the experts


# -- refusals -------------------------------------------------------------------------------------


def flattened(original):
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(
        nn.Linear(3, 4), use_orig_params=original, device_id=torch.device("cpu")
    )
    optimizer = NovoGrad([torch.zeros(2)])
    for make in (
        lambda: NovoGrad(model.parameters()),
        lambda: optimizer.add_param_group({"params": model.parameters()}),
    ):
        with pytest.raises(RuntimeError, match="fully_shard instead"):
            make()
    return len(optimizer.param_groups)


@pytest.mark.parametrize("original", some([True, False], kept=[True]))
def test_flattened_parameters_are_refused(tmp_path, original):
    assert run(2, flattened, tmp_path, original) == [1, 1]


def mixed_up():
    mesh = init_device_mesh("cpu", (2,))
    w = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))
    optimizer = NovoGrad([w], **OPTIONS)
    w.grad = distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])
    optimizer.step()
    before = full(w)
    plain = NovoGrad([nn.Parameter(torch.ones(4, 3))])
    plain.param_groups[0]["params"][0].grad = torch.ones(4, 3)
    plain.step()
    with pytest.raises(
        ValueError, match=r"'exp_avg' of parameter 0 is not sharded like the parameter"
    ):
        optimizer.load_state_dict(plain.state_dict())
    w.grad = torch.ones(4, 3)
    with pytest.raises(RuntimeError, match="must be a DTensor, because"):
        optimizer.step()
    return (full(w) == before).all()


def test_state_and_gradients_with_another_sharding_are_refused(tmp_path):
    assert all(run(2, mixed_up, tmp_path))
