"""``anchorft-shards pull``: a set, or some of its shards, comes to this machine."""

from __future__ import annotations

import argparse
from typing import Any

from schemas.record import KINDS
from shards.commands.push import add_common, report, report_damage
from shards.sharing.stores import DamagedFile
from shards.sharing.transfer import pull


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser("pull", help="fetch a set, or some of its shards")
    parser.add_argument(
        "url", metavar="URL", help="s3://..., gs://..., a folder, or hf://datasets/ORG/NAME"
    )
    parser.add_argument("folder", metavar="FOLDER", help="where it goes, on this machine")
    parser.add_argument(
        "--kind", action="append", choices=KINDS, default=[], help="only this kind of anchors"
    )
    parser.add_argument(
        "--shards",
        nargs="+",
        default=[],
        metavar="SHARD",
        help="only these shards of each kind: 3, 0-3, or paths such as image-text-pair/00000.tar",
    )
    add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Pull; 1 if what was fetched is damaged.

    Raises:
        UserError: no set, another set in the folder, no such shard, or a store that fails.
    """
    try:
        moved = pull(
            arguments.url,
            arguments.folder,
            kinds=arguments.kind,
            shards=arguments.shards,
            force=arguments.force,
            threads=arguments.threads,
        )
    except DamagedFile as error:
        return report_damage(error, arguments.json)
    report(moved, arguments.json)
    return 0
