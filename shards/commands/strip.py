"""``anchorft-shards strip``: captions to share where the finetune images may not be."""

from __future__ import annotations

import argparse
from typing import Any

from shards.commands.derived import add_output, report
from shards.deriving.strip import PAIRS, strip


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser(
        "strip", help="leave out the bytes of finetune images, to share the captions alone"
    )
    parser.add_argument("set", metavar="SET", help="folder of the set, local or remote")
    parser.add_argument(
        "--pairs",
        choices=PAIRS,
        help="what becomes of image-text pairs: keep them with their images, or drop them "
        "(needed if the set has some)",
    )
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the set.

    Raises:
        UserError: see shards.deriving.strip.strip.
    """
    made = strip(
        arguments.set,
        arguments.output,
        pairs=arguments.pairs,
        shard_size=arguments.shard_size,
        name=arguments.name,
        max_bad=arguments.max_bad_fraction,
    )
    return report(arguments, made)
