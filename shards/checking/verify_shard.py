"""One shard under check: its tar, its parquet, and whether they say the same."""

from __future__ import annotations

import hashlib
import io
import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
from PIL import Image

from schemas.errors import BadSample
from schemas.manifest import ShardEntry
from schemas.record import (
    IMAGE_EXTENSIONS,
    TEXT_COMPENSATED,
    AnchorRecord,
    Kind,
    anchor_key,
    canonical_json,
)
from schemas.tables import MEMBERS, RECORDS
from shards.checking.findings import Tell
from shards.checking.strict_tar import HashedReader, Member, members
from shards.images import decode_image
from shards.parquet import BadParquet, read_records
from shards.writer import as_row, rows_to_table

Images = Literal["all", "sampled", "none"]
SAMPLED_IMAGES = 8
"""Images that are hashed and decoded of each shard, where not all are."""

_FIELD = dict.fromkeys(IMAGE_EXTENSIONS, "image") | {"txt": "text", "json": "record"}
_LARGE_PIXELS = 16_000_000
_one_large_image = threading.Lock()  # its pixels are many times its bytes


@dataclass
class TarContents:
    """What a tar holds.

    Attributes:
        rows: of the parquet, as they follow from the tar; samples without a record left out.
        samples: how many samples there are, broken ones included.
        images: how many images were hashed and decoded.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: int = 0
    images: int = 0


def sampled(shard: ShardEntry, images: Images, seed: int) -> Callable[[int], bool]:
    """Which samples' images to look at, by their number in the shard."""
    if images != "sampled":
        return lambda number: images == "all"
    chooser = random.Random(f"{seed} {shard.path}")
    number = min(SAMPLED_IMAGES, shard.samples)
    chosen = set(chooser.sample(range(shard.samples), number))
    return chosen.__contains__


def read_shard_tar(
    file: HashedReader,
    kind: Kind,
    classes: Sequence[str],
    tell: Tell,
    *,
    look: Callable[[int], bool],
    decode: bool,
    guide: Mapping[int, tuple[str, int]] | None = None,
) -> TarContents:
    """Check the tar of a shard from front to back.

    Args:
        file: at the start of the tar.
        kind: that its anchors must have.
        classes: of the manifest.
        tell: told of every fault.
        look: whether to hash the image of a sample, by the sample's number.
        decode: whether to decode those images too.
        guide: see shards.checking.strict_tar.members.
    """
    found = TarContents()
    sample: dict[str, Member] = {}
    key = ""

    def close() -> None:
        nonlocal sample
        if sample:
            found.samples += 1
            _check_sample(found, key, sample, kind, classes, tell, decode=decode)
        sample = {}

    def want(name: str) -> bool:
        # An image begins its sample, so it is the one after those that are closed or open.
        return name.endswith((".txt", ".json")) or look(found.samples + bool(sample))

    for member in members(file, tell, want, guide):
        stem, _, ext = member.name.partition(".")
        what = _FIELD.get(ext)
        if what is None or "/" in stem:
            tell(stem, "odd_member", f"{member.name!r} is no member of a sample")
            continue
        last = MEMBERS.index(next(reversed(sample))) if sample else -1
        if stem != key or MEMBERS.index(what) <= last:
            close()
            key = stem
        sample[what] = member
        if what == "image" and member.name != f"{stem}.{ext}":
            tell(stem, "odd_member", f"{member.name!r} is no member of a sample")
    close()
    return found


def _check_sample(
    found: TarContents,
    key: str,
    sample: dict[str, Member],
    kind: Kind,
    classes: Sequence[str],
    tell: Tell,
    *,
    decode: bool,
) -> None:
    """Check one sample and add its row."""
    missing = [name for name in ("text", "record") if name not in sample]
    if missing:
        held = ", ".join(member.name for member in sample.values())
        tell(key, "incomplete_sample", f"it has no {' and no '.join(missing)}, only {held}")
    if kind != TEXT_COMPENSATED and "image" not in sample:
        tell(key, "incomplete_sample", "it has no image")
    text = sample["text"].data if "text" in sample else None
    _check_text(key, text, tell)
    data = sample["record"].data if "record" in sample else None
    if data is None:
        return
    try:
        record = AnchorRecord.from_json(data)
    except BadSample as problem:
        tell(key, problem.reason, problem.detail)
        return
    values = record.model_dump(exclude_none=True)
    if canonical_json(values).encode() != data:  # record.to_json, whose values the row needs too
        tell(key, "not_canonical", f"{sample['record'].name} is not the canonical JSON of its data")
    if text is not None and text != record.text.encode():
        tell(key, "text_differs", f"{sample['text'].name} is not the text of the record")
    _check_record(key, record, kind, classes, tell)
    image = sample.get("image")
    if image is not None:
        _check_image(key, image, record, tell, decode=decode)
        found.images += image.data is not None and decode
    row = as_row(values)
    for name, member in sample.items():
        row[f"{name}_offset"] = member.offset
        row[f"{name}_size"] = member.size
    found.rows.append(row)


def _check_text(key: str, text: bytes | None, tell: Tell) -> None:
    if text is None:
        return
    try:
        empty = not text.decode().strip()
    except UnicodeDecodeError as error:
        tell(key, "text_not_utf8", f"{key}.txt has a byte that is no UTF-8 at {error.start:,}")
        return
    if empty:
        tell(key, "empty_text", f"{key}.txt holds no text")


def _check_record(
    key: str, record: AnchorRecord, kind: Kind, classes: Sequence[str], tell: Tell
) -> None:
    if record.key != key:
        tell(key, "key_differs", f"its record says {record.key}")
    if record.kind != kind:
        tell(key, "kind_differs", f"its record says {record.kind}, the shard {kind}")
    due = anchor_key(record.kind, record.image_sha256, record.source, record.source_key)
    if record.key != due:
        tell(key, "bad_key", f"from its image and source follows {due}")
    index = record.class_index
    if index is not None and classes[index : index + 1] != [record.class_name]:
        tell(key, "bad_class", f"class {index} of the manifest is not {record.class_name!r}")
    if record.texts and record.texts[0] != record.text:
        tell(key, "text_differs", "texts does not begin with text")


def _check_image(
    key: str, image: Member, record: AnchorRecord, tell: Tell, *, decode: bool
) -> None:
    if image.name != f"{key}.{record.image_ext}":
        tell(key, "image_differs", f"the record says {record.image_ext}, the tar {image.name}")
    if image.data is None:
        return
    if hashlib.sha256(image.data).hexdigest() != record.image_sha256:
        tell(key, "hash_mismatch", f"{image.name} is not the image of the record")
        return
    if not decode:
        return
    try:
        ext, width, height = _decode(image.data)
    except BadSample as problem:
        tell(key, problem.reason, f"{image.name}: {problem.detail}")
        return
    if (width, height) != (record.width, record.height):
        tell(key, "image_differs", f"{image.name} is {width} x {height} pixels, not as recorded")
    if ext != record.image_ext.replace("jpeg", "jpg"):
        tell(key, "image_differs", f"{image.name} is a {ext} file")


def _decode(data: bytes) -> tuple[str, int, int]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            large = image.width * image.height > _LARGE_PIXELS
    except Exception:  # decode_image knows how to say what is wrong
        large = False
    if large:
        with _one_large_image:
            info = decode_image(data)[1]
    else:
        info = decode_image(data)[1]
    return info.ext, info.width, info.height


def read_index(data: bytes, tell: Tell) -> pa.Table | None:
    """The parquet as a table of schemas.tables.RECORDS; None, and told, if it is none."""
    try:
        return read_records(data, "")
    except BadParquet as error:
        tell("", "bad_parquet", error.detail)
        return None


def guide_from(table: pa.Table) -> dict[int, tuple[str, int]]:
    """Where a parquet says that members lie: data offset to (name, size)."""
    found: dict[int, tuple[str, int]] = {}
    for row in table.to_pylist():
        for name, ext in zip(MEMBERS, (row["image_ext"], "txt", "json"), strict=True):
            offset, size = row[f"{name}_offset"], row[f"{name}_size"]
            if offset is not None and size is not None and size >= 0:
                found[offset] = (f"{row['key']}.{ext}", size)
    return found


def compare(table: pa.Table, rows: list[dict[str, Any]], tell: Tell, told: Collection[str]) -> None:
    """Tell where the parquet and the rows that follow from the tar differ.

    Args:
        table: of the parquet.
        rows: that follow from the tar.
        tell: told by sample.
        told: samples that are known to be broken in the tar; their rows say nothing new.
    """
    try:
        if table.equals(rows_to_table(rows)):
            return
    except (pa.ArrowException, OverflowError):
        pass  # a number that no column holds: found below
    ours = {row["key"]: row for row in rows}
    theirs = {row["key"]: row for row in table.to_pylist()}
    for key in sorted(ours.keys() | theirs.keys()):
        if key in told:
            continue
        if key not in theirs:
            tell(key, "not_in_parquet", "the tar has this sample, the parquet has no row of it")
        elif key not in ours:
            tell(key, "not_in_tar", "the parquet has a row of this sample, which the tar lacks")
        else:
            odd = [name for name in RECORDS.names if ours[key].get(name) != theirs[key][name]]
            if odd:
                tell(key, "parquet_differs", f"parquet and tar differ in {', '.join(odd)}")
    if [row["key"] for row in rows] != table.column("key").to_pylist():
        common = ours.keys() & theirs.keys()
        order = [key for key in table.column("key").to_pylist() if key in common]
        if order != [row["key"] for row in rows if row["key"] in common]:
            tell("", "parquet_order", "its rows are not in the order of the tar, or one is twice")
