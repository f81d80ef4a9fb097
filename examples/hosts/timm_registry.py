"""Add NovoGrad to timm's registry of optimizers, for ``--opt clara`` in timm's training script.

    python examples/hosts/timm_registry.py

timm uses names with an underscore for wrappers, as in ``lookahead_adam``. Its own ``novograd`` is
another variant, which is ``variant="nvidia"`` here.
"""

import importlib.util
import sys
from types import ModuleType

import torch
from sklearn.datasets import load_digits
from torch import nn

from novograd.torch import NovoGrad


def optim():
    """Imports ``timm.optim``. Works without torchvision, which ``timm.models`` needs."""
    if importlib.util.find_spec("torchvision") is None:
        package, models = ModuleType("timm"), ModuleType("timm.models")
        package.__path__ = importlib.util.find_spec("timm").submodule_search_locations
        models.group_parameters = None  # for layer-wise learning rates, which need a timm model
        sys.modules |= {"timm": package, "timm.models": models}
    import timm.optim

    return timm.optim


def main():
    timm_optim = optim()
    # timm does not have a public way to register an optimizer. It registers its own in this way.
    from timm.optim._optim_factory import default_registry

    default_registry.register(
        timm_optim.OptimInfo(
            name="clara",
            opt_class=NovoGrad,
            description="NovoGrad as NVIDIA Clara Train documents it",
            has_betas=True,
        )
    )
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = timm_optim.create_optimizer_v2(model, opt="clara", lr=0.01, weight_decay=1e-3)
    assert type(optimizer) is NovoGrad
    # timm makes a parameter group without weight decay for the biases.
    print("weight decay:", [group["weight_decay"] for group in optimizer.param_groups])
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < losses[0] / 2


if __name__ == "__main__":
    main()
