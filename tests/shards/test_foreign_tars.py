"""Tars from anybody: what is wrong is named and counted once, and nothing is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_data import jpeg, pair, pool, write_tar

from schemas.errors import BadSample, UserError
from shards.sources import open_pool
from shards.sources.base import Sample
from shards.tars import MAX_MEMBER_BYTES, TarSample, read_tar


class Heard:
    """An OnBad that remembers."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def __call__(self, key: str, problem: BadSample) -> None:
        self.all.append((key, problem.reason))


def samples_of(path: Path) -> tuple[list[TarSample], list[tuple[str, str]]]:
    heard = Heard()
    return list(read_tar(str(path), heard)), heard.all


def pairs_of(path: Path) -> tuple[list[Sample], list[tuple[str, str]]]:
    heard = Heard()
    source = open_pool(str(path))
    return [s for unit in source.units for s in source.read(unit, heard)], heard.all


def test_ranges_are_those_of_the_bytes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*pair("x" * 120, b"one", "t"), *pair("b.c", b"two", "u")])
    found, bad = samples_of(path)
    data = path.read_bytes()
    assert [sample.key for sample in found] == ["x" * 120, "b"]
    assert found[1].fields["c.jpg"] == b"two"
    for sample in found:
        for field, (offset, size) in sample.ranges.items():
            assert data[offset : offset + size] == sample.fields[field]
    assert bad == []


def test_a_tar_that_breaks_off_is_named_once(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", [m for k in "abc" for m in pair(k, jpeg(1), "t")])
    cut = tmp_path / "cut.tar"
    data = whole.read_bytes()
    second = samples_of(whole)[0][1].ranges["jpg"][0]
    for size, keys in (
        (0, []),
        (700, []),  # inside the first image
        (second - 300, ["a"]),  # inside the header of b.jpg
        (second + 100, ["a"]),  # inside the image
        (len(data.rstrip(bytes(1))) // 512 * 512 + 512, ["a", "b", "c"]),  # no mark of the end
    ):
        cut.write_bytes(data[:size])
        found, bad = samples_of(cut)
        assert [reason for _, reason in bad] == ["truncated_tar"], size
        assert [sample.key for sample in found] == keys, size
    cut.write_bytes(b"<html>not found</html>" * 100)
    assert samples_of(cut)[1][0][1] == "truncated_tar"


def test_an_empty_tar_is_empty(tmp_path: Path) -> None:
    assert samples_of(write_tar(tmp_path / "a.tar", [])) == ([], [])


def test_links_devices_and_giants_spoil_their_sample_only(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:

        def add(name: str, data: bytes = b"", **changes: object) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for attribute, value in changes.items():
                setattr(info, attribute, value)
            tar.addfile(info, io.BytesIO(data))

        add("link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("link.txt", b"text")
        add("hard.jpg", type=tarfile.LNKTYPE, linkname="../../secret")
        add("pipe.jpg", type=tarfile.FIFOTYPE)
        add("folder.jpg", type=tarfile.DIRTYPE)
        add("../../climbs.jpg", b"image")
        add("ok.jpg", b"image")
    found, bad = samples_of(path)
    assert [sample.key for sample in found] == ["../../climbs", "ok"]
    assert bad == [(key, "not_a_file") for key in ("link", "hard", "pipe")]
    assert not (tmp_path.parent.parent / "climbs.jpg").exists()

    header = tarfile.TarInfo("big.jpg")
    header.size = MAX_MEMBER_BYTES + 1
    path.write_bytes(header.tobuf() + bytes(1024))
    assert ("big", "member_too_large") in samples_of(path)[1]


def test_members_that_could_run_are_bytes_to_us(tmp_path: Path) -> None:
    mark = tmp_path / "owned"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {mark}",)

    evil = pickle.dumps(Evil())
    names = ("pyd", "pickle", "pkl", "pth", "npy")
    members = [(f"a.{name}", evil) for name in names]
    path = write_tar(tmp_path / "a.tar", [*pair("a", jpeg(1), "text"), *members])
    found, bad = pairs_of(path)
    assert [sample.text for sample in found] == ["text"]
    assert bad == []
    assert not mark.exists()


def test_a_key_counts_once_however_often_it_comes(tmp_path: Path) -> None:
    members = [*pair("a", b"1", "first"), *pair("b", b"2", "t"), *pair("a", b"3", "again")]
    found, bad = pairs_of(write_tar(tmp_path / "far.tar", members))
    assert [(s.source_key, s.text) for s in found] == [("a", "first"), ("b", "t")]
    assert bad == [("a", "duplicate_key")]
    members = [*pair("a", b"1", "first"), *pair("a", b"3", "again"), *pair("b", b"2", "t")]
    found, bad = pairs_of(write_tar(tmp_path / "near.tar", members))
    assert [s.source_key for s in found] == ["b"]
    assert bad == [("a", "duplicate_key")]


def test_names_that_are_no_utf8_become_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("caf\udce9.jpg")
        tar.addfile(info, io.BytesIO())
    found, bad = samples_of(path)
    assert [sample.key.encode() for sample in found] == [rb"caf\udce9"]
    assert bad == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_damage_raises(tmp_path: Path, data: st.DataObject) -> None:
    members = [member for key in "ab" for member in pair(key, b"x" * 9, "t")]
    raw = bytearray(write_tar(tmp_path / "a.tar", members).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    broken = tmp_path / "broken.tar"
    broken.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    found, bad = pairs_of(broken)
    for key, reason in [*bad, *[(sample.source_key, "") for sample in found]]:
        assert f"{key} {reason}".encode()


def test_an_img2dataset_folder_is_its_tars(tmp_path: Path) -> None:
    source = open_pool(str(pool(tmp_path / "laion")))
    assert [unit.name for unit in source.units] == ["00000.tar", "00001.tar", "00002.tar"]
    found, bad = pairs_of(tmp_path / "laion")
    assert len(found) == 24
    assert bad == []
    assert found[9].text == "a circle number 9"
    assert found[9].web == {"url": "https://example.org/9.jpg", "license": "?", "punsafe": 0.25}


@pytest.mark.parametrize("spelling", ["laion", "./laion", "laion/", "laion/{00000..00002}.tar"])
def test_a_relative_place_keeps_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    pool(tmp_path / "laion")
    monkeypatch.chdir(tmp_path)
    source = open_pool(spelling)
    assert [unit.name for unit in source.units] == ["00000.tar", "00001.tar", "00002.tar"]
    assert len(list(source.read(source.units[1], Heard()))) == 8


def test_tars_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool(tmp_path)
    monkeypatch.chdir(tmp_path)
    for spelling in ("{00000..00001}.tar", "0000[01].tar"):
        assert [unit.name for unit in open_pool(spelling).units] == ["00000.tar", "00001.tar"]


@pytest.mark.parametrize(
    ("about", "text", "web"),
    [
        ({"TEXT": "from\nLAION", "URL": "u", "NSFW": "UNLIKELY"}, "from\nLAION", {"url", "nsfw"}),
        ({"caption": "half \ud800 a pair"}, "half ? a pair", set()),
        ({"caption": "😀\0", "punsafe": "0.5", "similarity": float("nan")}, "😀\0", {"punsafe"}),
        ({"caption": None, "pwatermark": 10**400, "punsafe": float("inf")}, None, set()),
        ({"caption": ["a", 1], "LICENSE": 3}, "['a', 1]", {"license"}),
    ],
)
def test_odd_metadata(
    tmp_path: Path, about: dict[str, object], text: str | None, web: set[str]
) -> None:
    members = [("a.jpg", b"x"), ("a.json", json.dumps(about).encode())]
    found, bad = pairs_of(write_tar(tmp_path / "a.tar", members))
    assert bad == []
    assert found[0].text == text
    assert set(found[0].web) == web


def test_reasons_of_samples_that_are_no_pairs(tmp_path: Path) -> None:
    members = [
        ("a.txt", b"no image"),
        *[("b.jpg", b"x"), ("b.json", b"{")],
        *[("c.jpg", b"x"), ("c.json", b"[" * 100_000)],
        *[("d.JPG", b"shouting is fine"), ("d.json", b"{}")],
        ("e.jpg", b"the others have a json"),
    ]
    found, bad = pairs_of(write_tar(tmp_path / "a.tar", members))
    assert [sample.source_key for sample in found] == ["d"]
    assert Counter(reason for _, reason in bad) == {
        "no_image": 1,
        "bad_json": 2,
        "missing_json": 1,
    }


def test_a_pool_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.tar"):
        open_pool(str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"/9\.tar' is not there"):
        open_pool(str(tmp_path / "{9..9}.tar"))
