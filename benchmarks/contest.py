"""Two ways to do the same, measured in turns, so that what else the machine does hits both."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "pillow", "pyarrow", "pydantic", "webdataset")


def contest(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Run both in turns, after a round that warms the page cache and the imports.

    Returns:
        ``ratio``, the median over the rounds of their time divided by ours (above 1: ours is
        faster), and ``ratios`` of all rounds; ``cpu_ratio``, the same of the processor time that
        both used on all cores, child processes included, which other load hardly touches; and
        the median ``seconds`` of both.
    """
    theirs()
    ours()
    times: list[list[tuple[float, float]]] = []
    for number in range(rounds):
        taken = [(0.0, 0.0), (0.0, 0.0)]
        for which in (0, 1) if number % 2 == 0 else (1, 0):  # who goes first takes turns too
            wall, cpu = time.perf_counter(), _cpu_seconds()
            (ours, theirs)[which]()
            taken[which] = (time.perf_counter() - wall, _cpu_seconds() - cpu)
        times.append(taken)
    walls = [their[0] / our[0] for our, their in times]
    cpus = [(their[1] + 0.001) / (our[1] + 0.001) for our, their in times]  # clock ticks: no zeros
    return {
        "ratio": round(statistics.median(walls), 3),
        "ratios": [round(ratio, 3) for ratio in walls],
        "cpu_ratio": round(statistics.median(cpus), 3),
        "seconds": {
            name: round(statistics.median(taken[which][0] for taken in times), 3)
            for which, name in enumerate(("ours", "theirs"))
        },
    }


def _cpu_seconds() -> float:
    """Of this process and of its children that ended."""
    return sum(os.times()[:4])


def figures(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Table rows: median, least and most of the ratios, and the ratio of processor time."""
    return [
        (
            name,
            *(
                f"{ratio:.2f}"
                for ratio in (f["ratio"], min(f["ratios"]), max(f["ratios"]), f["cpu_ratio"])
            ),
        )
        for name, f in results.items()
    ]


FIGURES = ("median", "least", "most", "of CPU time")


def conditions(**more: Any) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    } | more


def parser(description: str, *, samples: int, rounds: int | None = 7) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--samples", type=int, default=samples, help="anchors (%(default)s)")
    if rounds is not None:
        made.add_argument("--rounds", type=int, default=rounds, help="of each (%(default)s)")
    made.add_argument("--output", type=Path, help="write the figures here as JSON")
    return made


def report(
    body: Mapping[str, Any], head: Sequence[str], rows: Sequence[Sequence[str]], output: Path | None
) -> None:
    """Print a table, and write the JSON if it was asked for."""
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    for row in table:
        first, *others = (
            cell.ljust(w) if not i else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join((first, *others)).rstrip())
    sys.stdout.flush()
    if output is not None:
        output.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
