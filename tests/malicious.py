"""Hostile sets, tars, parquets, images, lists and URLs: each attack is a function that writes one.

An attack takes an empty folder and returns the arguments of a command that meets it. Every one
is to be refused with a sentence or made harmless; what each is after stands in its docstring.
A file called ``OWNED`` in the folder above would show that one of them ran or climbed out.

Run as ``python tests/malicious.py FOLDER`` it writes them all, to try other tools on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tiny_data import jpeg, pair
from tiny_sets import pair_record, small_set, text_record

from schemas.manifest import MANIFEST_NAME, Manifest, seal, set_digest
from schemas.tables import RECORDS
from shards.completion import complete_set

SHARD = "text-compensated/00000"
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
BIDI, ESCAPE = "\u202egnp.exe\u2066", "\x1b]0;owned\x07\x1b[2J\x9b31m"
MIB = 1 << 20


@dataclass(frozen=True)
class Attack:
    """What to run, and what must come of it.

    Attributes:
        commands: arguments of ``anchorft-shards``, one list a run; or, beginning with ``read:``,
            a way to read of tests/shards/test_malicious.py.
        says: every run ends in status 1 or 2 with a sentence that holds this; None: it is done,
            and the attack has no effect.
    """

    commands: list[list[str]]
    says: str | None = None


ATTACKS: dict[str, Callable[[Path], Attack]] = {}


def attack(function: Callable[[Path], Attack]) -> Callable[[Path], Attack]:
    ATTACKS[function.__name__] = function
    return function


# Helpers


class Owned:
    """Unpickled, it leaves a mark."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder.parent / "OWNED"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def hostile_pickle(folder: Path) -> bytes:
    return pickle.dumps(Owned(folder))


def a_set(folder: Path, **more: Any) -> Path:
    """A sound set, to be spoiled."""
    root = folder / "set"
    complete_set(str(root), small_set(str(root), **more))
    return root


def rewrite(root: Path, change: Callable[[dict[str, Any]], object], reseal: bool = True) -> None:
    """Change the manifest as somebody would who means it: digest and seal fit again."""
    body = json.loads((root / MANIFEST_NAME).read_text())
    change(body)
    if reseal:
        refresh(root, body)
        body["seal"] = seal(body)
    (root / MANIFEST_NAME).write_text(json.dumps(body))


def refresh(root: Path, body: dict[str, Any]) -> None:
    """Sizes and digests of what is in the folder, as far as it is."""
    for entry in [f for s in body["shards"] for f in (s, s["index"])] + body["files"]:
        path = root / entry["path"]
        if "\0" not in entry["path"] and path.is_file() and path.stat().st_size < 1 << 32:
            data = path.read_bytes()
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    lines = "".join(
        f"{s['sha256']}  {s['path']}\n" for s in sorted(body["shards"], key=lambda s: s["path"])
    )
    body["digest"] = hashlib.sha256(lines.encode()).hexdigest()


def with_parquet(folder: Path, data: bytes, samples: int | None = None, says: str = "") -> Attack:
    """A set whose first parquet is this, with digests that fit; read, it is refused."""
    root = a_set(folder)
    (root / f"{SHARD}.parquet").write_bytes(data)

    def change(body: dict[str, Any]) -> None:
        if samples is not None:
            body["samples"] += samples - body["shards"][0]["samples"]
            body["shards"][0]["samples"] = samples

    rewrite(root, change)
    return Attack([["inspect", str(root)], ["read:set", str(root)]], says)


def changed_rows(folder: Path, **columns: Any) -> bytes:
    """The parquet of the first shard with other values in all rows of some columns."""
    root = a_set(folder / "rows")
    table = pq.read_table(root / f"{SHARD}.parquet")
    for name, value in columns.items():
        at = table.column_names.index(name)
        column = pa.array([value] * table.num_rows, table.schema.field(name).type)
        table = table.set_column(at, table.schema.field(name), column)
    return as_parquet(table)


def as_parquet(table: pa.Table, **settings: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **settings)
    return out.getvalue()


def records_of(rows: int, **columns: pa.Array) -> pa.Table:
    """A table of the records' columns, null but for some."""
    fields = [pa.field(f.name, f.type) for f in RECORDS]
    return pa.table(
        [columns.get(f.name, pa.nulls(rows, f.type)) for f in fields], names=RECORDS.names
    )


def raw_header(name: bytes, size: int, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """A ustar header with a sound checksum; sizes beyond octal in base 256."""
    digits = (
        b"%011o\0" % size if 0 <= size < 8**11 else b"\x80" + size.to_bytes(11, "big", signed=True)
    )
    block = bytearray(512)
    block[:100] = name[:100].ljust(100, b"\0")
    block[100:148] = b"0000644\0" + b"0000000\0" * 2 + digits + b"0" * 11 + b"\0"
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157:257] = link.ljust(100, b"\0")
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: tuple[str, str]) -> bytes:
    body = b""
    for name, value in records:
        text = f" {name}={value}\n".encode()
        length = len(text)
        while len(str(length)) + len(text) != length:
            length = len(str(length)) + len(text)
        body += str(length).encode() + text
    return raw_header(b"pax", len(body), b"x") + padded(body)


def a_tar(folder: Path, *blocks: bytes, says: str | None = None, whole: bool = True) -> Attack:
    """A pool of one tar; what is refused in it is counted, and the sound pair is read."""
    path = folder / "pool" / "00000.tar"
    # All samples of a tar have a json, or none has.
    with_json = any(b".json" in block[:100] for block in blocks)
    sound = b"".join(
        raw_header(n.encode(), len(d)) + padded(d)
        for n, d in pair("sound", jpeg(1), "t")
        if not n.endswith(".json") or with_json
    )
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for block in (sound, *blocks, bytes(1024) if whole else b""):
            file.write(block)
    return Attack([["read:pool", str(path.parent)]], says)


def member(name: bytes, data: bytes = b"x", kind: bytes = b"0", link: bytes = b"") -> bytes:
    return raw_header(name, len(data) if kind == b"0" else 0, kind, link) + (
        padded(data) if kind == b"0" else b""
    )


def an_image(folder: Path, data: bytes, name: str = "bomb.jpg") -> Attack:
    """An image folder and a gallery that meet an image."""
    images = folder / "images" / "class"
    images.mkdir(parents=True)
    (images / name).write_bytes(data)
    (images / "sound.jpg").write_bytes(jpeg(1))
    return Attack([["read:images", str(images.parent)]], "too_many_pixels")


def png(
    width: int, height: int, depth: int, colour: int, rows: Iterable[bytes], *extra: bytes
) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(1)
    packed = b"".join([*(packer.compress(row) for row in rows), packer.flush()])
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + b"".join(extra)
        + chunk(b"IDAT", packed)
        + chunk(b"IEND", b"")
    )


# Code that would run


@attack
def pickles_in_a_tar(folder: Path) -> Attack:
    """Members that webdataset's decoders unpickle."""
    evil = hostile_pickle(folder)
    members = [
        member(f"evil.{ext}".encode(), evil)
        for ext in ("jpg", "pyd", "pickle", "pkl", "pth", "npy", "ten", "cbor")
    ]
    return a_tar(folder, *members, says="not_an_image")


@attack
def python_in_a_tar(folder: Path) -> Attack:
    """A module beside the images, for whoever puts the folder on the path."""
    return a_tar(folder, member(b"sitecustomize.py", b"open('OWNED', 'w')"), says="no_image")


@attack
def pickles_in_a_parquet(folder: Path) -> Attack:
    """An extension type whose parameters are a pickle, as pyarrow once unpickled them."""
    evil = hostile_pickle(folder)
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": evil,
    }
    root = a_set(folder / "rows")
    table = pq.read_table(root / f"{SHARD}.parquet")
    field = pa.field("key", pa.string(), metadata=metadata)
    table = table.set_column(0, field, table.column("key"))
    spoiled = with_parquet(folder, as_parquet(table))
    return Attack(spoiled.commands, None)  # read as the plain texts that they are stored as


@attack
def shell_places(folder: Path) -> Attack:
    """``pipe:`` runs a command where webdataset opens it."""
    mark = folder.parent / "OWNED"
    places = [f"pipe:touch {mark}", f" PIPE:touch {mark}", f"pipe://touch {mark}"]
    return Attack(
        [
            command
            for place in places
            for command in (
                ["inspect", place],
                ["gallery", place],
                ["pull", place, str(folder / "x")],
                ["read:pool", place],
            )
        ],
        "",
    )


@attack
def shell_paths_in_a_manifest(folder: Path) -> Attack:
    """``pipe:`` as the path of a shard."""
    return bad_path(folder, f"pipe:touch {folder.parent / 'OWNED'}")


@attack
def shell_paths_in_a_list(folder: Path) -> Attack:
    """``pipe:`` and chains of URLs as images of a list."""
    mark = folder.parent / "OWNED"
    table = folder / "list.csv"
    rows = [f"pipe:touch {mark}", "/dev/zero", "/dev/stdin", "/etc/passwd"]
    table.write_text("filepath,title\n" + "".join(f"{row},cat\n" for row in rows))
    return Attack([["read:list", str(table)]], "missing_file")


@attack
def git_hooks(folder: Path) -> Attack:
    """A .git/config, for who pulls a set into a working copy."""
    return bad_path(folder, ".git/config")


@attack
def files_that_tools_run(folder: Path) -> Attack:
    """A conftest.py, listed among the files of the set."""
    root = a_set(folder)
    (root / "conftest.py").write_text("open('OWNED', 'w')")
    extra = {"path": "conftest.py", "bytes": 1, "sha256": "0" * 64}
    rewrite(root, lambda body: body["files"].append(extra))
    return Attack(
        [["pull", str(root), str(folder / "x")], ["push", str(root), f"memory://{folder.name}"]],
        "neither a shard nor a file to read",
    )


# Out of the folder


def bad_path(folder: Path, path: str) -> Attack:
    """A manifest that names a file by a path that is not plain."""
    root = a_set(folder)
    rewrite(root, lambda body: body["shards"][0].update(path=path))
    return Attack(
        [
            ["inspect", str(root)],
            ["gallery", str(root)],
            ["pull", str(root), str(folder / "x")],
        ],
        "not a plain path",
    )


@attack
def climbing_paths(folder: Path) -> Attack:
    """``..`` in a manifest."""
    return bad_path(folder, "../../OWNED")


@attack
def absolute_paths(folder: Path) -> Attack:
    """An absolute path in a manifest."""
    return bad_path(folder, "/etc/passwd")


@attack
def backslashes(folder: Path) -> Attack:
    """``..`` as Windows writes it."""
    return bad_path(folder, "a\\..\\..\\OWNED")


@attack
def nuls(folder: Path) -> Attack:
    """A NUL, after which C sees nothing."""
    return bad_path(folder, "README.md\0/../x")


@attack
def urls_as_paths(folder: Path) -> Attack:
    """A path that leads to another server."""
    return bad_path(folder, "s3://elsewhere/secret")


@attack
def chained_urls(folder: Path) -> Attack:
    """fsspec's chains, of which one URL opens another."""
    urls = [
        "simplecache::file:///etc/passwd",
        "filecache::s3://a/b",
        "zip://a::https://example.org/x.zip",
        "reference://x",
    ]
    return Attack(
        [
            command
            for url in urls
            for command in (["inspect", url], ["pull", url, str(folder / "x")])
        ],
        "",
    )


@attack
def linked_shards(folder: Path) -> Attack:
    """A tar and a parquet that are links to a file elsewhere."""
    root = a_set(folder)
    for name in (f"{SHARD}.tar", f"{SHARD}.parquet"):
        (root / name).unlink()
        (root / name).symlink_to("/etc/passwd")
    rewrite(root, lambda body: None)
    return Attack(
        [
            ["inspect", str(root)],
            ["gallery", str(root)],
            ["push", str(root), str(folder / "x")],
            ["pull", str(root), str(folder / "x")],
        ],
        "leads out of the set's folder",
    )


@attack
def linked_folders(folder: Path) -> Attack:
    """The folder of a kind is a link to somewhere else; so it is where a pull writes."""
    root = a_set(folder)
    target, elsewhere = folder / "target", folder / "elsewhere"
    elsewhere.mkdir()
    target.mkdir()
    (target / "text-compensated").symlink_to(elsewhere)
    return Attack([["pull", str(root), str(target)]], "leads out of the set's folder")


@attack
def pipes_for_shards(folder: Path) -> Attack:
    """A FIFO in place of a parquet: who opens it waits for ever."""
    root = a_set(folder)
    (root / f"{SHARD}.parquet").unlink()
    os.mkfifo(root / f"{SHARD}.parquet")
    return Attack(
        [["inspect", str(root)], ["gallery", str(root)], ["push", str(root), str(folder / "x")]],
        "pipe, a socket or a device",
    )


@attack
def links_in_a_tar(folder: Path) -> Attack:
    """Links and hard links to files outside."""
    return a_tar(
        folder,
        member(b"a.jpg", kind=b"2", link=b"/etc/passwd"),
        member(b"b.jpg", kind=b"1", link=b"../../secret"),
        says="not_a_file",
    )


@attack
def devices_in_a_tar(folder: Path) -> Attack:
    """Character and block devices, FIFOs, and contiguous files."""
    return a_tar(
        folder,
        *(member(b"%c.jpg" % (97 + i), kind=kind) for i, kind in enumerate((b"3", b"4", b"6"))),
        says="not_a_file",
    )


@attack
def climbing_members(folder: Path) -> Attack:
    """Names that climb or are absolute: names to us, never paths."""
    names = (b"../../OWNED.jpg", b"/OWNED.jpg", b"a/../../OWNED.jpg")
    return a_tar(folder, *(member(name, jpeg(2)) for name in names))


# Memory


@attack
def a_huge_member(folder: Path) -> Attack:
    """A member that claims more than any disk has."""
    return a_tar(folder, raw_header(b"a.jpg", 1 << 60), b"x" * 512, says="member_too_large")


@attack
def a_tar_that_is_cut(folder: Path) -> Attack:
    """It claims a gigabyte and ends."""
    return a_tar(
        folder, raw_header(b"a.jpg", 200 * MIB), b"x" * 512, says="truncated_tar", whole=False
    )


@attack
def a_large_sample(folder: Path) -> Attack:
    """Many members of one sample, each of them allowed. The file has holes in place of bytes."""
    made = a_tar(folder)
    with (folder / "pool" / "00000.tar").open("r+b") as file:
        file.seek(-1024, 2)
        for number in range(8):
            file.write(raw_header(b"a.jpg%d" % number, 200 * MIB))
            file.seek(200 * MIB, 1)
        file.write(bytes(1024))
    return Attack(made.commands, "member_too_large")


@attack
def gnu_long_names(folder: Path) -> Attack:
    """A long name of two gigabytes, which tarfile reads whole. The file has a hole there."""
    made = a_tar(folder)
    with (folder / "pool" / "00000.tar").open("r+b") as file:
        file.seek(-1024, 2)
        file.write(raw_header(b"././@LongLink", 2 << 30, b"L"))
        file.seek(2 << 30, 1)
        file.write(member(b"a.jpg") + bytes(1024))
    return Attack(made.commands, "truncated_tar")


@attack
def gnu_long_names_in_a_row(folder: Path) -> Attack:
    """Long names of long names: each is a step deeper into tarfile."""
    return a_tar(
        folder,
        (raw_header(b"././@LongLink", 5, b"L") + padded(b"a.jpg")) * 2000,
        member(b"a.jpg"),
        says="truncated_tar",
    )


@attack
def pax_sizes(folder: Path) -> Attack:
    """PAX records that change a member's size to less than nothing, or to more than there is."""
    sizes = ("-1024", "-99999999", str(1 << 62), "9" * 5000)
    return a_tar(
        folder,
        *(pax(("size", size)) + member(b"a.jpg") for size in sizes[:1]),
        says="truncated_tar",
    )


@attack
def pax_sizes_that_are_huge(folder: Path) -> Attack:
    """A PAX record of a size that no tar has."""
    return a_tar(folder, pax(("size", str(1 << 62))) + member(b"a.jpg"), says="member_too_large")


@attack
def pax_paths(folder: Path) -> Attack:
    """A PAX record that gives a harmless member another path."""
    return a_tar(folder, pax(("path", "../../OWNED.jpg")) + member(b"a.jpg", jpeg(3)))


@attack
def pax_globals(folder: Path) -> Attack:
    """Global PAX records that gather for as long as the tar goes on."""

    def one(number: int) -> bytes:
        block = bytearray(pax((f"comment.{number}", "x" * 500_000)))
        block[156:157] = b"g"
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block[:512])
        return bytes(block)

    return a_tar(
        folder, *(one(n) + member(b"m%d.jpg" % n) for n in range(20)), says="truncated_tar"
    )


@attack
def sparse_members(folder: Path) -> Attack:
    """A PAX sparse member: a few bytes that stand for an exabyte of zeros."""
    records = (
        ("GNU.sparse.major", "0"),
        ("GNU.sparse.minor", "1"),
        ("GNU.sparse.name", "a.jpg"),
        ("GNU.sparse.size", str(1 << 60)),
        ("GNU.sparse.map", "0,1"),
    )
    return a_tar(folder, pax(*records) + member(b"a.jpg"), says="not_a_file")


@attack
def deep_json(folder: Path) -> Attack:
    """Brackets a million deep, in a tar and in a manifest."""
    root = a_set(folder)
    (root / MANIFEST_NAME).write_bytes(b"[" * 1_000_000)
    commands = a_tar(
        folder, member(b"a.jpg", jpeg(1)), member(b"a.json", b'{"a":' * 1_000_000), says=""
    ).commands
    return Attack([["inspect", str(root)], ["pull", str(root), str(folder / "x")], *commands], "")


@attack
def large_json(folder: Path) -> Attack:
    """Megabytes of empty lists, which are twenty times that as objects."""
    return a_tar(
        folder,
        member(b"a.jpg", jpeg(1)),
        member(b"a.json", b"[" + b"[]," * (8 * MIB) + b"[]]"),
        says="text_too_large",
    )


@attack
def odd_numbers_in_json(folder: Path) -> Attack:
    """NaN, and a number of five thousand digits."""
    root = a_set(folder)
    text = (root / MANIFEST_NAME).read_text()
    (root / MANIFEST_NAME).write_text(text.replace('"samples": 12', '"samples": ' + "9" * 5000))
    other = a_set(folder / "other")
    (other / MANIFEST_NAME).write_text(text.replace('"samples": 12', '"samples": NaN'))
    return Attack([["inspect", str(root)], ["inspect", str(other)]], "not valid JSON")


@attack
def names_twice_in_json(folder: Path) -> Attack:
    """A manifest that says one thing to us and another to the next parser."""
    root = a_set(folder)
    text = (root / MANIFEST_NAME).read_text()
    (root / MANIFEST_NAME).write_text(text.replace('"samples": 12', '"samples": 99, "samples": 12'))
    return Attack([["inspect", str(root)], ["pull", str(root), str(folder / "x")]], "a name twice")


@attack
def a_huge_manifest(folder: Path) -> Attack:
    """A manifest of ten gigabytes; the file is a hole."""
    root = a_set(folder)
    os.truncate(root / MANIFEST_NAME, 10 << 30)
    return Attack([["inspect", str(root)], ["pull", str(root), str(folder / "x")]], "larger than")


@attack
def files_listed_twice(folder: Path) -> Attack:
    """A manifest with the same path twice, and with itself among its files."""
    root, other = a_set(folder), a_set(folder / "other")
    rewrite(root, lambda body: body["files"].append(body["files"][0] | {"path": "readme.MD"}))
    rewrite(
        other, lambda body: body["files"].append(body["files"][0] | {"path": "Anchor_Set.json"})
    )
    return Attack(
        [["inspect", str(root)], ["inspect", str(other)], ["pull", str(other), str(folder / "x")]],
        "path",
    )


@attack
def endless_sources(folder: Path) -> Attack:
    """Files that are longer than the manifest says: no more than that is fetched."""
    root = a_set(folder)
    os.truncate(root / f"{SHARD}.tar", 20 << 30)
    return Attack(
        [["pull", str(root), str(folder / "x")]], "is not the file that the manifest names"
    )


@attack
def a_png_bomb(folder: Path) -> Attack:
    """A few kilobytes that are 20,000 x 20,000 pixels."""
    return an_image(folder, png(20_000, 20_000, 1, 0, [bytes(2501)] * 20_000))


@attack
def a_png_with_alpha(folder: Path) -> Attack:
    """As many pixels as are allowed, of the kind that takes the most memory."""
    made = an_image(folder, png(8000, 8000, 8, 6, [bytes(32_001)] * 8000))
    return Attack(made.commands, None)


@attack
def a_jpeg_bomb(folder: Path) -> Attack:
    """A JPEG whose header claims 65,500 x 65,500 pixels."""
    data = bytearray(jpeg(1))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    return an_image(folder, bytes(data))


@attack
def a_webp_bomb(folder: Path) -> Attack:
    """A WebP of more pixels than are allowed in a few kilobytes."""
    out = io.BytesIO()
    Image.new("RGB", (8100, 8100)).save(out, "WEBP", lossless=True, method=0)
    return an_image(folder, out.getvalue())


@attack
def a_png_of_texts(folder: Path) -> Attack:
    """A compressed text beside the pixels, of a quarter of a gigabyte."""
    packer = zlib.compressobj(1)
    packed = b"".join([*(packer.compress(bytes(MIB)) for _ in range(256)), packer.flush()])
    text = b"k\0\0" + packed
    chunk = (
        struct.pack(">I", len(text))
        + b"zTXt"
        + text
        + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    )
    made = an_image(folder, png(8, 8, 8, 0, [bytes(9)] * 8, chunk))
    return Attack(made.commands, "corrupt_image")


@attack
def programs_as_images(folder: Path) -> Attack:
    """PostScript, which some decoders hand to an interpreter."""
    made = an_image(folder, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(OWNED) (w) file\n")
    return Attack(made.commands, "not_an_image")


@attack
def a_parquet_that_inflates(folder: Path) -> Attack:
    """One text of 260 MB of zeros, in a few kilobytes of zstd."""
    text = pa.array(["\0" * (260 * MIB)])
    return with_parquet(
        folder,
        as_parquet(records_of(1, text=text), compression="zstd", use_dictionary=False),
        samples=1,
        says="claim to inflate",
    )


@attack
def a_dictionary_bomb(folder: Path) -> Attack:
    """A text of a megabyte, in each of 100,000 rows."""
    text = pa.DictionaryArray.from_arrays(
        pa.array([0] * 100_000, pa.int32()), pa.array(["y" * MIB])
    )
    fields = [
        text if name == "text" else pa.nulls(100_000, RECORDS.field(name).type)
        for name in RECORDS.names
    ]
    table = pa.table(fields, names=RECORDS.names)
    return with_parquet(
        folder,
        as_parquet(table, compression="zstd", store_schema=False),
        100_000,
        "texts would take",
    )


@attack
def a_billion_rows(folder: Path) -> Attack:
    """Rows of nothing, which a run-length code writes in a few bytes."""
    table = records_of(4_000_000)
    return with_parquet(
        folder,
        as_parquet(table, compression="zstd", row_group_size=4_000_000),
        4_000_000,
        "claims more than",
    )


@attack
def a_row_count_that_lies(folder: Path) -> Attack:
    """The footer claims rows that are not there."""
    data = changed_rows(folder)
    return with_parquet(folder, data, samples=4, says="rows where 4 are due")


@attack
def delta_texts(folder: Path) -> Attack:
    """Texts that each repeat the one before, at no cost."""
    text = pa.array(["z" * MIB] * 3)
    table = records_of(3, text=text)
    data = as_parquet(table, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"})
    return with_parquet(folder, data, 3, "encoding 7")


@attack
def a_deep_schema(folder: Path) -> Attack:
    """A schema nested 100,000 deep: pyarrow's stack ends, and Python with it."""

    def number(value: int) -> bytes:
        value <<= 1
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    node = b"\x35" + number(0) + b"\x18\x01g" + b"\x15" + number(1) + b"\0"
    leaf = b"\x15" + number(1) + b"\x25" + number(0) + b"\x18\x01x\0"
    count = 100_001
    size = bytes([count & 127 | 128, count >> 7 & 127 | 128, count >> 14])
    footer = (
        b"\x15" + number(1) + b"\x19\xfc" + size + node * (count - 1) + leaf + b"\x16\0\x19\x0c\0"
    )
    return with_parquet(
        folder, b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1", says="nodes"
    )


@attack
def a_footer_that_lies(folder: Path) -> Attack:
    """A footer longer than the file."""
    data = changed_rows(folder)
    return with_parquet(
        folder, data[:-8] + struct.pack("<I", (1 << 32) - 1) + b"PAR1", says="footer claims"
    )


@attack
def offsets_below_zero(folder: Path) -> Attack:
    """Offsets before the tar: seeks from its end, in some languages."""
    return bad_offsets(folder, -1, 100)


@attack
def offsets_beyond_the_end(folder: Path) -> Attack:
    """Offsets after the tar, beyond what 64 bits hold when the size is added."""
    return bad_offsets(folder, (1 << 63) - 1, 100)


@attack
def sizes_that_are_huge(folder: Path) -> Attack:
    """An image of half an exabyte, for which memory is taken before it is read."""
    return bad_offsets(folder, 0, 1 << 59)


def bad_offsets(folder: Path, offset: int, size: int) -> Attack:
    made = with_parquet(folder, changed_rows(folder, image_offset=offset, image_size=size))
    return Attack([["read:set", made.commands[0][1]]], "bad_range")


# Gallery and terminal


@attack
def script_in_texts(folder: Path) -> Attack:
    """HTML in captions, classes, sources and addresses; a javascript: address; a name with HTML."""
    own = [text_record(i, text=EVIL + str(i), class_name=EVIL) for i in range(4)]
    pairs = [
        pair_record(
            i,
            text="</script>" + EVIL,
            url="javascript:alert(1)",
            license=EVIL,
            query_classes=[EVIL],
        )
        for i in range(4)
    ]
    root = a_set(folder, own=own, pairs=pairs, classes=(EVIL,))
    complete_set(str(root), renamed(root, EVIL))
    return Attack(
        [["gallery", str(root), "--output", str(folder / "page.html")], ["inspect", str(root)]]
    )


@attack
def escapes_in_names(folder: Path) -> Attack:
    """Sequences that clear a terminal or set its title, and bidirectional overrides."""
    own = [text_record(i, text=f"{ESCAPE}{BIDI}{i}", class_name=ESCAPE + BIDI) for i in range(4)]
    root = a_set(folder, own=own, classes=(ESCAPE + BIDI,))
    complete_set(str(root), renamed(root, ESCAPE + BIDI))
    return Attack(
        [
            ["inspect", str(root)],
            ["inspect", str(root), "--json"],
            ["gallery", str(root), "--output", str(folder / "page.html")],
        ]
    )


@attack
def escapes_in_errors(folder: Path) -> Attack:
    """The same, in a path and in a version that an error repeats."""
    root, other = a_set(folder), a_set(folder / "other")
    rewrite(root, lambda body: body["shards"][0].update(path=ESCAPE + BIDI))
    rewrite(other, lambda body: body.update(format_version=ESCAPE + BIDI))
    return Attack(
        [["inspect", str(root)], ["inspect", str(other)], ["inspect", str(folder / ESCAPE)]], ""
    )


@attack
def script_in_a_card(folder: Path) -> Attack:
    """Provenance that would end its cell and its code; pull of a part writes the card anew."""
    root = a_set(folder)

    def change(body: dict[str, Any]) -> None:
        made = body["provenance"]
        made["captioner"] = {"name": "`" + EVIL, "weights_sha256": "x` | " + EVIL}
        made["inputs"] = [{"role": "pool", "name": "`" + EVIL, "fingerprint": "`" + EVIL}]
        made["counts"] = {"`" + EVIL: {"read": 1, "kept": 0, "dropped": {"`" + EVIL: 1}}}

    rewrite(root, change)
    return Attack([["pull", str(root), str(folder / "part"), "--shards", "0"]])


def renamed(root: Path, name: str) -> Manifest:
    manifest = Manifest.from_json((root / MANIFEST_NAME).read_bytes(), "")
    assert manifest.digest == set_digest(manifest.shards)
    return manifest.model_copy(update={"name": name})


def main() -> None:
    for name, write in ATTACKS.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir(parents=True)
        print(name, "-", (write.__doc__ or "").partition("\n")[0])
        write(folder)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    main()
