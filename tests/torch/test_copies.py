"""Public objects can be copied and pickled in every way that PyTorch's own optimizers can."""

import torch

from novograd.torch import NovoGrad, no_decay
from tests.helpers.copies import Case, assert_survives_what_its_control_does


def test_public_objects_survive_every_copy_that_torchs_own_survive():
    def model():
        torch.manual_seed(0)
        return torch.nn.Linear(3, 2)

    def step(optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer

    def does(optimizer):
        step(optimizer)
        weights = [w for group in optimizer.param_groups for w in group["params"]]
        return type(optimizer), str([w.tolist() for w in weights]), str(optimizer.state_dict())

    def fresh(kind, **arguments):
        return lambda: kind(no_decay(model(), weight_decay=0.1), lr=0.1, **arguments)

    def trained(kind, **arguments):
        return lambda: step(fresh(kind, **arguments)())

    adamw = torch.optim.AdamW
    cases = {
        "NovoGrad": Case(fresh(NovoGrad), does, fresh(adamw)),
        "NovoGrad after a step": Case(trained(NovoGrad), does, trained(adamw)),
        "NovoGrad of a variant": Case(trained(NovoGrad, variant="apex"), does, trained(adamw)),
        "no_decay": Case(lambda: no_decay(model(), weight_decay=0.1), str),
    }
    assert_survives_what_its_control_does(cases)
