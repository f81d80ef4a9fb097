"""What the tests of every framework use."""

import pytest

from novograd import rule


@pytest.fixture
def wrong_rule(monkeypatch):
    """The rule with another epsilon: whatever holds no second copy of it is wrong as well."""
    right = rule.coefficients
    monkeypatch.setattr(
        rule, "coefficients", lambda v, **hyper: right(v, **hyper | {"epsilon": 1.0})
    )
