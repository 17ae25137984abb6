"""A pool of which 5 % is broken in every way that a download breaks: counted by reason."""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from pathlib import Path

import pytest
from tiny_builds import build
from tiny_data import encoded, jpeg, pair, picture, write_tar

from schemas.manifest import Counts, Manifest
from schemas.record import IMAGE_TEXT_PAIR
from shards.reader import AnchorSet
from shards.sources import raise_bad

TARS, PER_TAR = 5, 44
WORST = "00003.tar"


def huge_png() -> bytes:
    """A PNG whose header claims 300 megapixels; a few bytes that would inflate to a gigabyte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 20_000, 15_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def without(members: list[tuple[str, bytes]], ext: str) -> list[tuple[str, bytes]]:
    return [member for member in members if not member[0].endswith(ext)]


def broken_pool(root: Path) -> Counter[str]:
    """Returns how many samples are bad, by reason; blank captions are for the screen stage."""
    bad: Counter[str] = Counter()
    for number in range(TARS):
        members: list[tuple[str, bytes]] = []
        for n in range(PER_TAR):
            key, i = f"{number:05d}{n:04d}", number * PER_TAR + n
            image, text = jpeg(1000 + i), f"a pair number {i}"
            whole = pair(key, image, text)
            if n == 7:
                whole = pair(key, image, " \n" if number % 2 else "")
                bad["empty_text"] += 1
            elif n == 11 and number in (1, 3):
                whole = without(whole, ".json")
                bad["missing_json"] += 1
            elif n == 20 and number in (2, 3):
                whole = pair(key, encoded(picture(i, (200, 200)))[:2000], text)
                bad["truncated_image"] += 1
            elif (number, n) == (3, 30):
                whole = pair(key, huge_png(), text)
                bad["too_many_pixels"] += 1
            elif (number, n) == (0, 30):
                whole = [(f"{key}.gif", image), *without(whole, ".jpg")]  # no name of an image
                bad["no_image"] += 1
            elif (number, n) == (4, 30):
                whole = pair(key, encoded(picture(i), "GIF"), text)  # called .jpg
                bad["unsupported_format"] += 1
            elif (number, n) == (4, 31):
                whole = pair(key, encoded(picture(i), "PNG"), text)  # called .jpg, and good
            elif number == 3 and n in (33, 34):
                whole = pair(f"{number:05d}{5:04d}", image, text)
                bad["duplicate_key"] += n == 33  # the next of the same key is of the same sample
            members += whole
        write_tar(root / f"{number:05d}.tar", members)
    place = root / "00001.tar"
    data = place.read_bytes()
    place.write_bytes(data[: data.index(b"000010043.json") + 700])  # in the last sample
    bad["truncated_tar"] += 1
    return bad


def counts(output: Path) -> dict[str, Counts]:
    text = (output / "anchor_set.json").read_bytes()
    return Manifest.from_json(text, str(output)).provenance.counts


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    root = tmp_path_factory.mktemp("broken") / "pool"
    return root, broken_pool(root)


def test_it_builds_with_each_counted_by_its_reason(
    broken: tuple[Path, Counter[str]], finetune: Path, tmp_path: Path
) -> None:
    pool, bad = broken
    only = ("--kinds", IMAGE_TEXT_PAIR, "--max_bad_fraction", "0.06", "--k", "20")
    built = build(finetune, pool, tmp_path / "set", *only)
    assert built.code == 0, built.err
    made = counts(tmp_path / "set")
    embedded, screened = made["embed-pool"], made["screen"]
    assert screened.dropped == {"empty_text": bad["empty_text"]}
    assert embedded.dropped == {r: n for r, n in bad.items() if r != "empty_text"}
    assert embedded.read == embedded.kept + sum(embedded.dropped.values())
    assert 0.05 < sum(bad.values()) / embedded.read < 0.07
    line = next(line for line in built.out.splitlines() if line.startswith("embed-pool: "))
    for reason, number in embedded.dropped.items():
        assert f"{reason} {number}" in line
    found = list(AnchorSet.open(str(tmp_path / "set")).samples(raise_bad))
    assert len(found) > 20
    assert {record.image_ext for record, _ in found} <= {"jpg", "png"}


def test_above_the_ceiling_it_names_the_worst_shard(
    broken: tuple[Path, Counter[str]], finetune: Path, tmp_path: Path
) -> None:
    pool, bad = broken
    built = build(finetune, pool, tmp_path / "set", "--kinds", IMAGE_TEXT_PAIR)
    assert built.code == 2
    number = sum(bad.values()) - bad["empty_text"]
    assert f"embed-pool: {number} of " in built.sentence
    assert f"the worst part is {WORST}, e.g. 00003" in built.sentence
    assert "raise --max_bad_fraction" in built.sentence
    assert not (tmp_path / "set").exists()
    assert json.loads((tmp_path / "set.work" / "build.json").read_text())
