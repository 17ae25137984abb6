"""Writing shards: deterministic tars with a parquet of records beside them, the manifest last."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.manifest import MANIFEST_NAME, FileEntry, Manifest, ShardEntry
from schemas.record import SINCE_1_0, AnchorRecord, Kind, canonical_json
from schemas.tables import MEMBERS, RECORDS
from shards import places

_TAR_BLOCK = 512
_KNOWN = frozenset(AnchorRecord.model_fields)


class _Hashed:
    """A write-only file that counts and hashes what passes through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0
        self.abandoned = False

    def write(self, data: bytes) -> int:
        if self.abandoned:  # tarfile still flushes when it is collected
            return len(data)
        self._digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def entry(self, path: str) -> FileEntry:
        return FileEntry(path=path, bytes=self.size, sha256=self._digest.hexdigest())


def write_shard(
    root: str,
    kind: Kind,
    number: int,
    samples: Iterable[tuple[AnchorRecord, bytes | None]],
) -> ShardEntry:
    """Write ``ROOT/KIND/NNNNN.tar`` and the parquet beside it, each atomically.

    The tar is plain webdataset: per sample ``KEY.jpg`` (or png, webp; left out where the bytes
    are None), ``KEY.txt``, ``KEY.json``, in this order, with fixed owner, mode and time.

    Args:
        root: folder of the set, local or remote.
        kind: kind of anchor, which names the subfolder.
        number: of the shard within its kind.
        samples: records in order, with the original bytes of the image.

    Returns:
        The manifest's entry for the shard.
    """
    path = f"{kind}/{number:05d}.tar"
    rows: list[dict[str, Any]] = []
    with places.atomic_write(places.join(root, path)) as file:
        hashed = _Hashed(file)
        # Streaming mode: the writer must not seek, since the hash sees bytes in their order.
        # These are the bytes of webdataset's TarWriter; to import that one takes torch along,
        # which would cost every command two seconds.
        stream: Any = hashed  # write-only, which is all that this mode asks for
        tar = tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        try:
            for record, image in samples:
                text, record_json = record.text.encode(), record.to_json().encode()
                row = record_row(record)
                members = zip(
                    MEMBERS,
                    (record.image_ext, "txt", "json"),
                    (image, text, record_json),
                    strict=True,
                )
                for name, ext, data in members:
                    if data is None:
                        continue
                    tar.addfile(_member(f"{record.key}.{ext}", len(data)), io.BytesIO(data))
                    # From the end, since a long name takes more than one header block.
                    padded = -(-len(data) // _TAR_BLOCK) * _TAR_BLOCK
                    row[f"{name}_offset"] = tar.offset - padded
                    row[f"{name}_size"] = len(data)
                rows.append(row)
        except BaseException:
            hashed.abandoned = True
            raise
        tar.close()
        entry = hashed.entry(path)
    index = write_table(root, path.replace(".tar", ".parquet"), rows_to_table(rows))
    images = sum("image_offset" in row for row in rows)
    return ShardEntry(
        **entry.model_dump(),
        kind=kind,
        samples=len(rows),
        images=None if images == len(rows) else images,
        index=index,
    )


def _member(name: str, size: int) -> tarfile.TarInfo:
    """The header of a member; nothing in it depends on who writes, or when."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o444
    member.mtime = 0
    member.uname = member.gname = "anchorft"
    return member


def record_row(record: AnchorRecord) -> dict[str, Any]:
    """The record as a row of schemas.tables.RECORDS, without the member offsets."""
    return as_row(record.model_dump(exclude_none=True))


def as_row(values: dict[str, Any]) -> dict[str, Any]:
    """A record's fields, those that are None left out, as record_row gives them."""
    extra = {name: values.pop(name) for name in list(values) if name not in _KNOWN}
    # Beside their columns: a reader of 1.0 then finds the parquet equal to the tar.
    extra |= {name: values[name] for name in SINCE_1_0 if name in values}
    if extra:
        values["extra"] = canonical_json(extra)
    return values


def row_record(row: dict[str, Any]) -> AnchorRecord:
    """The record that a row of the parquet holds; the inverse of record_row."""
    values = {name: value for name, value in row.items() if name in _KNOWN and value is not None}
    if row.get("extra"):
        values.update(json.loads(row["extra"]))
    return AnchorRecord.model_validate(values)


def rows_to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table of schemas.tables.RECORDS; absent fields are null."""
    return pa.Table.from_pylist(rows, schema=RECORDS)


def write_table(root: str, path: str, table: pa.Table) -> FileEntry:
    """Write a parquet atomically and return its manifest entry."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return write_file(root, path, sink.getvalue().to_pybytes())


def write_file(root: str, path: str, data: bytes) -> FileEntry:
    """Write another file of the set (data card, gallery) and return its manifest entry."""
    places.write_bytes(places.join(root, path), data)
    return FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_manifest(root: str, manifest: Manifest) -> None:
    """Write ``anchor_set.json``; call it last, since it makes the folder an anchor set."""
    places.write_bytes(places.join(root, MANIFEST_NAME), manifest.to_json().encode())
