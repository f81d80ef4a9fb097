"""PyTorch set up for its tests."""


def pytest_configure(config):
    # torch.compile imports deprecated parts of torch.
    for said in ("torch.jit.script", "torch.jit.script_method"):
        config.addinivalue_line(
            "filterwarnings", f"ignore:`{said}` is deprecated:DeprecationWarning"
        )
