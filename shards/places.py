"""Places: local paths and fsspec URLs, brace ranges, globs, byte ranges, atomic writes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from braceexpand import braceexpand

from schemas.errors import UserError
from shards.guards import check_place, check_regular

# On these a file appears whole when its upload ends, and a rename is a copy: write in place.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "hf", "memory"}
_CHUNK = 1 << 20
_BLOCK = 8 << 20
# What Windows, macOS and Synology leave in folders of pictures.
_LITTER = {"Thumbs.db", "ehthumbs.db", "desktop.ini", "__MACOSX", "@eaDir"}


def filesystem(place: str) -> tuple[Any, str]:
    """The fsspec filesystem of a place and the path within it.

    Raises:
        UserError: the URL's protocol is unknown, its package is not installed, or it is one of
            those that shards.guards refuses.
    """
    check_place(place)
    if is_local(place):  # as it is: fsspec would take "::" in a file's name for a chain of URLs
        return fsspec.filesystem("file"), local_path(place)
    try:
        fs, path = fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise UserError(f"{place!r} cannot be opened: {error}.") from None
    return fs, path


def is_local(place: str) -> bool:
    """True for a path of this machine."""
    return "://" not in place or place.startswith(("file://", "local://"))


def local_path(place: str) -> str:
    """The path that a local place is, without ``file://``."""
    return place.split("://", 1)[1] if place.startswith(("file://", "local://")) else place


def join(root: str, *parts: str) -> str:
    """``root`` and relative parts, joined by forward slashes, URLs included."""
    if root.endswith("://"):  # above all buckets of a store
        return root + "/".join(parts)
    return "/".join([root.rstrip("/") or "/", *parts]) if parts else root


def parent_and_name(place: str) -> tuple[str, str]:
    """Split off the last component of a path or URL."""
    head, _, tail = place.rstrip("/").rpartition("/")
    return head or ("/" if place.startswith("/") else "."), tail


def common_root(files: Sequence[str]) -> str:
    """The deepest folder that holds all the files; they must be normalised, as expand's are.

    Raises:
        UserError: some are absolute and some relative, or they lie in different stores.
    """
    folders = [parent_and_name(file)[0] for file in files]
    if any("://" in folder for folder in folders):
        protocols = {folder.partition("://")[0] for folder in folders}
        if len(protocols) > 1:
            raise UserError("files of one source must lie in one store; give them one protocol.")
        paths = [folder.partition("://")[2] for folder in folders]
        return f"{protocols.pop()}://{posixpath.commonpath(paths)}"
    if len({posixpath.isabs(folder) for folder in folders}) > 1:
        raise UserError("give the files of one source either all as absolute or all as relative.")
    return posixpath.commonpath(folders) or "."


def below(root: str, place: str) -> str:
    """The path of ``place`` relative to ``root``, a folder above it by common_root."""
    if root == ".":
        return place
    return place[len(root if root.endswith("://") else root.rstrip("/") + "/") :]


def printable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def is_hidden(name: str) -> bool:
    """True for names that no user means as data: dot files, and what file managers leave."""
    return name.startswith(".") or name in _LITTER


def exists(place: str) -> bool:
    """True if a file or folder is there."""
    fs, path = filesystem(place)
    return bool(fs.exists(path))


def is_folder(place: str) -> bool:
    """True if a folder (or a non-empty prefix of an object store) is there."""
    fs, path = filesystem(place)
    return bool(fs.isdir(path))


def expand(place: str) -> list[str]:
    """Files that a brace range or a glob names, sorted within each glob.

    ``part-{00000..00003}.tar`` names four files whether or not they exist; ``part-*.tar`` names
    those that do.

    Raises:
        UserError: a glob that matches nothing, or braces that do not close.
    """
    try:
        patterns = list(braceexpand(place))
    except ValueError:
        raise UserError(f"{place!r} has a brace that does not close.") from None
    found: list[str] = []
    for pattern in patterns:
        if not any(character in pattern for character in "*?["):
            found.append(posixpath.normpath(pattern) if is_local(pattern) else pattern)
            continue
        fs, path = filesystem(pattern)
        matches = sorted(fs.glob(path))
        if not matches:
            raise UserError(f"no file matches {pattern!r}; check the path.")
        found.extend(same_kind(pattern, match) for match in matches)
    return found


def same_kind(like: str, path: str) -> str:
    """Give a filesystem's bare ``path`` the protocol that ``like`` has, and stay relative to it."""
    if "://" in like:
        return path if "://" in path else f"{like.split('://', 1)[0]}://{path.lstrip('/')}"
    return path if Path(like).is_absolute() else os.path.relpath(path)


def list_folder(place: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files directly in a folder, sorted, hidden ones left out.

    Raises:
        UserError: it is not there or not a folder.
    """
    fs, path = filesystem(place)
    try:
        if is_local(place):  # links are followed: class folders and images often are links
            found = [(entry.name, entry.is_dir()) for entry in os.scandir(path)]
            found = [(name, folder) for name, folder in found if not is_hidden(name)]
            return (
                sorted(name for name, folder in found if folder),
                sorted(name for name, folder in found if not folder),
            )
        entries = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{place!r} is not a folder; check the path.") from None
    folders: list[str] = []
    files: list[str] = []
    for entry in entries:
        name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
        if is_hidden(name) or entry["name"].rstrip("/") == path.rstrip("/"):
            continue
        (folders if entry["type"] == "directory" else files).append(name)
    return sorted(folders), sorted(files)


def find_files(place: str) -> list[str]:
    """All files below a folder, as sorted paths relative to it; hidden ones are left out."""
    if is_local(place):
        return sorted(_walk(Path(local_path(place)), "", frozenset()))
    fs, path = filesystem(place)
    base = path.rstrip("/") + "/"
    names = (name[len(base) :] for name in fs.find(path) if name.startswith(base))
    return sorted(n for n in names if not any(is_hidden(part) for part in n.split("/")))


def _walk(folder: Path, prefix: str, above: frozenset[Path]) -> Iterator[str]:
    """Files below a folder, links followed, but not in a circle."""
    here = folder.resolve()
    if here in above:
        return
    for entry in os.scandir(folder):
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", above | {here})
        else:
            yield prefix + entry.name


def open_read(place: str) -> BinaryIO:
    """Open a file for reading, seekable.

    Raises:
        UserError: it is not there.
    """
    fs, path = filesystem(place)
    if is_local(place):
        check_regular(place, path)
    try:
        return fs.open(path, "rb")  # type: ignore[no-any-return]
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{place!r} is not there or is not a file; check the path.") from None


def read_bytes(place: str, offset: int | None = None, size: int | None = None) -> bytes:
    """The file's bytes, or ``size`` of them from ``offset``.

    Raises:
        UserError: it is not there.
    """
    if offset is None and is_local(place):
        check_place(place)
        check_regular(place, local_path(place))
        try:
            return Path(local_path(place)).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise UserError(f"{place!r} is not there or is not a file; check the path.") from None
    with open_read(place) as file:
        file.seek(offset or 0)
        return file.read(-1 if size is None else size)


def read_limited(place: str, most: int) -> bytes:
    """The file's bytes, if there are at most so many.

    Raises:
        UserError: it is not there, or larger.
    """
    with open_read(place) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"{place!r} is larger than {most:,} bytes, which no such file is.")
    return data


def read_blocks(place: str, start: int = 0) -> Iterator[bytes]:
    """A file from ``start`` on, in blocks; of a store, each is one request and none is kept.

    Raises:
        UserError: it is not there.
    """
    fs, path = filesystem(place)
    if is_local(place):
        check_regular(place, path)
    try:
        # fsspec's cache would read ahead, and hold what it has read.
        file = fs.open(path, "rb", block_size=_BLOCK, cache_type="none")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{place!r} is not there or is not a file; check the path.") from None
    with file:
        file.seek(start)
        while block := file.read(_BLOCK):
            yield block


def read_text(place: str, most: int = 16 << 20) -> str:
    """A text file, with or without the byte order mark that Windows puts first.

    Raises:
        UserError: it is not there, not UTF-8, or larger than ``most`` bytes.
    """
    try:
        return read_limited(place, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{place!r} is not UTF-8 text; save it as UTF-8.") from None


@contextlib.contextmanager
def atomic_write(place: str) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all.

    Local: a temporary file in the same folder, synced, then renamed. Elsewhere: a local
    temporary file, uploaded when it is complete; renamed there too where an upload is not atomic.
    The process may die at any point; what it leaves are temporary names only.

    Raises:
        UserError: it may not be written there, or the disk is full.
    """
    fs, path = filesystem(place)
    folder, name = parent_and_name(path)
    local = is_local(place)
    temporary = Path(folder if local else tempfile.gettempdir()) / f".{name}.{uuid.uuid4().hex}.tmp"
    try:
        fs.makedirs(folder, exist_ok=True)
        opened = temporary.open("wb")
    except OSError as error:
        raise UserError(f"{place!r} cannot be written ({error.strerror or error}).") from None
    try:
        with opened as file:
            yield file
            file.flush()
            if local:
                os.fsync(file.fileno())
        if local:
            temporary.replace(path)
        elif place.split("://", 1)[0] in _OBJECT_STORES:
            fs.put_file(str(temporary), path)
        else:
            hidden = join(folder, temporary.name)
            fs.put_file(str(temporary), hidden)
            fs.mv(hidden, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{place!r} cannot be written ({error.strerror}); make room, and run the same again."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(place: str, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_write(place) as file:
        file.write(data)


def remove(place: str) -> None:
    """Delete a file, if it is there."""
    fs, path = filesystem(place)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def copy_out(place: str, target: Path) -> None:
    """Copy a file from any place to a local path."""
    with open_read(place) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, _CHUNK)


def sha256_file(place: str) -> tuple[str, int]:
    """SHA-256 (hex) and size in bytes of a file."""
    digest, size = hashlib.sha256(), 0
    for block in read_blocks(place):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def content_fingerprint(place: str) -> str:
    """A digest that changes when the file's content does; dates play no part.

    Object stores keep a checksum of the content (an ETag, MD5 or CRC), which saves reading it;
    elsewhere the file is read.
    """
    fs, path = filesystem(place)
    if not is_local(place):
        info = fs.info(path)
        for field in ("ETag", "etag", "md5Hash", "content_md5", "crc32c"):
            if info.get(field):
                return f"{field.lower()}:{info['size']}:{str(info[field]).strip(chr(34))}"
    return "sha256:" + sha256_file(place)[0]
