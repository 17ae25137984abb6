"""``anchorft-shards inspect``: what a set holds, in numbers."""

from __future__ import annotations

import argparse
import json
from typing import Any

from shards.reader import AnchorSet
from shards.summary import Spread, Summary, summarise


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser("inspect", help="what a set holds, in numbers")
    parser.add_argument("set", metavar="SET", help="folder of the set, local or remote")
    parser.add_argument("--json", action="store_true", help="print JSON, histograms included")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the summary.

    Raises:
        UserError: no set there, or a parquet is missing or was changed.
    """
    summary = summarise(AnchorSet.open(arguments.set))
    if arguments.json:
        print(json.dumps(summary.as_json(), indent=2, sort_keys=True, ensure_ascii=False))
    else:
        print("\n".join(_lines(summary)))
    return 0


def _lines(summary: Summary) -> list[str]:
    lines = [
        f"{summary.name}: {summary.samples:,} anchors, {summary.bytes / 1e6:,.1f} MB",
        f"digest {summary.digest}",
    ]
    for kind, number in summary.kinds.items():
        classes = summary.classes[kind]
        lines.append(f"{kind}: {number:,} anchors, {len(classes):,} classes")
        if classes:
            least, most = (f(classes, key=lambda name: classes[name]) for f in (min, max))
            lines.append(f"  per class: {classes[least]:,} ({least}) to {classes[most]:,} ({most})")
        if kind in summary.words:
            lines.append(f"  words per text: {_spread(summary.words[kind])}")
    if summary.scores is not None:
        lines.append(f"  score: {_spread(summary.scores)}")
    for stage, counts in sorted(summary.counts.items()):
        dropped = "".join(f", {why} {number:,}" for why, number in sorted(counts.dropped.items()))
        lines.append(f"{stage}: read {counts.read:,}, kept {counts.kept:,}{dropped}")
    return lines


def _spread(values: Spread) -> str:
    return (
        f"{values.least:.4g} to {values.most:.4g}, median {values.median:.4g}, "
        f"mean {values.mean:.4g}"
    )
