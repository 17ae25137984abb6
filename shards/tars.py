"""Reading tars of samples, from anybody: where each member lies, and nothing executed.

webdataset's convention: members that follow each other and share the part of their name before
the first dot of its last component are one sample, and the rest of the name is the field.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from schemas.errors import BadSample
from shards import places

MAX_MEMBER_BYTES = 256 << 20
"""A larger member is not an image or a caption; it is skipped unread and counted."""

OnBad = Callable[[str, BadSample], None]
"""Called with the sample's key and what is wrong with it."""


@dataclass
class TarSample:
    """One sample: its key, the bytes of each field and the byte range of each in the tar."""

    key: str
    fields: dict[str, bytes] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)


def split_name(name: str) -> tuple[str, str]:
    """``a/b.jpg`` to key ``a/b`` and field ``jpg`` (lower case; "" if there is none)."""
    folder, slash, base = name.rpartition("/")
    stem, _, ext = base.partition(".")
    return folder + slash + stem, ext.lower()


def read_tar(
    place: str, on_bad: OnBad, *, want: Callable[[str], bool] | None = None
) -> Iterator[TarSample]:
    """Stream the samples of a tar in order.

    Args:
        place: a tar, local or remote, uncompressed (byte ranges mean nothing in a compressed one).
        on_bad: told of members that are links or devices, too large, or that repeat a name, of
            keys that come back later in the tar, and of a tar that breaks off.
        want: which fields to read; the others get a range but no bytes. Default: all.

    Raises:
        UserError: the file is not there.
    """
    current: TarSample | None = None
    done: set[str] = set()
    spoiled: set[str] = set()
    with places.open_read(place) as file:
        for member in _members(file, on_bad):
            key, ext = split_name(member.name)
            if member.isdir() or not ext:
                continue
            if current is not None and key != current.key:
                done.add(current.key)
                yield current
                current = None
            problem = _problem(member, key in done)
            if problem is not None:
                if key not in spoiled:
                    on_bad(key, problem)
                spoiled.add(key)
                continue
            if current is None:
                current = TarSample(key)
            if ext in current.fields:
                on_bad(key, BadSample("duplicate_key", f"{member.name} stands twice"))
                continue
            current.ranges[ext] = (member.offset_data, member.size)
            current.fields[ext] = b""
            if want is None or want(ext):
                file.seek(member.offset_data)
                data = file.read(member.size)
                if len(data) < member.size:
                    on_bad(key, BadSample("truncated_tar", f"{place} ends inside {member.name}"))
                    return
                current.fields[ext] = data
    if current is not None:
        yield current


def _problem(member: tarfile.TarInfo, seen: bool) -> BadSample | None:
    if not member.isreg():
        return BadSample("not_a_file", f"{member.name} is a link or a device")
    if member.size > MAX_MEMBER_BYTES:
        return BadSample("member_too_large", f"{member.name} claims {member.size:,} bytes")
    if seen:
        return BadSample("duplicate_key", f"{member.name} comes again later in the tar")
    return None


def _members(file: BinaryIO, on_bad: OnBad) -> Iterator[tarfile.TarInfo]:
    """Headers in order; a tar that breaks off is reported once, and ends the walk."""
    last = "the first sample"
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or memory grows with the tar
                last = split_name(member.name)[0]
                yield member
            # tarfile takes a broken header, or the lack of one, for the end of the archive.
            file.seek(tar.offset)  # type: ignore[attr-defined]
            block = file.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("the end-of-archive mark is missing")
            if block.strip(b"\0"):
                raise tarfile.ReadError("what follows is not a tar header")
    except (tarfile.TarError, EOFError, OSError) as error:
        on_bad(last, BadSample("truncated_tar", f"after {last}: {error}"))
