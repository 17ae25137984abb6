"""``anchorft-shards reshard``: the same anchors in shards of another size."""

from __future__ import annotations

import argparse
from typing import Any

from shards.commands.derived import add_output, positive, report
from shards.deriving.reshard import reshard


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser("reshard", help="write a set with shards of another size")
    parser.add_argument("set", metavar="SET", help="folder of the set, local or remote")
    parser.add_argument(
        "--shard-size", type=positive, required=True, metavar="N", help="anchors per shard"
    )
    add_output(parser, shard_size=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the set.

    Raises:
        UserError: see shards.deriving.derive.derive.
    """
    made = reshard(
        arguments.set,
        arguments.output,
        shard_size=arguments.shard_size,
        name=arguments.name,
        max_bad=arguments.max_bad_fraction,
    )
    return report(arguments, made)
