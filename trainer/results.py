"""Results as a table for people."""

from __future__ import annotations

from typing import Any

from trainer.data_sets import GROUPS


def table(results: dict[str, Any]) -> str:
    """The results as text: one line a data set, then the mean of each group."""
    lines = [("data set", "group", "images", "top-1", "top-5", "per class", "bad")]
    for name, data in results["datasets"].items():
        top5 = "" if data["top5"] is None else f"{data['top5']:.2f}"
        bad = ", ".join(f"{reason} {number:,}" for reason, number in data["bad"].items())
        lines.append(
            (
                name,
                GROUPS[data["group"]],
                f"{data['samples']:,}",
                f"{data['top1']:.2f}",
                top5,
                f"{data['mean_per_class']:.2f}",
                bad or "0",
            )
        )
    for group, title in GROUPS.items():
        if group in results:
            lines.append(("mean", title, "", f"{results[group]:.2f}", "", "", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 1, 6) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
