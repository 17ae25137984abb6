"""``anchorft-shards gallery``: a page to look at."""

from __future__ import annotations

import argparse
import json
from typing import Any

from schemas.errors import UserError
from shards import places
from shards.reader import AnchorSet
from shards.showing.gallery import gallery_of_set


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser("gallery", help="write an HTML page that shows a set")
    parser.add_argument("set", metavar="SET", help="folder of the set, local or remote")
    parser.add_argument("--output", default="gallery.html", help="file (default: %(default)s)")
    parser.add_argument(
        "--limit", type=_limit, default=600, help="anchors shown (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def _limit(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 2")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Write the page.

    Raises:
        UserError: no set there, or the output is one of its own files.
    """
    anchors = AnchorSet.open(arguments.set)
    if anchors.owns(arguments.output):
        raise UserError(
            f"{arguments.output!r} is a file of the set, whose manifest would not fit any more; "
            f"give another --output."
        )
    page = gallery_of_set(anchors.root, anchors.manifest, arguments.limit)
    places.write_bytes(arguments.output, page)
    if arguments.json:
        print(json.dumps({"output": arguments.output, "bytes": len(page)}, sort_keys=True))
    else:
        print(f"{arguments.output}: {len(page) / 1e6:.1f} MB")
    return 0
