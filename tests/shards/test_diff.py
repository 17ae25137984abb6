"""Differences of two sets: of records, images, classes, manifests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_sets import pair_record, small_set, text_record

from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED
from shards.__main__ import main
from shards.deriving.diff import IMAGE, Changed, diff
from shards.deriving.merge import merge
from shards.deriving.reshard import reshard
from shards.deriving.strip import strip


def test_every_kind_of_difference_is_found(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    small_set(a, [text_record(i) for i in range(4)], [pair_record(i) for i in range(4)])
    other = pair_record(2, score=0.9, rank=0)
    newer = other.model_validate(other.model_dump() | {"mood": "calm"})
    small_set(
        b,
        [text_record(i) for i in (5, 3, 0, 2)],
        [newer, *(pair_record(i) for i in (0, 3, 4, 6))],
        ("circle", "square", "bar", "star"),
    )
    found = diff(a, b)
    assert found.only_a == [text_record(1).key, pair_record(1).key]
    assert found.only_b == [text_record(5).key, pair_record(4).key, pair_record(6).key]
    fields = {"score": (0.52, 0.9), "rank": (2, 0), "mood": (None, "calm")}
    assert found.changed == [Changed(newer.key, fields)]
    assert found.equal == 5
    assert found.kinds == {
        "only_a": {TEXT_COMPENSATED: 1, IMAGE_TEXT_PAIR: 1},
        "only_b": {TEXT_COMPENSATED: 1, IMAGE_TEXT_PAIR: 2},
        "changed": {IMAGE_TEXT_PAIR: 1},
    }
    assert found.classes["only_b"] == {
        TEXT_COMPENSATED: {"circle": 1},
        IMAGE_TEXT_PAIR: {"circle": 1, "square": 1},
    }
    assert found.manifest["samples"] == (8, 9)
    assert found.manifest["classes"][1] == ["circle", "square", "bar", "star"]
    back = diff(b, a)
    assert (back.only_a, back.only_b) == (found.only_b, found.only_a)


def test_order_and_shards_are_no_difference_of_records(tmp_path: Path) -> None:
    a, b, c = (str(tmp_path / name) for name in "abc")
    small_set(a)
    reshard(a, b, shard_size=4)
    found = diff(a, b)
    assert found.same_records
    assert found.equal == 12
    assert found.manifest["shards"][0] == {TEXT_COMPENSATED: [3, 3], IMAGE_TEXT_PAIR: [6]}
    small_set(c, [text_record(i) for i in reversed(range(6))])
    assert set(diff(a, c).manifest) == {"digest"}
    assert diff(a, c).same_records


def test_a_missing_image_is_a_difference(tmp_path: Path) -> None:
    a, b, c = (str(tmp_path / name) for name in "abc")
    small_set(a)
    strip(a, b, pairs="keep")
    found = diff(a, b)
    wanted = {IMAGE: ("present", "absent")}
    assert found.changed == [Changed(text_record(i).key, wanted) for i in range(6)]
    merge([b, a], c)
    assert diff(a, c).same_records


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = (str(tmp_path / name) for name in "abc")
    small_set(a)
    small_set(b, [text_record(i, text="\x1b[2Jgone" if i == 1 else None) for i in range(1, 7)])
    reshard(a, c, shard_size=1)
    assert main(["diff", a, a]) == 0
    assert capsys.readouterr().out == "equal records: 12\n"
    assert main(["diff", a, c]) == 1
    assert main(["diff", a, c, "--records-only"]) == 0
    capsys.readouterr()
    assert main(["diff", a, b, "--json"]) == 1
    body = json.loads(capsys.readouterr().out)
    assert body["same"] is False
    assert body["only_a"] == [text_record(0).key]
    assert body["changed"] == {text_record(1).key: {"text": ["a circle number 1", "\x1b[2Jgone"]}}
    assert main(["diff", a, b]) == 1
    out = capsys.readouterr().out
    assert "only in A: 1\n  text-compensated: 1 (circle 1)\n" in out
    assert "\x1b" not in out, "texts of the data must not drive the terminal"
    assert main(["diff", a, str(tmp_path / "none")]) == 2
    assert "is not an anchor set" in capsys.readouterr().err
