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


def pytest_terminal_summary(terminalreporter):
    """Shows how far the published optimizers are from ours, where their tests have run."""
    rows = [
        row
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for key, row in report.user_properties
        if key == "peer"
    ]
    if rows:
        terminalreporter.section("largest differences from published optimizers")
        heads = "peer", "variant", "ours", "dtype", "w", "m", "v", "allowed"
        for row in [heads, *sorted(rows)]:
            cells = [x if isinstance(x, str) else f"{x:.1e}" for x in row]
            terminalreporter.write_line(
                "{:30} {:20} {:20} {:8} {:>8} {:>8} {:>8} {:>8}".format(*cells)
            )
