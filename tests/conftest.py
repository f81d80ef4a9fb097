"""What the tests of every framework use."""

import pytest

from novograd import rule


@pytest.fixture
def wrong_rule(monkeypatch):
    """The rule with another epsilon: whatever holds no second copy of it is wrong as well."""
    right = rule.numbers
    monkeypatch.setattr(
        rule, "numbers", lambda variant, **hyper: right(variant, **hyper | {"epsilon": 1.0})
    )
