"""``anchorft-shards inspect``: what a set holds, in numbers, or one sample of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from schemas.errors import UserError
from shards import places
from shards.reader import AnchorSet
from shards.showing.lookup import Found, find
from shards.showing.summary import Spread, Summary, summarise

_SHOWN = 5


def add_parser(commands: Any) -> None:
    """Add the command to ``anchorft-shards``."""
    parser = commands.add_parser("inspect", help="what a set holds, in numbers, or one sample")
    parser.add_argument("set", metavar="SET", help="folder of the set, local or remote")
    parser.add_argument("--sample", metavar="KEY", help="show this sample instead")
    parser.add_argument("--image", metavar="FILE", help="write the sample's image here")
    parser.add_argument("--json", action="store_true", help="print JSON, histograms included")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the summary or the sample; 1 if the sample's image is broken.

    Raises:
        UserError: no set there, no such sample, no image to write, or a parquet is missing or
            was changed.
    """
    if arguments.image and not arguments.sample:
        raise UserError("--image writes the image of one sample; give its key with --sample.")
    anchors = AnchorSet.open(arguments.set)
    if arguments.sample:
        found = find(anchors, arguments.sample)
        if arguments.image:
            _write_image(anchors, found, arguments.image)
        _print(found.as_json(), _sample_lines(found), arguments.json)
        return 1 if found.problem else 0
    summary = summarise(anchors)
    _print(summary.as_json(), _lines(summary), arguments.json)
    return 0


def _print(body: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        print("\n".join(map(_plain, lines)))


def _write_image(anchors: AnchorSet, found: Found, place: str) -> None:
    if anchors.owns(place):
        raise UserError(f"{place!r} is a file of the set, which must stay as it is; give another.")
    if found.image is not None:
        places.write_bytes(place, found.image)
    elif not found.problem:
        raise UserError(
            f"the set holds no image of {found.record.key!r}, only its text; leave --image out."
        )


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
        if kind in summary.clip_scores:
            fit = summary.clip_scores[kind]
            without = f", {number - fit.count:,} without" if fit.count < number else ""
            lines.append(f"  image and text: {_spread(fit)}{without}")
        lines.append(f"  sources: {_most(summary.sources[kind])}")
    if summary.scores is not None:
        lines.append(f"  score: {_spread(summary.scores)}")
    left_out = f", {summary.without_images:,} left out" if summary.without_images else ""
    lines.append(f"images: {_most(summary.images)}{left_out}")
    for title, values in (
        ("licences", summary.licenses),
        ("languages", summary.languages),
        ("nsfw", summary.nsfw),
    ):
        lines.append(f"{title}: {_most(values)}{_without(summary, sum(values.values()))}")
    for name, found in summary.safety.items():
        if found is None:
            lines.append(f"{name}: none has it")
        else:
            lines.append(f"{name}: {_spread(found)}{_without(summary, found.count)}")
    for stage, counts in sorted(summary.counts.items()):
        dropped = "".join(f", {why} {number:,}" for why, number in sorted(counts.dropped.items()))
        lines.append(f"{stage}: read {counts.read:,}, kept {counts.kept:,}{dropped}")
    return lines


def _sample_lines(found: Found) -> list[str]:
    record = found.record.model_dump(exclude_none=True)
    lines = [f"{record.pop('key')}: {record.pop('kind')}"]
    lines += [
        f"  {name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in record.items()
        if value != []
    ]
    lines.append(f"in {found.shard}, sample {found.row}:")
    for member, where in found.members.items():
        place = f"{where['size']:,} bytes from {where['offset']:,}" if where else "not in the set"
        lines.append(f"  {member}: {place}")
    if found.header is not None:
        lines.append("  the image is {ext}, {width} x {height}".format_map(found.header))
    if found.problem is not None:
        lines.append(f"  BAD: {found.problem}")
    return lines


def _most(values: Mapping[str, int]) -> str:
    """The most frequent values and their numbers."""
    ordered = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{name} {number:,}" for name, number in ordered[:_SHOWN])
    more = f", and {len(ordered) - _SHOWN:,} more" if len(ordered) > _SHOWN else ""
    return shown + more or "none has one"


def _without(summary: Summary, given: int) -> str:
    return f"; {summary.samples - given:,} without" if 0 < given < summary.samples else ""


def _spread(values: Spread) -> str:
    return (
        f"{values.least:.4g} to {values.most:.4g}, median {values.median:.4g}, "
        f"mean {values.mean:.4g}"
    )


def _plain(line: str) -> str:
    """Names and texts are anybody's: no character of them may steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
