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
    """Shows how far the published optimizers are from ours, and what conversions cost."""
    found = [
        found
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for found in report.user_properties
    ]
    rows = [row for key, row in found if key == "peer"]
    if rows:
        terminalreporter.section("largest differences from published optimizers")
        heads = "peer", "variant", "ours", "dtype", "w", "m", "v", "allowed"
        for row in [heads, *sorted(rows)]:
            cells = [x if isinstance(x, str) else f"{x:.1e}" for x in row]
            terminalreporter.write_line(
                "{:30} {:20} {:20} {:8} {:>8} {:>8} {:>8} {:>8}".format(*cells)
            )
    for key, matrix in found:
        if key == "matrix":
            terminalreporter.section("conversions, ulp of the largest weight")
            terminalreporter.write_line(matrix)
