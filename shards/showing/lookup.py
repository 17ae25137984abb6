"""One anchor of a set, found by its key: its record, where it lies, and its image."""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from schemas.errors import BadSample, UserError
from schemas.manifest import ShardEntry
from schemas.record import AnchorRecord
from schemas.tables import MEMBERS
from shards.images import decode_image
from shards.reader import AnchorSet, RangeReader, read_image, read_record

_NEIGHBOURS = 40


@dataclass(frozen=True)
class Found:
    """An anchor and its place.

    Attributes:
        record: what the set says of it.
        image: its bytes; None if the set is without, or they are not those of the record.
        problem: what is wrong with the image, as ``reason: detail``.
        header: ext, width, height and bytes of the image, by its own header.
        shard: the tar, below the set.
        row: its number in the tar.
        members: offset and size in the tar of image, text and record.
    """

    record: AnchorRecord
    image: bytes | None
    problem: str | None
    header: dict[str, Any] | None
    shard: str
    row: int
    members: dict[str, dict[str, int] | None]

    def as_json(self) -> dict[str, Any]:
        """Plain values; the image's bytes are left out."""
        return {
            "record": self.record.model_dump(exclude_none=True),
            "shard": self.shard,
            "row": self.row,
            "members": self.members,
            "image": self.header,
            "problem": self.problem,
        }


def find(anchors: AnchorSet, key: str) -> Found:
    """Look a key up in the parquets.

    Raises:
        UserError: the set has no such key, or a parquet is missing or was changed.
    """
    keys: list[str] = []
    for shard in anchors.manifest.shards:
        column = anchors.table(shard).column("key")
        row = pc.index(column, key).as_py()
        if row >= 0:
            return _found(anchors, shard, row)
        keys += column.to_pylist()
    near = ", ".join(nearest(key, keys)) or "none at all"
    raise UserError(f"{anchors.root!r} has no sample {key!r}; the nearest keys are {near}.")


def _found(anchors: AnchorSet, shard: ShardEntry, row: int) -> Found:
    values = anchors.table(shard).slice(row, 1).to_pylist()[0]
    image, header, problem = None, None, None
    try:
        record = read_record(values)
    except BadSample as bad:
        raise UserError(
            f"{anchors.root!r}, {shard.index.path}: sample {values['key']!r} is broken ({bad}); "
            f"anchorft-shards verify tells what else is."
        ) from None
    try:
        with RangeReader() as reader:
            image = read_image(reader, anchors.place(shard), values)
        if image is not None:
            header = asdict(decode_image(image)[1]) | {"bytes": len(image)}
    except BadSample as bad:
        problem = str(bad)
    members = {
        member: None
        if values[f"{member}_offset"] is None
        else {"offset": values[f"{member}_offset"], "size": values[f"{member}_size"]}
        for member in MEMBERS
    }
    return Found(record, image, problem, header, shard.path, row, members)


def nearest(key: str, keys: Iterable[str], number: int = 3) -> list[str]:
    """The keys most like one that is not among them.

    Comparing with each of millions would take minutes. Whatever was mistyped, the part before or
    after it is right: so only those near it in the order of the keys, or of the keys read
    backwards, are compared.
    """
    near: set[str] = set()
    known = set(keys)
    for turn in (1, -1):
        ordered = sorted(one[::turn] for one in known)
        at = bisect.bisect(ordered, key[::turn])
        near |= {one[::turn] for one in ordered[max(at - _NEIGHBOURS, 0) : at + _NEIGHBOURS]}
    return difflib.get_close_matches(key, sorted(near), number, cutoff=0.0)
