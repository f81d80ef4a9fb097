"""PyTorch set up for its tests."""

import pytest


def pytest_configure(config):
    # torch.compile imports deprecated parts of torch.
    for said in ("torch.jit.script", "torch.jit.script_method"):
        config.addinivalue_line(
            "filterwarnings", f"ignore:`{said}` is deprecated:DeprecationWarning"
        )


@pytest.fixture(params=["exchange", "methods"])
def way_to_read_memory(request, monkeypatch):
    """Reads the memory of tensors in both ways. Older versions of torch only have the second."""
    from novograd.torch import memory

    if request.param == "methods":
        monkeypatch.setattr(memory, "_EXCHANGE", None)
    elif memory._EXCHANGE is None:
        pytest.skip("this version of torch has no exchange API")
