"""``verify``: whether a set is whole and follows the format, and if not, all that is wrong.

Every file is read once. What the manifest says of it is checked first (size, SHA-256), what it
holds in the same pass. A shard in which something is wrong is read again, more closely, so that
the report can name the samples.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME, FileEntry, Manifest, ShardEntry
from shards import places
from shards.checking.findings import FETCH, REWRITE, Finding, Tell
from shards.checking.listing import Found, list_files, status
from shards.checking.strict_tar import HashedReader
from shards.checking.verify_manifest import newer_minor, read_manifest
from shards.checking.verify_shard import (
    Images,
    TarContents,
    compare,
    guide_from,
    read_index,
    read_shard_tar,
    sampled,
)
from shards.guards import MAX_MANIFEST_BYTES

OnBytes = Callable[[int, int], None]
"""Called with the bytes that were read since the last call, and the bytes of the whole set."""


@dataclass
class Report:
    """What was looked at, and what was found.

    Attributes:
        digest: of the set, if its manifest could be read.
        findings: all that is wrong, by file and sample.
        notes: what lies in the folder beside the set and does no harm, with the reason.
        files, bytes, samples, images: how much was looked at.
    """

    digest: str | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    samples: int = 0
    images: int = 0

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``verify --json``."""
        values = {name: value for name, value in vars(self).items() if name != "findings"}
        return values | {"ok": self.ok, "findings": [one.as_json() for one in self.findings]}


def verify(
    root: str,
    *,
    images: Images = "sampled",
    seed: int = 0,
    threads: int | None = None,
    on_bytes: OnBytes = lambda read, total: None,
) -> Report:
    """Check a set.

    Args:
        root: its folder, local or remote.
        images: of which samples to hash and decode the image: all, a few of each shard, none.
            The tar's SHA-256 covers every image in any case.
        seed: chooses those few.
        threads: that read at once; default: one per processor, at most 8.
        on_bytes: told of progress.

    Raises:
        UserError: there is no such folder, or the set is of another major version.
    """
    found = list_files(root)
    if not found:
        raise UserError(f"{root!r} is empty; check the path.")
    report = Report(files=1)
    manifest = _manifest(root, found, report)
    if manifest is not None:
        check = _Check(root, manifest, found, report, images, seed, on_bytes)
        check.run(threads or min(8, os.cpu_count() or 1))
    report.findings.sort()
    return report


def _manifest(root: str, found: dict[str, Found], report: Report) -> Manifest | None:
    def tell(sample: str, reason: str, detail: str) -> None:
        report.findings.append(Finding(MANIFEST_NAME, sample, reason, detail, FETCH))

    here = found.get(MANIFEST_NAME)
    if here is None:
        tell("", "missing", "there is no manifest; a write that was cut off leaves none")
    elif here.problem:
        tell("", "not_a_file", here.problem)
    elif here.size > MAX_MANIFEST_BYTES:
        tell("", "bad_manifest", f"{here.size:,} bytes are too many for a manifest")
    else:
        place = places.join(root, MANIFEST_NAME)
        manifest = read_manifest(places.read_bytes(place), place, tell)
        if manifest is not None:
            report.digest = manifest.digest
            if newer_minor(manifest):
                report.notes[MANIFEST_NAME] = (
                    f"format {manifest.format_version} is newer than this anchorft, which checks "
                    f"what it knows of it"
                )
        return manifest
    return None


class _Check:
    """One run over the files that a manifest names, and those that it does not."""

    def __init__(
        self,
        root: str,
        manifest: Manifest,
        found: dict[str, Found],
        report: Report,
        images: Images,
        seed: int,
        on_bytes: OnBytes,
    ) -> None:
        self._root = root
        self._manifest = manifest
        self._found = found
        self._report = report
        self._images = images
        self._seed = seed
        self._on_bytes = on_bytes
        # A manifest that was changed may be wrong about files that are right.
        self._doubtful = any(one.reason == "bad_seal" for one in report.findings)
        self._lock = threading.Lock()
        pairs = [file for shard in manifest.shards for file in (shard, shard.index)]
        self._entries = {file.path: file for file in [*pairs, *manifest.files]}
        self._named = {file.sha256: file.path for file in self._entries.values()}
        self._total = sum(file.bytes for file in self._entries.values())
        self._extra: dict[str, str] = {}  # SHA-256 of unlisted files that may be copies
        self._keys: dict[str, pa.Array] = {}

    def run(self, threads: int) -> None:
        """Check everything; the findings are in no order."""
        with ThreadPoolExecutor(threads) as pool:
            tasks = [pool.submit(self._shard, shard) for shard in self._manifest.shards]
            tasks += [pool.submit(self._file, file) for file in self._manifest.files]
            tasks += [pool.submit(self._unlisted, path) for path in self._beside()]
            try:
                for task in tasks:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
        self._missing_and_extra()
        self._unique_keys()
        self._report.files += len(self._entries)
        self._report.bytes = self._total

    def _beside(self) -> list[str]:
        """What the manifest does not name; harmless things are noted."""
        extra = []
        for path in self._found:
            if path == MANIFEST_NAME or path in self._entries:
                continue
            match status(path):
                case "left by a write":
                    self._report.notes[path] = "left by a write that was cut off; delete it"
                case "not ours":
                    self._report.notes[path] = "not of the set"
                case _:
                    extra.append(path)
        return extra

    def _tell(self, file: str, remedy: str = FETCH) -> Tell:
        if self._doubtful:
            remedy = (
                f"fetch {MANIFEST_NAME} again first, and verify with it: it may be what is wrong"
            )

        def tell(sample: str, reason: str, detail: str) -> None:
            finding = Finding(file, sample, reason, detail, remedy)
            with self._lock:
                self._report.findings.append(finding)

        return tell

    def _read(self, number: int) -> None:
        with self._lock:
            self._on_bytes(number, self._total)

    def _open(self, path: str) -> BinaryIO:
        place = places.join(self._root, path)
        if places.is_local(place):  # unbuffered: the reader has a buffer of its own
            return Path(places.local_path(place)).open("rb", buffering=0)  # type: ignore[return-value]
        return places.open_read(place)

    def _present(self, file: FileEntry) -> bool:
        """Whether a file is there to be read; what is missing is told at the end."""
        here = self._found.get(file.path)
        if here is not None and here.problem:
            remedy = "put the file itself there, for example with cp -L"
            self._tell(file.path, remedy)("", "not_a_file", here.problem)
        return here is not None and not here.problem

    def _fits(self, file: FileEntry, sha256: str, size: int) -> bool:
        """Whether a file is the one that the manifest names; told, if not."""
        if (sha256, size) == (file.sha256, file.bytes):
            return True
        tell = self._tell(file.path)
        if sha256 in self._named:
            other = self._named[sha256]
            remedy = f"it was renamed or swapped: give it its own name, {other}"
            self._tell(file.path, remedy)("", "swapped", f"it holds the bytes of {other}")
        elif size != file.bytes:
            tell("", "wrong_size", f"it has {size:,} bytes, not {file.bytes:,}")
        else:
            tell("", "wrong_digest", f"its SHA-256 is {sha256}, not {file.sha256}")
        return False

    def _file(self, file: FileEntry) -> None:
        if not self._present(file):
            return
        try:
            self._fits(file, *self._hash(file.path))
        except (OSError, UserError) as error:
            self._tell(file.path)("", "unreadable", str(error))

    def _hash(self, path: str) -> tuple[str, int]:
        with self._open(path) as opened:
            return HashedReader(opened, self._read).finish()

    def _unlisted(self, path: str) -> None:
        """Hash a file that may be a listed one under another name."""
        here = self._found[path]
        if not here.problem and any(f.bytes == here.size for f in self._entries.values()):
            try:
                self._extra[path] = self._hash(path)[0]
            except (OSError, UserError):
                return

    def _shard(self, shard: ShardEntry) -> None:
        try:
            table, index_fits = self._index(shard)
            if self._present(shard):
                self._tar(shard, table, index_fits)
        except (OSError, UserError) as error:
            self._tell(shard.path)("", "unreadable", str(error))

    def _index(self, shard: ShardEntry) -> tuple[pa.Table | None, bool]:
        """The parquet of a shard, and whether it is the one that the manifest names."""
        file = shard.index
        if not self._present(file):
            return None, False
        size = self._found[file.path].size
        if size != file.bytes:  # not read: it may be of any size
            self._fits(file, self._hash(file.path)[0], size)
            return None, False
        with self._open(file.path) as opened:
            reader = HashedReader(opened, self._read)
            data = reader.take(size)
            sha256, size = reader.finish()
        if not self._fits(file, sha256, size):
            return None, False
        tell = self._tell(file.path, REWRITE)
        table = read_index(data, tell)
        if table is not None and table.num_rows != shard.samples:
            tell("", "sample_count", f"it has {table.num_rows:,} rows, not {shard.samples:,}")
        return table, True

    def _tar(self, shard: ShardEntry, table: pa.Table | None, index_fits: bool) -> None:
        faults: list[tuple[str, str, str]] = []
        look = sampled(shard, self._images, self._seed)
        contents, sha256, size = self._pass(shard, faults, look, self._read)
        fits = self._fits(shard, sha256, size)
        if not fits and sha256 in self._named:
            return  # a whole file, of another shard
        if not fits or faults:
            faults.clear()
            guide = guide_from(table) if table is not None else None
            every = self._images != "none" or not fits
            contents, _, _ = self._pass(shard, faults, lambda n: every or look(n), None, guide)
        tell = self._tell(shard.path, REWRITE if fits else FETCH)
        for sample, reason, detail in faults:
            tell(sample, reason, detail)
        images = shard.samples if shard.images is None else shard.images
        held = sum("image_offset" in row for row in contents.rows)
        if fits and not faults and held != images:
            tell("", "image_count", f"it has {held:,} images, not {images:,}")
        if contents.samples != shard.samples:
            tell("", "sample_count", f"it has {contents.samples:,} samples, not {shard.samples:,}")
        if table is not None and index_fits:
            side = self._tell(shard.index.path, REWRITE) if fits else tell
            compare(table, contents.rows, side, {sample for sample, _, _ in faults})
        with self._lock:
            self._keys[shard.path] = pa.array([row["key"] for row in contents.rows], pa.string())
            self._report.samples += contents.samples
            self._report.images += contents.images

    def _pass(
        self,
        shard: ShardEntry,
        faults: list[tuple[str, str, str]],
        look: Callable[[int], bool],
        on_bytes: Callable[[int], None] | None,
        guide: dict[int, tuple[str, int]] | None = None,
    ) -> tuple[TarContents, str, int]:
        """Read a tar from front to back; returns contents, SHA-256 and size."""
        with self._open(shard.path) as opened:
            reader = HashedReader(opened, on_bytes or (lambda number: None))
            contents = read_shard_tar(
                reader,
                shard.kind,
                self._manifest.classes,
                lambda *fault: faults.append(fault),
                look=look,
                decode=self._images != "none",
                guide=guide,
            )
            return contents, *reader.finish()

    def _missing_and_extra(self) -> None:
        missing = {f.sha256: f.path for f in self._entries.values() if f.path not in self._found}
        moved = {sha: path for path, sha in self._extra.items() if sha in missing}
        for sha256, path in missing.items():
            other = moved.get(sha256)
            if other is None:
                self._tell(path)("", "missing", "the manifest names it, but it is not there")
            else:
                remedy = f"rename {other} back to {path}"
                self._tell(path, remedy)("", "renamed", f"its bytes are in {other}")
        for path in self._beside():
            sha256 = self._extra.get(path, "")
            detail, remedy = "the manifest does not name it", "delete it, or move it elsewhere"
            if moved.get(sha256) == path:
                detail, remedy = f"it is {missing[sha256]} under another name", "rename it back"
            elif sha256 in self._named:
                detail, remedy = f"it is a copy of {self._named[sha256]}", "delete it"
            elif self._found[path].problem:
                detail += f"; {self._found[path].problem}"
            self._tell(path, remedy)("", "extra", detail)

    def _unique_keys(self) -> None:
        """Keys are unique over the whole set."""
        if not self._keys:
            return
        counts = pc.value_counts(pa.chunked_array(list(self._keys.values()), pa.string()))
        twice = set(
            counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
        )
        if not twice:
            return
        for path, keys in self._keys.items():
            for key in filter(twice.__contains__, keys.to_pylist()):
                detail = "the key stands more than once in the set"
                self._tell(path, REWRITE)(key, "duplicate_key", detail)
