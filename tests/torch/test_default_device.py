"""Steps on one device while another one is torch's default device.

The default device here is ``meta``: a tensor that was made there by mistake has no content.
"""

import io

import pytest
import torch

from novograd.torch import NovoGrad, layer_statistics
from tests.helpers.torch import every_backend, parameters, set_gradients

OPTIONS = {
    "documented": {},
    "counts": {"variant": "apex"},
    "amsgrad": {"variant": "nvidia-amsgrad"},
    "rows, int8": {"variant": "rows", "moment_dtype": torch.int8},
    "stochastic rounding": {"variant": "rows", "stochastic_rounding": True},
}
SHAPES = ((40, 256), (8, 4, 3, 3), (7,))


def trained(options, default):
    """Returns the weights after steps, before and after the state was saved and loaded."""
    dtype = torch.bfloat16 if "stochastic_rounding" in options else torch.float32
    params = parameters(SHAPES, dtype)
    with torch.device(default):
        optimizer = NovoGrad(params, lr=0.1, weight_decay=0.01, **options)
    for step in range(3):
        set_gradients(params, step)
        with torch.device(default):
            optimizer.step()
            layer_statistics(optimizer)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    with torch.device(default):
        loaded = NovoGrad(params, lr=0.1, weight_decay=0.01, **options)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        loaded.step()
    return [param.detach() for param in params]


@every_backend
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_default_device_does_not_matter(options, backend):
    options = {**backend, **options}
    expected = trained(options, "cpu")
    assert all(map(torch.equal, trained(options, "meta"), expected))
