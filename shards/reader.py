"""Reading anchor sets: the manifest, the records, and any sample's bytes by offset."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
from pydantic import ValidationError

from schemas.errors import BadSample, UserError
from schemas.manifest import MANIFEST_NAME, Manifest, ShardEntry
from schemas.record import AnchorRecord, Kind, first_error
from shards import places
from shards.guards import MAX_MANIFEST_BYTES, check_inside
from shards.parquet import MAX_FILE_BYTES, read_records
from shards.tars import MAX_MEMBER_BYTES, OnBad
from shards.writer import row_record


@dataclass(frozen=True)
class AnchorSet:
    """An anchor set that is on a disk or in a store; reads lazily.

    Attributes:
        root: the set's folder.
        manifest: its manifest, already checked against the schema and its own seal.
    """

    root: str
    manifest: Manifest

    @classmethod
    def open(cls, root: str) -> AnchorSet:
        """Open a set.

        Raises:
            UserError: the folder holds no manifest, or one that is broken or of another version; a
            file of the set is a link out of its folder, a pipe or a device.
        """
        place = places.join(root, MANIFEST_NAME)
        if not places.exists(place):
            raise UserError(
                f"{root!r} is not an anchor set: it holds no {MANIFEST_NAME} (an unfinished build "
                f"has none)."
            )
        manifest = Manifest.from_json(places.read_limited(place, MAX_MANIFEST_BYTES), place)
        if places.is_local(root):
            check_inside(places.local_path(root), (file.path for file in manifest.entries()))
        return cls(root, manifest)

    def shards(self, kind: Kind | None = None) -> list[ShardEntry]:
        """The shards of a kind (default: all), in the manifest's order."""
        return [shard for shard in self.manifest.shards if kind is None or shard.kind == kind]

    def table(self, shard: ShardEntry) -> pa.Table:
        """The records of a shard and its members' offsets (schemas.tables.RECORDS).

        Raises:
            UserError: the parquet is missing, changed, or not of this schema.
        """
        place = places.join(self.root, shard.index.path)
        data = places.read_limited(place, MAX_FILE_BYTES)
        if hashlib.sha256(data).hexdigest() != shard.index.sha256:
            raise UserError(f"{place!r} is not the file that the manifest names; fetch it again.")
        return read_records(data, place, shard.samples)

    def place(self, shard: ShardEntry) -> str:
        """Where a shard's tar lies."""
        return places.join(self.root, shard.path)

    def owns(self, place: str) -> bool:
        """True if ``place`` is one of the set's own files, which nothing else may overwrite."""
        paths = [MANIFEST_NAME, *(file.path for file in self.manifest.entries())]
        own = (places.join(self.root, path) for path in paths)
        return _real(place) in set(map(_real, own))

    def samples(
        self, on_bad: OnBad, kind: Kind | None = None
    ) -> Iterator[tuple[AnchorRecord, bytes | None]]:
        """Every record with its image's bytes (None in a set without images), in order.

        Args:
            on_bad: told of an image whose bytes are not those of the record.
            kind: only this kind.
        """
        with RangeReader() as reader:
            for shard in self.shards(kind):
                place = self.place(shard)
                for row in self.table(shard).to_pylist():
                    try:
                        yield read_row(reader, place, row)
                    except BadSample as problem:
                        on_bad(str(row["key"]), problem)


def _real(place: str) -> str:
    return os.path.realpath(places.local_path(place)) if places.is_local(place) else place


def read_row(
    reader: RangeReader, place: str, row: dict[str, Any]
) -> tuple[AnchorRecord, bytes | None]:
    """The record that a row holds and its image's bytes (None in a set without images).

    Raises:
        BadSample: ``bad_record``, ``bad_range`` or ``hash_mismatch``.
    """
    return read_record(row), read_image(reader, place, row)


def read_record(row: dict[str, Any]) -> AnchorRecord:
    """The record that a row of somebody's parquet holds.

    Raises:
        BadSample: ``bad_record``, with the first thing that is wrong.
    """
    try:
        return row_record(row)
    except ValidationError as error:
        raise BadSample("bad_record", first_error(error)) from None
    except ValueError as error:  # the unknown fields are not JSON
        raise BadSample("bad_record", f"extra: {error}") from None


def read_image(reader: RangeReader, place: str, row: dict[str, Any]) -> bytes | None:
    """The bytes of a row's image, checked against its hash; None if the set has no images.

    Raises:
        BadSample: ``hash_mismatch``: the tar was changed or cut after it was written;
            ``bad_range``: no tar of ours holds such an image.
    """
    offset, size = row["image_offset"], row["image_size"]
    if offset is None:
        return None
    # Below 2^62, so that offset and size together are still an offset to the system.
    if not 0 <= offset < 1 << 62 or size is None or not 0 <= size <= MAX_MEMBER_BYTES:
        raise BadSample("bad_range", f"{row['key']} in {place}: {size} bytes from {offset}")
    data = reader.read(place, offset, size)
    if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
        raise BadSample("hash_mismatch", f"{row['key']} in {place}")
    return data


@dataclass
class RangeReader:
    """Reads byte ranges and keeps the last few files open; one per process or thread.

    Local files are read with pread, so that a range costs one system call.
    """

    keep: int = 32
    _open: OrderedDict[str, int | BinaryIO] = field(default_factory=OrderedDict, repr=False)

    def read(self, place: str, offset: int | None, size: int) -> bytes:
        """``size`` bytes of ``place`` from ``offset`` (None: from the start).

        Raises:
            UserError: the file is not there.
        """
        handle = self._handle(place)
        if isinstance(handle, int):
            return os.pread(handle, size, offset or 0)
        handle.seek(offset or 0)
        return handle.read(size)

    def _handle(self, place: str) -> int | BinaryIO:
        if place in self._open:
            self._open.move_to_end(place)
            return self._open[place]
        if places.is_local(place):
            try:
                handle: int | BinaryIO = os.open(places.local_path(place), os.O_RDONLY)
            except (FileNotFoundError, IsADirectoryError):
                raise UserError(f"{place!r} is not there; check the path.") from None
        else:
            handle = places.open_read(place)
        self._open[place] = handle
        if len(self._open) > self.keep:
            _close(self._open.popitem(last=False)[1])
        return handle

    def close(self) -> None:
        """Close every file."""
        while self._open:
            _close(self._open.popitem()[1])

    def __enter__(self) -> RangeReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _close(handle: int | BinaryIO) -> None:
    if isinstance(handle, int):
        os.close(handle)
    else:
        handle.close()
