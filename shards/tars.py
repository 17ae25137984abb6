"""Reading tars of samples, from anybody: where each member lies, and nothing executed.

webdataset's convention: members that follow each other and share the part of their name before
the first dot of its last component are one sample, and the rest of the name is the field.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from schemas.errors import BadSample
from shards import places

MAX_MEMBER_BYTES = 256 << 20
"""A larger member is not an image or a caption; it is skipped unread and counted."""

MAX_FIELDS = 256
"""Of one sample, whose fields together have at most MAX_MEMBER_BYTES as well."""
MAX_MEMBERS = 4_000_000
"""Of one tar: their names are remembered, and even an empty one takes 512 bytes of the tar."""

# Of one header with its long name, PAX records and map of holes, which tarfile reads whole.
_MAX_HEADER_BYTES = 1 << 20
_MAX_GLOBAL_CHARACTERS = 1 << 16

OnBad = Callable[[str, BadSample], None]
"""Called with the sample's key and what is wrong with it."""


@dataclass
class TarSample:
    """One sample: its key, the bytes of each field and the byte range of each in the tar.

    ``problem`` is the first thing that is wrong with it; such a sample is told to OnBad instead.
    """

    key: str
    fields: dict[str, bytes] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: BadSample | None = None


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
        on_bad: told once of a sample that has a link, a device or a member that is too large,
            that repeats a name, or whose key stood earlier in the tar; and of a tar that breaks
            off.
        want: which fields to read; the others get a range but no bytes. Default: all.

    Raises:
        UserError: the file is not there.
    """
    current: TarSample | None = None
    done: set[str] = set()
    with places.open_read(place) as file:
        for member in _members(file, on_bad):
            # Names that are no UTF-8 must still be text: keys go into JSON and parquet.
            name = places.printable(member.name)
            key, ext = split_name(name)
            if member.isdir() or not ext:
                continue
            if current is None or key != current.key:
                if current is not None:
                    done.add(current.key)
                    yield from _whole(current, on_bad)
                current = TarSample(key)
                if key in done:
                    current.problem = BadSample("duplicate_key", f"{name} stands earlier already")
            current.problem = current.problem or _problem(member, name, ext, current)
            if current.problem is not None:
                continue
            current.ranges[ext] = (member.offset_data, member.size)
            current.fields[ext] = b""
            if want is None or want(ext):
                file.seek(member.offset_data)
                data = file.read(member.size)
                if len(data) < member.size:
                    on_bad(key, BadSample("truncated_tar", f"{place} ends inside {name}"))
                    return
                current.fields[ext] = data
    if current is not None:
        yield from _whole(current, on_bad)


def _whole(sample: TarSample, on_bad: OnBad) -> Iterator[TarSample]:
    if sample.problem is None:
        yield sample
    else:
        on_bad(sample.key, sample.problem)


def _problem(member: tarfile.TarInfo, name: str, ext: str, sample: TarSample) -> BadSample | None:
    if not member.isreg() or member.issparse():
        return BadSample("not_a_file", f"{name} is a link, a device or sparse")
    if not 0 <= member.size <= MAX_MEMBER_BYTES:
        return BadSample("member_too_large", f"{name} claims {member.size:,} bytes")
    if ext in sample.ranges:
        return BadSample("duplicate_key", f"{name} stands twice")
    together = member.size + sum(size for _, size in sample.ranges.values())
    if together > MAX_MEMBER_BYTES or len(sample.ranges) >= MAX_FIELDS:
        return BadSample("member_too_large", f"with {name} its sample has {together:,} bytes")
    return None


class _Headers:
    """What tarfile sees of a tar: all of it, but no more than so much for one header.

    tarfile reads a long name or PAX records whole, whatever size they claim, and a map of holes
    may go on for as long as the tar does.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = _MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"a header has more than {_MAX_HEADER_BYTES:,} bytes")
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


def _members(file: BinaryIO, on_bad: OnBad) -> Iterator[tarfile.TarInfo]:
    """Headers in order; a tar that breaks off is reported once, and ends the walk."""
    latest: tarfile.TarInfo | None = None
    headers = _Headers(file)
    before, number = -1, 0
    try:
        # copybufsize aside, read, seek and tell are all that tarfile asks of a file
        with tarfile.open(fileobj=headers, mode="r:", tarinfo=PlainFirst) as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members.clear()  # or memory grows with the tar
                headers.left, number = _MAX_HEADER_BYTES, number + 1
                _check_progress(tar, before, number)
                before = tar.offset
                latest = member
                yield member
            # tarfile takes a broken header, or the lack of one, for the end of the archive.
            file.seek(tar.offset)
            block = file.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("the end-of-archive mark is missing")
            if block.strip(b"\0"):
                raise tarfile.ReadError("what follows is not a tar header")
    except (
        tarfile.TarError,
        EOFError,
        OSError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        last = split_name(places.printable(latest.name))[0] if latest else "the first sample"
        on_bad(last, BadSample("truncated_tar", f"after {last}: {error}"))


def _check_progress(tar: tarfile.TarFile, before: int, number: int) -> None:
    """Refuse headers that lead in a circle, or fill memory."""
    if tar.offset <= before:  # type: ignore[attr-defined]  # a size below zero, from PAX records
        raise tarfile.ReadError("a member ends before it begins")
    if number > MAX_MEMBERS:
        raise tarfile.ReadError(f"it has more than {MAX_MEMBERS:,} members")
    if tar.pax_headers:
        size = sum(len(name) + len(str(value)) for name, value in tar.pax_headers.items())
        if size > _MAX_GLOBAL_CHARACTERS:
            raise tarfile.ReadError("its global headers are too large")


# A plain file's header as all tar writers make it: mode, owner and group; size; time; checksum;
# type 0; no link; device numbers, if any; no prefix of the name.
_PLAIN = re.compile(
    rb"[^\0].{99}(?:[0-7]{7}[\0 ]){3}([0-7]{11})[\0 ][0-7]{11}[\0 ]([0-7]{6})\0[\0 ]"
    rb"0\0{100}.{72}(?:\0{8}|[0-7]{7}[\0 ]){2}\0{167}",
    re.DOTALL,
)


class PlainFirst(tarfile.TarInfo):
    """A tar header, quick to read where it is that of a plain file, as nearly all are.

    tarfile decodes sixteen fields and adds up the header twice, which is most of the time that
    a shard takes to read. Of a plain file we need name and size; all else is tarfile's as ever.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> PlainFirst:
        """The header of 512 bytes; mode, owner and time of a plain file are left at defaults.

        Raises:
            tarfile.HeaderError: it is none, or damaged.
        """
        if plain := _PLAIN.fullmatch(buf):
            checksum = int(plain[2], 8)
            if sum(buf) - sum(buf[148:156]) + 256 == checksum:
                member = cls(buf[:100].partition(b"\0")[0].decode(encoding, errors))
                member.size, member.chksum = int(plain[1], 8), checksum
                return member
        return super().frombuf(buf, encoding, errors)
