"""Headers read the quick way are what tarfile makes of them, whatever was done to them."""

from __future__ import annotations

import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st

from shards.tars import PlainFirst

NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=120)
TYPES = st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])


def read(kind: type[tarfile.TarInfo], header: bytes) -> tuple[object, ...]:
    """What readers of ours look at, or why there is nothing."""
    try:
        info = kind.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return (type(error), str(error))
    return (info.name, info.size, info.type, info.chksum, info.isreg(), info.issparse())


def header(name: str, size: int, type_: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, type_
    return info.tobuf(tarfile.GNU_FORMAT)[-512:]


@settings(max_examples=200)
@given(NAMES, st.integers(0, 8**11 - 1) | st.integers(0, 2**62), TYPES)
def test_headers_read_alike(name: str, size: int, type_: bytes) -> None:
    block = header(name, size, type_)
    assert read(PlainFirst, block) == read(tarfile.TarInfo, block)


@settings(max_examples=400)
@given(NAMES, TYPES, st.integers(0, 511), st.integers(0, 255), st.booleans())
def test_changed_headers_read_alike(
    name: str, type_: bytes, at: int, value: int, mend: bool
) -> None:
    block = bytearray(header(name, 1234, type_))
    block[at] = value
    if mend:  # or the checksum alone would refuse nearly all of them
        block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    assert read(PlainFirst, bytes(block)) == read(tarfile.TarInfo, bytes(block))


def test_short_and_empty_blocks_read_alike() -> None:
    for block in (b"", b"x" * 100, bytes(512), header("a", 1, tarfile.REGTYPE)[:-1]):
        assert read(PlainFirst, block) == read(tarfile.TarInfo, block)
