"""Tables of the measured steps, and remarks on them."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from novograd.bench.timing import BOUND, BOUND_BYTES


def table(framework: Mapping[str, Any]) -> Table:
    """Makes the table of a framework, 80 columns wide.

    Args:
        framework: The framework's part of the result.
    """
    versions = ", ".join(" ".join(pair) for pair in framework["versions"].items())
    shown = Table(
        title=f"{versions}; threads: {framework['threads']}; reference: {framework['reference']}",
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for column in ("shapes", "optimizer"):
        shown.add_column(column, no_wrap=True)
    for column in ("bytes a\nweight", "ms", "ratio to\nreference", "ratio to\nbound"):
        shown.add_column(column, justify="right", no_wrap=True)
    for shapes, figures in framework["results"].items():
        for i, (optimizer, row) in enumerate(figures.items()):
            shown.add_row(
                "" if i else shapes,  # only in the first row of each model
                optimizer,
                str(row.get("bytes_per_weight", "")),
                f"{row['ms_median']:.2f}",
                f"{row['ratio_to_reference']:.2f}",
                f"{row['ratio_to_bound']:.2f}" if "ratio_to_bound" in row else "",
            )
    return shown


def remarks(result: Mapping[str, Any]) -> list[str]:
    """Returns explanations of the tables, and a sentence for everything that is missing."""
    frameworks: Mapping[str, Any] = result["frameworks"]
    said = [
        f"Processor: {result['processor']}; cores: {result['cores']}; instruction set of the "
        f"kernels: {result['instruction_set'] or 'not installed'}.",
        f"Medians of {result['rounds']} rounds, divided among up to three processes. Each "
        "optimizer is measured while no other is in the process but the reference. In a round both "
        "take one step; a ratio is the median of the ratios within each round.",
    ]
    measured = {name: one for name, one in frameworks.items() if one["results"]}
    if again := [f"`{one['reference_again']}`" for one in measured.values()]:
        said.append(
            f"{' and '.join(again)}: the reference measured again; its ratio differs from 1 only "
            "by noise."
        )
    rows = [row for one in measured.values() for row in one["results"].values()]
    if any(BOUND in row for row in rows):
        said.append(
            f"`{BOUND}`: the fastest loop found for the sums and the pass of NovoGrad, block by "
            f"block: {BOUND_BYTES} bytes a weight. A step must first sum a whole layer, so it "
            "reads large gradients twice."
        )
    said += [remark for one in measured.values() for remark in one["remarks"]]
    for name, one in frameworks.items():
        said += _left_out(name, one["left_out"])
    return said + [f"{name}: {one['error']}" for name, one in frameworks.items() if "error" in one]


def _left_out(framework: str, left_out: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns a sentence for each optimizer that was left out, with the shapes and the reason."""
    shapes: dict[tuple[str, str], list[str]] = {}
    for name, reasons in left_out.items():
        for reason in reasons.items():
            shapes.setdefault(reason, []).append(name)
    return [
        f"{framework}, {optimizer}: {why}"
        if len(names) == len(left_out)
        else f"{framework}, {optimizer}, {' and '.join(names)}: {why}"
        for (optimizer, why), names in shapes.items()
    ]
