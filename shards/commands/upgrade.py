"""``anchorft-shards upgrade``: a set of an older format version, written anew."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tqdm import tqdm

from schemas.manifest import FORMAT_VERSION
from shards.deriving.upgrade import upgrade


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser(
        "upgrade", help="write a set of an older format version anew; the old one is left alone"
    )
    parser.add_argument("set", metavar="SET", help="folder of the old set, local or remote")
    parser.add_argument(
        "--output", metavar="NEW", required=True, help="folder of the new set, local or remote"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Upgrade and print.

    Raises:
        UserError: see shards.deriving.upgrade.upgrade.
    """
    # disable=None: only on a terminal
    with tqdm(unit="anchor", disable=None, leave=False) as bar:

        def on_anchor(total: int) -> None:
            bar.total = total
            bar.update()

        made = upgrade(arguments.set, arguments.output, on_anchor=on_anchor)
    manifest = made.manifest
    current = manifest.format_version == made.version
    place = arguments.set if current else arguments.output
    if arguments.json:
        body = {
            "set": place,
            "from": made.version,
            "to": manifest.format_version,
            "digest": manifest.digest,
            "samples": manifest.samples,
            "parents": manifest.provenance.parents,
            "new": made.new,
        }
        print(json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False))
    elif current:
        print(f"{place} is of format {made.version} already; nothing was written")
    else:
        there = "" if made.new else " (was there already)"
        print(f"{place}: {manifest.samples:,} anchors, {made.version} to {FORMAT_VERSION}{there}")
        print(f"digest {manifest.digest}")
    return 0
