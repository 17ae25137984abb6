"""Selections: what passes, what is counted, what is an error."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import CLASSES
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED
from shards.__main__ import main
from shards.deriving.reshard import reshard
from shards.deriving.subset import Selection, key_hashes, lowest_per_group, subset
from shards.reader import AnchorSet

PAIRS = [
    pair_record(0, license="CC-BY", punsafe=0.1, pwatermark=0.9, nsfw="UNLIKELY"),
    pair_record(1, license="?", punsafe=0.2, pwatermark=0.1, nsfw="NSFW"),
    pair_record(2, license="cc-by", punsafe=0.3, pwatermark=0.1, nsfw="unlikely"),
    pair_record(3, punsafe=0.4, pwatermark=0.1, nsfw="UNSURE"),
    pair_record(4, query_classes=["circle", "square"]),
    pair_record(5, query_classes=[]),
]
OWN = [text_record(i, class_name=CLASSES[i % 2]) for i in range(6)]


@pytest.fixture
def anchors(tmp_path: Path) -> str:
    small_set(str(tmp_path / "a"), OWN, PAIRS)
    return str(tmp_path / "a")


def chosen(anchors: str, selection: Selection) -> tuple[list[str], dict[str, int]]:
    """Source keys by kind (``t3``, ``p1``), and what was dropped."""
    out = f"{anchors}-{hashlib.sha256(repr(selection).encode()).hexdigest()[:8]}"
    made = subset(anchors, out, selection)
    counts = made.manifest.provenance.counts["subset"]
    assert counts.read == 12 == counts.kept + sum(counts.dropped.values())
    table = [AnchorSet.open(out).table(shard).to_pylist() for shard in made.manifest.shards]
    rows = [row for rows in table for row in rows]
    letter = {TEXT_COMPENSATED: "t", IMAGE_TEXT_PAIR: "p"}
    return [letter[row["kind"]] + row["source_key"] for row in rows], counts.dropped


ALL_OWN = [f"t{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("selection", "left", "dropped"),
    [
        (Selection(kinds=("text-compensated",)), ALL_OWN, {"kind": 6}),
        (Selection(classes=("square",)), ["t1", "t3", "t5", "p1", "p4"], {"class": 7}),
        (Selection(classes=("bar",)), ["p2"], {"class": 11}),
        (
            Selection(min_score=0.51, max_score=0.53),
            [*ALL_OWN, "p1", "p2", "p3"],
            {"min_score": 1, "max_score": 2},
        ),
        (Selection(licenses=("Cc-By",)), ["p0", "p2"], {"license": 10}),
        (
            Selection(kinds=("image-text-pair",), licenses=("unknown",)),
            ["p1", "p3", "p4", "p5"],
            {"kind": 6, "license": 2},
        ),
        (
            Selection(max_punsafe=0.2, missing="keep"),
            [*ALL_OWN, "p0", "p1", "p4", "p5"],
            {"max_punsafe": 2},
        ),
        (
            Selection(max_punsafe=0.3, max_pwatermark=0.5, missing="drop"),
            ["p1", "p2"],
            {"max_punsafe": 9, "max_pwatermark": 1},
        ),
        (
            Selection(nsfw=("UNLIKELY",), missing="drop-pairs"),
            [*ALL_OWN, "p0", "p2"],
            {"nsfw": 4},
        ),
    ],
    ids=str,
)
def test_what_passes_and_what_is_counted(
    anchors: str, selection: Selection, left: list[str], dropped: dict[str, int]
) -> None:
    assert chosen(anchors, selection) == (left, dropped)


def test_a_missing_column_is_an_error_unless_it_is_said_what_to_do(anchors: str) -> None:
    with pytest.raises(UserError, match=r"text-compensated anchors that say nothing of punsafe"):
        subset(anchors, f"{anchors}-out", Selection(max_punsafe=0.5))
    with pytest.raises(UserError, match=rf"{PAIRS[4].key} is one.*--missing keep, drop or drop-p"):
        subset(anchors, f"{anchors}-out", Selection(kinds=(IMAGE_TEXT_PAIR,), nsfw=("NSFW",)))
    assert not Path(f"{anchors}-out").exists()
    # Anchors that are out for another reason are not asked.
    asked = Selection(licenses=("cc-by",), max_punsafe=0.5)
    assert chosen(anchors, asked)[0] == ["p0", "p2"]


def test_a_class_that_is_not_there_and_a_selection_of_nothing(anchors: str) -> None:
    with pytest.raises(UserError, match="has no class 'cube'"):
        subset(anchors, f"{anchors}-out", Selection(classes=("circle", "cube")))
    with pytest.raises(UserError, match=r"would leave no anchor .*kind 6, min_score 6.*nothing"):
        subset(anchors, f"{anchors}-out", Selection(kinds=(IMAGE_TEXT_PAIR,), min_score=0.9))
    assert not Path(f"{anchors}-out").exists()


def test_a_fraction_follows_the_key_alone(anchors: str, tmp_path: Path) -> None:
    half = chosen(anchors, Selection(fraction=0.5, seed=3))[0]
    most = chosen(anchors, Selection(fraction=0.8, seed=3))[0]
    assert set(half) < set(most) < {*ALL_OWN, *(f"p{i}" for i in range(6))}
    reshard(anchors, str(tmp_path / "other"), shard_size=1)
    assert chosen(str(tmp_path / "other"), Selection(fraction=0.5, seed=3))[0] == half
    assert any(
        chosen(anchors, Selection(fraction=0.5, seed=seed))[0] != half for seed in range(4, 8)
    )


def test_a_fraction_is_about_that_share() -> None:
    drawn = key_hashes([f"k{i}" for i in range(20_000)], 1, 0) / 2.0**64
    for share in (0.01, 0.3, 0.9):
        assert abs((drawn < share).mean() - share) < 0.01


def test_a_limit_per_class_takes_from_every_class(anchors: str) -> None:
    left, dropped = chosen(anchors, Selection(limit_per_class=1))
    # Texts are of two classes; of the pairs p0, p3, p4 are of circle and p5 is of none.
    assert dropped == {"limit_per_class": 4 + 2}
    assert {"p2", "p5"} < set(left)
    assert len({"t0", "t2", "t4"} & set(left)) == len({"t1", "t3", "t5"} & set(left)) == 1
    assert len({"p0", "p3", "p4"} & set(left)) == len({"p1"} & set(left)) == 1
    among = chosen(anchors, Selection(classes=("square",), limit_per_class=1))[0]
    assert len({"p1", "p4"} & set(among)) == 1, "p4 was not asked for as a circle"


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.sampled_from([None, "a", "b"]))))
def test_the_lowest_of_a_group(items: list[tuple[int, str | None]]) -> None:
    hashes = np.array([number for number, _ in items], np.uint64)
    passes = lowest_per_group(hashes, [group for _, group in items], 2)
    for group in ("a", "b"):
        mine = [(h, bool(p)) for (h, g), p in zip(items, passes, strict=True) if g == group]
        kept = sorted(h for h, p in mine if p)
        assert kept == sorted(h for h, _ in mine)[:2]
    assert all(p for (_, g), p in zip(items, passes, strict=True) if g is None)


def test_the_command(anchors: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "classes.txt").write_text("square\n")
    out = str(tmp_path / "out")
    chosen = ["--class", "bar", "--class-file", str(tmp_path / "classes.txt"), "--seed", "5"]
    assert main(["subset", anchors, "--output", out, *chosen, "--name", "few", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["counts"]["subset"] == {"read": 12, "kept": 6, "dropped": {"class": 6}}
    manifest = AnchorSet.open(out).manifest
    assert (manifest.name, manifest.digest) == ("few", body["digest"])
    assert manifest.classes == list(CLASSES), "numbers must stay"
    made = manifest.provenance
    assert made.config["options"] == {"classes": ["bar", "square"], "shard_size": 6}
    assert made.parents == [AnchorSet.open(anchors).manifest.digest]
    # The same by another way of saying it is there already; anything else is refused.
    again = ["--class", "square", "--class", "bar", "--name", "few"]
    assert main(["subset", anchors, "--output", out, *again]) == 0
    assert "was there already" in capsys.readouterr().out
    assert main(["subset", anchors, "--output", out, "--class", "bar"]) == 2
    assert "already holds another set" in capsys.readouterr().err
    assert main(["subset", anchors, "--output", f"{out}2"]) == 2
    assert "something to select by" in capsys.readouterr().err
