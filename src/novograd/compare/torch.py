"""Trains a ``torch.nn.Module`` or a Keras model in PyTorch."""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from novograd import variants
from novograd.compare.devices import CPU, GPU, unusable
from novograd.compare.errors import TaskError
from novograd.compare.load import find_class
from novograd.compare.optimizers import OWN, Optimizer
from novograd.compare.task import Task
from novograd.compare.training import Trainer
from novograd.layers import Layers, layers_of, row_axes
from novograd.torch import NovoGrad

_KINDS: dict[str, Any] = {
    "adamw": torch.optim.AdamW,
    "nadamw": torch.optim.NAdam,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
Named = list[tuple[str, Tensor]]
# Arguments: the named parameters, and whether they belong to a Keras model. Returns the optimizer
# and its arguments except the learning rate.
Build = Callable[[Named, bool], tuple[torch.optim.Optimizer, dict[str, Any]]]


def require_gpu() -> None:
    """Checks that PyTorch can use the GPU.

    This initialises CUDA, so do not call it in a process that will fork.

    Raises:
        DeviceError: If PyTorch cannot use it.
    """
    try:
        torch.ones(1, device=GPU).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch is for the CPU only
        raise unusable("PyTorch", error) from None


def trainer(task: Task, optimizer: Optimizer, seed: int, device: str = CPU) -> Trainer:
    """Builds a model and its optimizer.

    Args:
        task: The task, which builds the model.
        optimizer: The optimizer and its settings.
        seed: Seed of the initial weights.
        device: The device that trains. Keras models are there already, see
            ``novograd.compare.worker.environment``.

    Returns:
        The trainer for ``novograd.compare.training.train``.
    """
    return trainer_of(task, partial(_optimizer, optimizer), seed, device)


def trainer_of(task: Task, build: Build, seed: int, device: str = CPU) -> Trainer:
    """Builds a model and any optimizer.

    Args:
        task: The task, which builds the model.
        build: Builds the optimizer.
        seed: Seed of the initial weights.
        device: The device that trains. Keras models are there already, see
            ``novograd.compare.worker.environment``.

    Returns:
        The trainer for ``novograd.compare.training.train``.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = task.model(seed)
    keras = sys.modules.get("keras")
    by_keras = keras is not None and isinstance(model, keras.Model)
    if by_keras:
        named = [(v.path, v.value) for v in model.trainable_variables]
    else:
        model.to(device)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    update, settings = build(named, by_keras)
    on_device = partial(_tensors, device=device)

    def call(inputs: Any, training: bool) -> Any:
        if by_keras:
            return model(inputs, training=training)
        model.train(training)
        return model(inputs)

    def step(learning_rate: float, inputs: Any, targets: Any) -> float:
        for group in update.param_groups:
            group["lr"] = learning_rate
        update.zero_grad()
        loss = task.loss(call(on_device(inputs), training=True), on_device(targets))
        if not loss.requires_grad:
            raise TaskError("task.loss must depend on the weights of the model; it has no gradient")
        loss.backward()
        update.step()
        return loss.item()  # the only wait for the device: for all of the step

    @torch.no_grad()
    def predict(inputs: Any, targets: Any) -> tuple[float, NDArray[Any]]:
        outputs = call(on_device(inputs), training=False)
        return task.loss(outputs, on_device(targets)).item(), outputs.cpu().numpy()

    def update_alone() -> None:
        for group in update.param_groups:
            group["lr"] = 0.0
        update.step()
        if device != CPU:
            torch.cuda.synchronize(device)

    return Trainer(
        step,
        predict,
        update_alone,
        state_bytes=lambda: _bytes(
            x for state in update.state.values() for x in state.values() if torch.is_tensor(x)
        ),
        weight_bytes=_bytes(param for _, param in named),
        settings=settings,
        versions={
            "torch": torch.__version__,
            **({"keras": keras.__version__} if keras is not None and by_keras else {}),
        },
    )


def _optimizer(
    optimizer: Optimizer, named: Named, by_keras: bool
) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    if optimizer.kind == OWN:
        return _own(optimizer, named)
    given: dict[str, Any] = dict(optimizer.settings)
    settings: dict[str, Any] = {}
    if "beta1" in given:
        settings["betas"] = (given.pop("beta1"), given.pop("beta2"))
    if "epsilon" in given:
        settings["eps"] = given.pop("epsilon")
    settings |= given
    if optimizer.kind == "novograd":
        settings = {**settings, "variant": optimizer.variant, **optimizer.arguments}
        layers = partial(_keras_layers, optimizer.variant) if by_keras else None
        return NovoGrad(named, lr=0.0, **{"layers": layers, **settings}), settings
    if optimizer.kind == "nadamw":
        settings["decoupled_weight_decay"] = True
    settings |= optimizer.arguments
    return _KINDS[optimizer.kind]([param for _, param in named], lr=0.0, **settings), settings


def _own(optimizer: Optimizer, named: Named) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    """Builds a class of a package from the parameters, or a function from the named parameters."""
    params = named if ":" in optimizer.place else [param for _, param in named]
    settings = dict(optimizer.arguments)
    made = find_class(optimizer.place)(params, lr=optimizer.middle, **settings)
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"{optimizer.place} must make a torch.optim.Optimizer, got {made!r}")
    return made, settings


def _keras_layers(variant: str, name: str, param: Tensor) -> Layers:
    """Returns the layers of a variant, for a weight in the layout of Keras."""
    rows = row_axes(name.split("/")[-1])
    return layers_of(variants.get(variant).layers, (), param.shape, rows)


def _tensors(x: Any, device: str) -> Any:
    if isinstance(x, tuple | list):
        return tuple(_tensors(one, device) for one in x)
    return (x if torch.is_tensor(x) else torch.from_numpy(np.array(x))).to(device)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)
