"""Automatic mixed precision: loss scaling and autocast."""

import copy

import torch

from novograd.torch import NovoGrad
from tests.helpers.oracle import trained
from tests.helpers.torch import every_backend


def model_and_data():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    return model, torch.randn(6, 8, 5)


@every_backend
def test_grad_scaler_skips_a_step_with_infinite_gradients(backend):
    model, data = model_and_data()
    twin = copy.deepcopy(model)
    options = {"lr": 0.1, "weight_decay": 0.1, **backend}
    scaled, plain = NovoGrad(model.parameters(), **options), NovoGrad(twin.parameters(), **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step, batch in enumerate(data):
        scaled.zero_grad()
        plain.zero_grad()
        scaler.scale(model(batch).square().mean()).backward()
        twin(batch).square().mean().backward()
        infinite = step in (0, 3)
        if infinite:
            model[0].weight.grad[0, 0] = float("inf")
        before = copy.deepcopy([p.detach() for p in model.parameters()])
        scaler.step(scaled)
        scaler.update()
        if infinite:
            torch.testing.assert_close(list(model.parameters()), before, rtol=0, atol=0)
        else:
            plain.step()
    # Scales are powers of 2, so scaling rounds nothing.
    torch.testing.assert_close(list(model.parameters()), list(twin.parameters()), rtol=0, atol=0)
    assert scaler.get_scale() == 256.0


@every_backend
def test_training_under_bfloat16_autocast_agrees_with_the_oracle(backend):
    model, data = model_and_data()
    weight = model[0].weight
    start = weight.detach().numpy().copy()
    optimizer = NovoGrad(model.parameters(), lr=0.1, **backend)
    gradients = []
    for batch in data:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch).square().mean()
        assert model[0](batch).dtype == torch.float32
        loss.backward()
        gradients.append(weight.grad.numpy().copy())
        optimizer.step()
    wanted, _, _ = trained(start, gradients)
    torch.testing.assert_close(
        weight.detach().double(), torch.from_numpy(wanted), rtol=1e-5, atol=1e-6
    )
