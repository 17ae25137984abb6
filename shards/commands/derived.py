"""What the commands that make sets of sets have in common: their options and their last words."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from shards.deriving.derive import MAX_BAD_FRACTION, Derived


def add_output(parser: argparse.ArgumentParser, *, shard_size: bool = True) -> None:
    """Add --output, --name, --shard-size, --max-bad-fraction and --json."""
    parser.add_argument(
        "--output", metavar="NEW", required=True, help="folder of the new set, local or remote"
    )
    parser.add_argument("--name", help="of the new set (default: that of the first set)")
    if shard_size:
        parser.add_argument(
            "--shard-size",
            type=positive,
            metavar="N",
            help="anchors per shard (default: as in the fullest shard that was read)",
        )
    parser.add_argument(
        "--max-bad-fraction",
        type=share,
        default=MAX_BAD_FRACTION,
        metavar="F",
        help="share of corrupt anchors that are left out and counted; with more of them the "
        "command gives up (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def report(
    arguments: argparse.Namespace,
    made: Derived,
    more: dict[str, Any] | None = None,
    lines: Sequence[str] = (),
) -> int:
    """Print what was made; ``more`` joins the JSON, ``lines`` the text."""
    manifest = made.manifest
    if arguments.json:
        body: dict[str, Any] = {
            "output": arguments.output,
            "name": manifest.name,
            "digest": manifest.digest,
            "samples": manifest.samples,
            "shards": len(manifest.shards),
            "parents": manifest.provenance.parents,
            "counts": {k: c.model_dump() for k, c in manifest.provenance.counts.items()},
            "new": made.new,
            "bad": [{"key": k, "reason": r, "detail": d} for k, r, d in made.bad],
        }
        print(json.dumps(body | (more or {}), indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    there = "" if made.new else " (was there already)"
    print(
        f"{arguments.output}: {manifest.samples:,} anchors, {len(manifest.shards):,} shards{there}"
    )
    print(f"digest {manifest.digest}")
    for stage, counts in sorted(manifest.provenance.counts.items()):
        dropped = "".join(f", {why} {number:,}" for why, number in sorted(counts.dropped.items()))
        print(f"{stage}: read {counts.read:,}, kept {counts.kept:,}{dropped}")
    for key, reason, detail in made.bad:
        print(f"  left out {key}: {reason} ({detail})")
    for line in lines:
        print(line)
    return 0
