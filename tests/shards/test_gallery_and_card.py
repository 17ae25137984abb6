"""What people look at: the page, the card and the numbers."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import jpeg
from tiny_sets import pair_record, small_set, text_record

from schemas.manifest import Manifest
from shards.__main__ import main
from shards.reader import AnchorSet
from shards.showing.card import data_card
from shards.showing.gallery import gallery_of_set, spread_evenly
from shards.showing.summary import spread, summarise

NASTY = '</script><script>alert(1)</script> "quoted" & <img src=x onerror=alert(2)> \u2028😀'


class Page(HTMLParser):
    """The page as a browser would take it: tags with attributes, scripts, visible text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words = ""
        self._open = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.words += data


def test_the_page_shows_the_set_and_loads_nothing(tmp_path: Path) -> None:
    manifest = small_set(str(tmp_path))
    page = gallery_of_set(str(tmp_path), manifest)
    assert page == gallery_of_set(str(tmp_path), manifest)
    read = Page(page)
    links = [a.get("src") or a.get("href") for _, a in read.tags if "src" in a or "href" in a]
    assert links == []
    assert b"url(" not in page
    assert b"@import" not in page
    for words in ("small", "12", "text-compensated", "some/model", manifest.digest):
        assert words in read.words
    for title in ("Retrieval scores", "Caption lengths", "Class balance", "Dropped, by reason"):
        assert title in read.words
    assert "truncated image, caption" in read.words
    shown = json.loads(read.scripts[0])
    assert list(shown) == ["text-compensated", "image-text-pair"]
    first = shown["text-compensated"][0]
    assert first["texts"] == ["a circle number 0"]
    assert first["classes"] == ["circle"]
    pictures = json.loads(read.scripts[1])
    assert pictures[first["image"]] == "data:image/jpeg;base64," + b64encode(jpeg(0)).decode()
    assert len(pictures) == 12
    pair = shown["image-text-pair"][2]
    assert (pair["score"], pair["rank"], pair["queries"]) == (0.52, 2, 3)


def test_data_stays_data(tmp_path: Path) -> None:
    manifest = small_set(
        str(tmp_path),
        own=[text_record(0, NASTY, class_name=NASTY), text_record(1)],
        pairs=[pair_record(2, NASTY, query_classes=[NASTY], license=NASTY, url="javascript:x")],
        classes=(NASTY,),
    )
    manifest = manifest.model_copy(update={"name": NASTY})
    read = Page(gallery_of_set(str(tmp_path), manifest))
    assert [tag for tag, _ in read.tags if tag in ("img", "iframe", "object", "link", "a")] == []
    assert len(read.scripts) == 3
    assert not [a for _, a in read.tags if any(name.startswith("on") for name in a)]
    shown = json.loads(read.scripts[0])
    assert shown["text-compensated"][0]["texts"] == [NASTY]
    assert "alert" not in read.scripts[1] + read.scripts[2]
    policy = next(a["content"] for _, a in read.tags if "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    card = data_card(manifest)
    assert "<script" not in re.sub(r"\\<", "", card.split("---", 2)[2])


def test_a_corrupt_image_has_a_placeholder(tmp_path: Path) -> None:
    manifest = small_set(str(tmp_path))
    row = AnchorSet.open(str(tmp_path)).table(manifest.shards[0]).to_pylist()[1]
    tar = tmp_path / manifest.shards[0].path
    data = bytearray(tar.read_bytes())
    data[row["image_offset"] : row["image_offset"] + 9] = bytes(9)
    tar.write_bytes(bytes(data))
    shown = json.loads(Page(gallery_of_set(str(tmp_path), manifest)).scripts[0])
    card = shown["text-compensated"][1]
    assert "image" not in card
    assert card["problem"] == "hash mismatch"


def test_pictures_lie_in_blocks_that_the_page_can_find(tmp_path: Path) -> None:
    manifest = small_set(str(tmp_path), own=[text_record(i) for i in range(70)])
    read = Page(gallery_of_set(str(tmp_path), manifest))
    blocks = {
        a["id"]: i
        for i, (tag, a) in enumerate(t for t in read.tags if t[0] == "script")
        if a.get("id")
    }
    assert list(blocks) == ["anchors", "pictures-0", "pictures-1"]
    size = int(next(a["data-block"] or "" for _, a in read.tags if "data-block" in a))
    shown = json.loads(read.scripts[0])
    for card in shown["text-compensated"][:60:7] + shown["image-text-pair"]:
        block = json.loads(read.scripts[blocks[f"pictures-{card['image'] // size}"]])
        number = int(card["texts"][0].split()[-1])
        assert block[card["image"] % size].endswith(b64encode(jpeg(number)).decode())


def test_the_limit_holds_and_shows_every_class(tmp_path: Path) -> None:
    own = [text_record(i, class_name="many" if i < 50 else f"c{i}") for i in range(53)]
    manifest = small_set(str(tmp_path), own=own, pairs=[])
    shown = json.loads(Page(gallery_of_set(str(tmp_path), manifest, 9)).scripts[0])
    names = [card["classes"][0] for card in shown["text-compensated"]]
    assert names == ["many"] * 6 + ["c50", "c51", "c52"]


@given(st.lists(st.sampled_from("abcdef")), st.integers(1, 30))
def test_sampling_is_even(groups: list[str], limit: int) -> None:
    chosen = spread_evenly(groups, limit)
    assert len(chosen) == len(set(chosen)) == min(limit, len(groups))
    assert chosen == sorted(chosen)
    taken = {g: sum(groups[i] == g for i in chosen) for g in set(groups)}
    # a group that was not shown whole has at most one fewer than any other
    short = [taken[g] for g in taken if taken[g] < groups.count(g)]
    if short:
        assert max(taken.values()) <= min(short) + 1


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_a_histogram_holds_every_number(values: list[float]) -> None:
    import numpy as np

    found = spread(np.asarray(values, np.float64))
    assert found is not None
    assert sum(found.bins) == len(values)
    assert len(found.bins) <= 32
    assert found.edges[0] <= min(values) + 1e-6
    assert found.edges[-1] >= max(values) - 1e-6


def test_the_numbers_are_those_of_the_set(tmp_path: Path) -> None:
    small_set(str(tmp_path))
    found = summarise(AnchorSet.open(str(tmp_path)))
    assert found.kinds == {"text-compensated": 6, "image-text-pair": 6}
    assert found.classes["text-compensated"] == {"circle": 6}
    assert found.classes["image-text-pair"] == {"bar": 2, "circle": 2, "square": 2}
    assert found.scores is not None
    assert (found.scores.least, found.scores.most) == (0.5, 0.55)
    assert found.words["text-compensated"].median == 4


def test_the_card_says_what_people_ask(tmp_path: Path) -> None:
    manifest = small_set(str(tmp_path))
    card = data_card(manifest)
    assert card == data_card(Manifest.from_json(manifest.to_json(), "here"))
    assert card.startswith("---\n")
    for words in ("some/model", "truncated\\_image 2", "## Licence", "## Known limits", "circle"):
        assert words in card
    code = card.split("```python\n")[1].split("```")[0]
    place = f"{tmp_path}/text-compensated/"
    code = code.replace("text-compensated/", place).replace("    ...", "    texts.append(text)")
    scope: dict[str, list[str]] = {"texts": []}
    exec(code, scope)  # the card's own example
    assert scope["texts"] == [f"a circle number {i}" for i in range(6)]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = small_set(str(tmp_path / "set"))
    assert main(["inspect", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "small: 12 anchors" in said
    assert "score: 0.5 to 0.55" in said
    assert main(["inspect", "--json", str(tmp_path / "set")]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"]["image-text-pair"] == 6
    page = tmp_path / "page.html"
    assert main(["gallery", str(tmp_path / "set"), "--output", str(page), "--limit", "600"]) == 0
    assert page.read_bytes() == gallery_of_set(str(tmp_path / "set"), manifest)
    capsys.readouterr()
    assert main(["gallery", str(tmp_path / "set"), "--output", str(page), "--json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said) == {"output": str(page), "bytes": page.stat().st_size}
    own = str(tmp_path / "set" / "text-compensated" / "00000.tar")
    assert main(["gallery", str(tmp_path / "set"), "--output", own]) == 2
    assert "is a file of the set" in capsys.readouterr().err


def test_the_command_line_fails_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("anchorft-shards: error: ")
    assert said.count("\n") == 1
