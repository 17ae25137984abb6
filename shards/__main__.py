"""``anchorft-shards``: look at an anchor set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from schemas.errors import UserError
from shards import places
from shards.gallery import gallery_of_set
from shards.reader import AnchorSet
from shards.summary import Spread, Summary, summarise


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it is done, 2 when something must be mended first."""
    arguments = _parser().parse_args(argv)
    try:
        print(arguments.run(arguments))
    except UserError as error:
        print(f"anchorft-shards: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anchorft-shards", description="Look at an anchor set.", allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    inspect = commands.add_parser("inspect", help="what a set holds, in numbers")
    inspect.add_argument("set", metavar="SET", help="folder of the set, local or remote")
    inspect.add_argument("--json", action="store_true", help="print JSON, histograms included")
    inspect.set_defaults(run=_inspect)

    gallery = commands.add_parser("gallery", help="write an HTML page that shows a set")
    gallery.add_argument("set", metavar="SET", help="folder of the set, local or remote")
    gallery.add_argument("--output", default="gallery.html", help="file (default: %(default)s)")
    gallery.add_argument(
        "--limit", type=_limit, default=600, help="anchors shown (default: %(default)s)"
    )
    gallery.set_defaults(run=_gallery)
    return parser


def _limit(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 2")
    return int(text)


def _gallery(arguments: argparse.Namespace) -> str:
    anchors = AnchorSet.open(arguments.set)
    inside = {places.join(arguments.set, file.path) for file in anchors.manifest.files}
    if arguments.output in inside:
        raise UserError(
            f"{arguments.output!r} is a file of the set, whose manifest would not fit any more; "
            f"give another --output."
        )
    page = gallery_of_set(anchors.root, anchors.manifest, arguments.limit)
    places.write_bytes(arguments.output, page)
    return f"{arguments.output}: {len(page) / 1e6:.1f} MB"


def _inspect(arguments: argparse.Namespace) -> str:
    summary = summarise(AnchorSet.open(arguments.set))
    if arguments.json:
        return json.dumps(summary.as_json(), indent=2, sort_keys=True, ensure_ascii=False)
    return "\n".join(_lines(summary))


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


if __name__ == "__main__":
    sys.exit(main())
