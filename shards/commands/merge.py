"""``anchorft-shards merge``: the union of sets."""

from __future__ import annotations

import argparse
from typing import Any

from shards.commands.derived import add_output, report
from shards.deriving.merge import ON_CONFLICT, merge


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser("merge", help="unite sets; equal anchors collapse")
    parser.add_argument("sets", metavar="SET", nargs="+", help="folders of the sets, in order")
    parser.add_argument(
        "--on-conflict",
        choices=ON_CONFLICT,
        default="error",
        help="whose record counts where two sets have different ones of one key "
        "(default: %(default)s)",
    )
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the set.

    Raises:
        UserError: see shards.deriving.merge.merge.
    """
    made = merge(
        arguments.sets,
        arguments.output,
        on_conflict=arguments.on_conflict,
        shard_size=arguments.shard_size,
        name=arguments.name,
        max_bad=arguments.max_bad_fraction,
    )
    return report(arguments, made)
