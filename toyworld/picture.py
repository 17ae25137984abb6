"""The demo's picture: what finetuning won in distribution against what it kept outside."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the backend is chosen

from shards import places

_COLOURS = {"before": "#7a7a7a", "flyp": "#c8553d", "arf": "#2a6f97"}
_PANELS = {
    "shift": "domain shift: seen classes, other domains",
    "zero_shot": "zero-shot: unseen classes",
}


def draw_results(results: Mapping[str, Any], names: Mapping[str, str], path: Path) -> None:
    """Write a PNG with one panel per out-of-distribution group.

    Args:
        results: method to group to top-1 in percent, with ``datasets`` beside the groups.
        names: method to its name in the legend.
        path: of the PNG.
    """
    figure, axes = plt.subplots(1, len(_PANELS), figsize=(9.5, 4.2), constrained_layout=True)
    for panel, (group, title) in zip(axes, _PANELS.items(), strict=True):
        start = results["before"]
        for method, values in results.items():
            x, y = values["id"], values[group]
            colour = _COLOURS[method]
            if method != "before":
                panel.annotate(
                    "",
                    xy=(x, y),
                    xytext=(start["id"], start[group]),
                    arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.4, "alpha": 0.6},
                )
            panel.scatter([x], [y], s=90, color=colour, zorder=3, label=names[method])
            panel.annotate(
                f"{y:.1f}", (x, y), xytext=(0, 9), textcoords="offset points", ha="center"
            )
        panel.set_title(title, fontsize=10.5)
        panel.set_xlabel("in distribution, top-1 %")
        panel.set_ylabel("out of distribution, top-1 %")
        panel.margins(0.18)
        panel.grid(alpha=0.25)
    axes[0].legend(loc="best", fontsize=9, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    places.write_bytes(str(path), buffer.getvalue())
