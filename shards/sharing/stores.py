"""Where files of a set are sent: a local folder or an fsspec store, both checked by digest."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.callbacks import Callback

from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME, FileEntry
from schemas.record import KINDS
from shards import places
from shards.guards import MAX_MANIFEST_BYTES, check_inside

OnBytes = Callable[[int], None]
"""Told how many bytes more went through."""

_S3_PART = 50 << 20  # of s3fs, which sends files of less than two parts in one piece
_S3_MAX_PARTS = 10_000
_HEX = "[0-9a-f]"


class DamagedFile(UserError):
    """A file is not the one that its manifest names."""


class Folder:
    """A local folder as target: each file under a temporary name until its digest is right.

    The temporary name is a function of the content, so that the same file, sent again after a
    break, goes on where it stopped.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._root = Path(places.local_path(place))

    def manifest(self) -> bytes | None:
        """The manifest that is there."""
        return _manifest(self.place)

    def check(self, entries: list[FileEntry]) -> None:
        """Refuse links that lead out of the folder, and a disk that is too small.

        Raises:
            UserError: one of them.
        """
        check_inside(str(self._root), [entry.path for entry in entries])
        parents = (self._root, *self._root.absolute().parents)
        free = shutil.disk_usage(next(folder for folder in parents if folder.is_dir())).free
        needed = sum(e.bytes for e in entries if not (self._root / e.path).is_file())
        if needed > free:
            raise UserError(
                f"{self.place!r} needs {needed:,} bytes more, but its disk has {free:,} left; make "
                f"room, or pull some of the shards."
            )

    def put(self, source: str, entry: FileEntry, on_bytes: OnBytes) -> bool:
        """Copy a file from any place, unless it is there already; True if it was copied.

        It is hashed on the way, before it gets its name.

        Raises:
            DamagedFile: what was read is not what the manifest names.
            UserError: another process is writing the same file.
        """
        path = self._root / entry.path
        same_size = path.is_file() and path.stat().st_size == entry.bytes
        if same_size and places.sha256_file(str(path))[0] == entry.sha256:
            on_bytes(entry.bytes)
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{entry.sha256[:16]}.part")
        with _locked(partial) as file:
            digest = hashlib.sha256()
            size = _read_to_end(file, digest, entry.bytes)
            resumed = size
            on_bytes(resumed)
            for block in places.read_blocks(source, size):
                size += len(block)
                if size > entry.bytes:  # never more than was announced: it could be endless
                    break
                digest.update(block)
                file.write(block)
                on_bytes(len(block))
            if size != entry.bytes or digest.hexdigest() != entry.sha256:
                partial.unlink()
                on_bytes(-min(size, entry.bytes))
                if resumed:  # what an earlier run left may be what is wrong
                    return self.put(source, entry, on_bytes)
                raise damaged(source, entry)
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        return True

    def strays(self, wanted: set[str]) -> list[str]:
        """Files where shards lie that are none of these."""
        return _strays(self.place, wanted)

    def remove(self, path: str) -> None:
        """Delete a file."""
        places.remove(places.join(self.place, path))

    def finish(self, manifest: bytes) -> None:
        """Write the manifest, which makes the folder a set."""
        places.write_bytes(places.join(self.place, MANIFEST_NAME), manifest)

    def sweep(self) -> None:
        """Delete what earlier runs left half done, of this set or of another."""
        for folder in (self._root, *(self._root / kind for kind in KINDS)):
            for pattern in (f".*.{_HEX * 16}.part", f".*.{_HEX * 32}.tmp"):  # atomic_write's
                for left in folder.glob(pattern):
                    left.unlink(missing_ok=True)


class Store:
    """An fsspec store as target. A file there counts once its content is known to be right.

    An upload that breaks leaves nothing in an object store, or half a file elsewhere; neither
    counts, as there is no manifest yet.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    def manifest(self) -> bytes | None:
        """The manifest that is there."""
        return _manifest(self.place)

    def check(self, entries: list[FileEntry]) -> None:
        """Nothing that could be in the way."""

    def put(self, source: str, entry: FileEntry, on_bytes: OnBytes) -> bool:
        """Upload a local file, unless it is there already; True if bytes were sent.

        The source is hashed first, so that nothing damaged goes out. Afterwards the store's own
        checksum of what it received is compared; where it has none that can be compared (it
        encrypts, or it keeps none), the file is read back.

        Raises:
            DamagedFile: source or target is not what the manifest names.
        """
        sums = Sums.of(source)
        if (sums.size, sums.sha256) != (entry.bytes, entry.sha256):
            raise damaged(source, entry)
        fs, path = places.filesystem(places.join(self.place, entry.path))
        if self._is_right(fs, path, entry, sums):
            on_bytes(entry.bytes)
            return False
        fs.makedirs(places.parent_and_name(path)[0], exist_ok=True)
        report = _Report(on_bytes)
        fs.put_file(places.local_path(source), path, callback=report)
        on_bytes(entry.bytes - report.done)
        if not self._is_right(fs, path, entry, sums):
            raise DamagedFile(
                f"{places.join(self.place, entry.path)!r} did not arrive as it was sent; run the "
                f"same again."
            )
        return True

    def _is_right(self, fs: Any, path: str, entry: FileEntry, sums: Sums) -> bool:
        fs.invalidate_cache(places.parent_and_name(path)[0])
        try:
            info = fs.info(path)
        except FileNotFoundError:
            return False
        if info.get("type") != "file" or info.get("size") != entry.bytes:
            return False
        if sums.are_of(info):
            return True
        place = places.join(self.place, entry.path)
        return places.sha256_file(place)[0] == entry.sha256

    def strays(self, wanted: set[str]) -> list[str]:
        """Files where shards lie that are none of these."""
        return _strays(self.place, wanted)

    def remove(self, path: str) -> None:
        """Delete a file."""
        places.remove(places.join(self.place, path))

    def sweep(self) -> None:
        """Nothing is left half done that could be seen."""

    def finish(self, manifest: bytes) -> None:
        """Write the manifest, which makes the folder a set, and look whether it is there."""
        place = places.join(self.place, MANIFEST_NAME)
        places.write_bytes(place, manifest)
        if places.read_limited(place, MAX_MANIFEST_BYTES) != manifest:
            raise DamagedFile(f"{place!r} did not arrive as it was sent; run the same again.")


@dataclass
class Sums:
    """Size and digests of a local file, those that stores keep among them."""

    size: int = 0
    sha256: str = ""
    md5: bytes = b""
    parts: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, place: str, part: int = _S3_PART) -> Sums:
        """Read the file once; ``part`` is the size of the parts that S3 would get."""
        total = Path(places.local_path(place)).stat().st_size
        part = max(part, -(-total // _S3_MAX_PARTS))
        sums = cls()
        sha, whole, piece, room = hashlib.sha256(), _md5(), _md5(), part
        for block in places.read_blocks(place):
            sha.update(block)
            whole.update(block)
            sums.size += len(block)
            view = memoryview(block)
            while len(view) >= room:
                piece.update(view[:room])
                sums.parts.append(piece.digest())
                view, piece, room = view[room:], _md5(), part
            piece.update(view)
            room -= len(view)
        if room < part:
            sums.parts.append(piece.digest())
        sums.sha256, sums.md5 = sha.hexdigest(), whole.digest()
        return sums

    def are_of(self, info: dict[str, Any]) -> bool:
        """True if a store's checksum shows that it holds these bytes; False says nothing.

        S3 gives an MD5, or the MD5 of its parts' MD5s; Google and Azure an MD5.
        """
        etag = str(info.get("ETag", "")).strip('"')
        if etag in (self.md5.hex(), f"{_md5(b''.join(self.parts)).hexdigest()}-{len(self.parts)}"):
            return True
        settings = info.get("content_settings") or {}
        for kept in (info.get("md5Hash"), info.get("content_md5"), settings.get("content_md5")):
            text = base64.b64encode(kept).decode() if isinstance(kept, bytes | bytearray) else kept
            if text and text == base64.b64encode(self.md5).decode():
                return True
        return False


def damaged(place: str, entry: FileEntry) -> DamagedFile:
    """The error that names a file which is not what the manifest says."""
    return DamagedFile(
        f"{place!r} is not the file that the manifest names ({entry.bytes:,} bytes, SHA-256 "
        f"{entry.sha256[:12]}...): it was changed, cut or damaged; make or fetch the set again."
    )


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


class _Report(Callback):  # type: ignore[misc]
    """fsspec's callback, as OnBytes."""

    def __init__(self, on_bytes: OnBytes) -> None:
        super().__init__()
        self.done = 0
        self._on_bytes = on_bytes

    def relative_update(self, inc: int = 1) -> None:
        self.done += inc
        self._on_bytes(inc)


def _manifest(place: str) -> bytes | None:
    manifest = places.join(place, MANIFEST_NAME)
    fs, path = places.filesystem(manifest)
    fs.invalidate_cache()
    return places.read_limited(manifest, MAX_MANIFEST_BYTES) if fs.exists(path) else None


def _strays(place: str, wanted: set[str]) -> list[str]:
    found: list[str] = []
    for kind in KINDS:
        folder = places.join(place, kind)
        if places.is_folder(folder):
            found += [f"{kind}/{name}" for name in places.find_files(folder)]
    return [path for path in found if path not in wanted]


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """Open for reading and appending, for this process alone."""
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"{str(partial)!r} cannot be written ({error.strerror}).") from None
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{str(partial)!r} is being written by another process; wait until it is done."
            ) from None
        if not partial.exists():  # the other ended between the opening and the lock
            raise UserError(f"{str(partial)!r} was just written by another process; run again.")
        yield file


def _read_to_end(file: BinaryIO, digest: Any, most: int) -> int:
    """Hash what an earlier run left; a part that is too long is dropped. Returns its size."""
    size = os.fstat(file.fileno()).st_size
    if size > most:
        file.truncate(0)
        return 0
    while block := file.read(1 << 20):
        digest.update(block)
    return size
