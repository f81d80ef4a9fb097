"""Training of every source continues in every target as if it had not been converted."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from novograd.variants import VARIANTS
from tests.checkpoint import training
from tests.helpers import programs

PAGE = programs.REPOSITORY / "docs" / "checkpoints.md"
FRAMEWORKS = ("torch", "jax", "tensorflow")
TARGETS = ("torch", "jax", "keras", "tensorflow")
# The largest difference, in units in the last place of the largest weight. Ten steps of the source
# and ten of the target are compared with twenty of the source, some of them in float64. Each step
# rounds weights, momentum buffer and norm.
ULPS = 8


def run(task, folder):
    """Runs a task in one process for each framework."""

    def one(framework):
        programs.run(f"tests.checkpoint.worker_{framework}", task, folder)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, FRAMEWORKS))


def table(found):
    """Returns the conversion matrix in the format of docs/checkpoints.md."""
    lines = [f"| source | {' | '.join(TARGETS)} |", f"|---{'|---' * len(TARGETS)}|"]
    for row, cells in found.items():
        shown = (f"{cells[t]:.1f}" if t in cells else "-" for t in TARGETS)
        lines.append(f"| {row} | {' | '.join(shown)} |")
    return "\n".join(lines)


def shape(text):
    """Returns a table without its figures, which differ between machines."""
    return [
        [cell if cell.strip() == "-" or not i else "" for i, cell in enumerate(line.split("|")[1:])]
        for line in text.splitlines()
    ]


# Six processes train every source. The tests of each framework check single conversions.
@pytest.mark.full
def test_ten_steps_of_source_and_target_equal_twenty_of_the_source(tmp_path, record_property):
    run("write", tmp_path)
    run("resume", tmp_path)
    sources = training.sources(tmp_path)
    found = {row: {} for row in sources}
    for row, read in sources.items():
        expected = training.recorded(tmp_path, row, "end")
        for target in TARGETS:
            if target != "tensorflow" or read.variant.name == "documented":
                weights = training.saved(tmp_path, row, target)
                found[row][target] = training.ulps(weights, expected)
    record_property("matrix", table(found))
    if os.environ.get("NOVOGRAD_WRITE_MATRIX"):
        before, _, after = PAGE.read_text(encoding="utf-8").partition("| source |")
        rest = after.partition("\n\n")[2]
        PAGE.write_text(f"{before}{table(found)}\n\n{rest}", encoding="utf-8")
    wrong = {
        (row, target): ulps
        for row, cells in found.items()
        for target, ulps in cells.items()
        if not ulps < ULPS
    }
    assert not wrong
    assert {read.variant.name for read in sources.values()} >= {*VARIANTS}
    page = PAGE.read_text(encoding="utf-8")
    stands = page[page.index("| source |") :].partition("\n\n")[0]
    assert shape(stands) == shape(table(found))
