"""``anchorft-shards join``: captions without images, and the images that the receiver holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from shards.commands.derived import add_output, report, share
from shards.deriving.join import MAX_UNMATCHED, Matching, join
from shards.sources import open_labelled

_SHOWN = 5


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser(
        "join", help="attach captions that came without images to your own copy of the images"
    )
    parser.add_argument("set", metavar="SET", help="folder of the set, local or remote")
    parser.add_argument(
        "--finetune",
        metavar="DATA",
        required=True,
        help="labelled images: an image folder, labelled webdataset tars (folder, brace range, "
        "glob, or the root of CLIP_benchmark's layout), or a CSV, TSV or parquet list",
    )
    parser.add_argument("--classnames", metavar="FILE", help="class names of the data, one a line")
    parser.add_argument("--split", choices=("train", "test"), help="of CLIP_benchmark's layout")
    parser.add_argument(
        "--max-unmatched",
        type=share,
        default=MAX_UNMATCHED,
        metavar="F",
        help="share of captions that may stay without an image, and are then left out "
        "(default: %(default)s)",
    )
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the set.

    Raises:
        UserError: see shards.deriving.join.join.
    """
    source = open_labelled(arguments.finetune, arguments.classnames, arguments.split)
    made, matching = join(
        arguments.set,
        source,
        arguments.output,
        max_unmatched=arguments.max_unmatched,
        shard_size=arguments.shard_size,
        name=arguments.name,
        max_bad=arguments.max_bad_fraction,
    )
    return report(arguments, made, matching.as_json(), list(_lines(matching)))


def _lines(matching: Matching) -> Iterator[str]:
    yield f"captions that found their image: {matching.matched:,}"
    if matching.had_images:
        yield f"anchors that had their image already: {matching.had_images:,}"
    images = [file if file == key else f"{file} · {key}" for file, key in matching.unmatched_images]
    for what, names in (
        ("captions without an image, left out", matching.unmatched_captions),
        ("images without a caption", images),
    ):
        if names:
            more = "; --json lists all" if len(names) > _SHOWN else ""
            yield f"{what}: {len(names):,} ({', '.join(names[:_SHOWN])}{more})"
    for (ours, theirs), number in matching.renamed.items():
        yield f"class {ours!r} of the set is {theirs!r} in the data: {number:,} images"
    for reason, number in matching.unreadable.items():
        yield f"images that could not be read: {number:,} ({reason})"
