"""The tars of a set, byte by byte: what their writer may write, and nothing else.

shards.tars reads anybody's tars and makes the best of them; this reads ours and names whatever
docs/format.md does not allow. A tar is read once, front to back, and hashed on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from shards.checking.findings import Tell
from shards.places import printable
from shards.tars import MAX_MEMBER_BYTES

BLOCK = 512
RECORD = 20 * BLOCK
MAX_TEXT_BYTES = 16 << 20
"""A larger text or record is refused unread."""

_ZEROS = bytes(BLOCK)
_READ = 2 << 20  # hashed in pieces so large that threads seldom ask for the interpreter's lock
_FIELDS = (
    ("name", 0, 100),
    ("mode", 100, 108),
    ("uid", 108, 116),
    ("gid", 116, 124),
    ("size", 124, 136),
    ("mtime", 136, 148),
    ("checksum", 148, 156),
    ("type", 156, 157),
    ("link", 157, 257),
    ("magic", 257, 265),
    ("owner", 265, 297),
    ("group", 297, 329),
    ("device", 329, 345),
    ("prefix", 345, 500),
    ("rest", 500, 512),
)


def _template() -> bytes:
    block = bytearray(BLOCK)
    block[100:156] = b"0000444\0" + b"0000000\0" * 2 + b"\0" * 12 + b"0" * 11 + b"\0" + b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\x0000"
    block[265:273] = block[297:305] = b"anchorft"
    return bytes(block)


_TEMPLATE = _template()
_SUM = sum(_TEMPLATE)


def header(name: bytes, size: int) -> bytes:
    """The one header of a member: 512 bytes, of which name and size are the only news."""
    block = bytearray(_TEMPLATE)
    digits = b"%011o" % size
    block[: len(name)] = name
    block[124:135] = digits
    block[148:155] = b"%06o\0" % (_SUM + sum(name) + sum(digits))
    return bytes(block)


class HashedReader:
    """A file read front to back once; every byte that passes is hashed, outside Python's lock.

    Args:
        file: open for reading, unbuffered if it can be.
        on_bytes: told how many bytes were read, for progress.
    """

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None] = lambda number: None):
        self._file = file
        self._on_bytes = on_bytes
        self._digest = hashlib.sha256()
        self._buffer = bytearray(_READ)
        self._view = memoryview(self._buffer)
        self._at = self._end = 0
        self._before = 0  # bytes of the file before the buffer

    @property
    def position(self) -> int:
        """Bytes that were taken or skipped."""
        return self._before + self._at

    def take(self, number: int) -> bytes:
        """The next bytes; fewer where the file ends."""
        at = self._at
        if at + number <= self._end:
            self._at = at + number
            return bytes(self._view[at : at + number])
        pieces = []
        while number and (at < self._end or self._fill()):
            at = self._at
            step = min(number, self._end - at)
            pieces.append(bytes(self._view[at : at + step]))
            self._at = at = at + step
            number -= step
        return b"".join(pieces)

    def skip(self, number: int) -> int:
        """Pass over bytes; returns how many there were."""
        left = number
        while left and (self._at < self._end or self._fill()):
            step = min(left, self._end - self._at)
            self._at += step
            left -= step
        return number - left

    def finish(self) -> tuple[str, int]:
        """Read to the end: SHA-256 and size of the whole file."""
        while self._fill():
            pass
        return self._digest.hexdigest(), self._before

    def _fill(self) -> int:
        self._before += self._end
        self._at = 0
        self._end = int(self._file.readinto(self._view) or 0)  # type: ignore[attr-defined]
        self._digest.update(self._view[: self._end])
        self._on_bytes(self._end)
        return self._end


@dataclass(frozen=True)
class Member:
    """A member: its name, where its bytes lie, and the bytes if they were wanted."""

    name: str
    offset: int
    size: int
    data: bytes | None


def members(
    file: HashedReader,
    tell: Tell,
    want: Callable[[str], bool],
    guide: Mapping[int, tuple[str, int]] | None = None,
) -> Iterator[Member]:
    """The members in order; whatever is not as it must be is told, and the walk goes on.

    Args:
        file: at the start of the tar.
        tell: takes a key (or ""), ``bad_header``, ``bad_padding``, ``truncated_tar``,
            ``trailing_data`` or ``member_too_large``, and the detail.
        want: whether to keep the bytes of a member, by name.
        guide: data offset to (name, size), from a parquet that can be trusted. Where a header
            is unreadable it says what follows; without it the walk ends there.
    """
    while True:
        start = file.position
        block = file.take(BLOCK)
        if len(block) < BLOCK:
            tell("", "truncated_tar", f"it ends at byte {start + len(block):,} without an end mark")
            return
        if block == _ZEROS:
            _check_end(file, tell)
            return
        known = (guide or {}).get(file.position)
        name, size, complaint = _read_header(block)
        if complaint:
            shown = printable(known[0] if known else name)
            tell(shown.partition(".")[0], "bad_header", f"at byte {start:,}: {complaint}")
            if known:
                name, size = known
            elif size < 0:
                tell("", "unreadable", f"nothing after byte {start:,} could be read")
                return
        key = name.partition(".")[0]
        wanted = want(name)
        if size > (MAX_TEXT_BYTES if name.endswith((".txt", ".json")) else MAX_MEMBER_BYTES):
            tell(key, "member_too_large", f"{name} claims {size:,} bytes")
            wanted = False
        offset = file.position
        data = file.take(size) if wanted else None
        found = file.skip(size) if data is None else len(data)
        if found < size:
            tell(key, "truncated_tar", f"it ends inside {name}, {size - found:,} bytes short")
            return
        padding = file.take(-size % BLOCK)
        if len(padding) < -size % BLOCK:
            tell(key, "truncated_tar", f"it ends in the padding of {name}")
            return
        if padding.count(0) < len(padding):
            tell(key, "bad_padding", f"the bytes that fill the block after {name} are not zero")
        yield Member(name, offset, size, data)


def _read_header(block: bytes) -> tuple[str, int, str]:
    """Name, size (-1 if nothing can follow from it) and what is wrong ("": nothing)."""
    raw = block[:100].partition(b"\0")[0]
    try:
        size = int(block[124:135], 8)
        if header(raw, size) == block:
            return raw.decode("ascii"), size, ""
    except ValueError:  # not octal, or not ASCII
        size = -1
    name = raw.decode("utf-8", "backslashreplace")
    sound = block[148:154] == b"%06o" % (sum(block) - sum(block[148:156]) + 8 * 32)
    if not sound:
        return name, -1, "the header's checksum does not fit"
    wanted = header(raw, max(size, 0))
    odd = [
        f"{field} is {block[start:stop].rstrip(bytes(1)).decode('ascii', 'backslashreplace')!r}"
        for field, start, stop in _FIELDS
        if block[start:stop] != wanted[start:stop] and field != "checksum"
    ]
    if block[156:157] not in b"0":  # a link has no bytes of its own; what else is, nobody knows
        size = 0 if block[156:157] in b"123456" else size
        odd.insert(0, f"{name!r} is not a plain file")
    return name, size, "; ".join(odd) or "it is not as the format says"


def _check_end(file: HashedReader, tell: Tell) -> None:
    """After the first zero block: one more, and zeros to a multiple of 10,240 bytes."""
    wanted = BLOCK + -(file.position + BLOCK) % RECORD
    rest = file.take(wanted)
    if rest.count(0) < len(rest):
        tell("", "trailing_data", "there are bytes other than zero after the end mark")
    elif len(rest) < wanted:
        tell("", "truncated_tar", f"{wanted - len(rest):,} of the zeros that end it are missing")
    elif file.take(1):
        tell("", "trailing_data", f"there are bytes after byte {file.position - 1:,}, its end")
