"""Captions without images: written, read, trained on, and joined to the receiver's own images."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import webdataset
from tiny_data import CLASSES, jpeg, pair, write_tar
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED
from shards.__main__ import main
from shards.decoding import Tally
from shards.deriving.join import join
from shards.deriving.reshard import reshard
from shards.deriving.strip import strip
from shards.reader import AnchorSet
from shards.sources import open_labelled
from trainer.captions import join_captions
from trainer.index import index_anchors, index_images


@pytest.fixture
def whole(tmp_path: Path) -> str:
    small_set(str(tmp_path / "whole"))
    return str(tmp_path / "whole")


@pytest.fixture
def bare(whole: str, tmp_path: Path) -> str:
    strip(whole, str(tmp_path / "bare"), pairs="keep", shard_size=3)
    return str(tmp_path / "bare")


def folder(root: Path, images: dict[str, int]) -> str:
    """An image folder: path to the number of its picture."""
    for path, number in images.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(jpeg(number))
    return str(root)


def contents(place: str) -> list[tuple[object, bytes | None]]:
    bad: list[str] = []
    found = list(AnchorSet.open(place).samples(lambda key, problem: bad.append(key)))
    assert bad == []
    return list(found)


def test_a_stripped_set_has_the_records_and_not_one_finetune_image(whole: str, bare: str) -> None:
    before, after = contents(whole), contents(bare)
    assert [record for record, _ in after] == [record for record, _ in before]
    assert [image for _, image in after] == [None] * 6 + [image for _, image in before[6:]]
    shard = str(Path(bare) / TEXT_COMPENSATED / "00000.tar")
    read = list(webdataset.WebDataset(shard, shardshuffle=False).decode())
    assert [(one["txt"], one["json"]["image_sha256"]) for one in read] == [
        (record.text, record.image_sha256) for record, _ in before[:3]
    ]
    assert all(set(one) == {"__key__", "__url__", "__local_path__", "txt", "json"} for one in read)


def test_no_file_of_a_stripped_set_shows_a_finetune_image(whole: str, tmp_path: Path) -> None:
    reshard(whole, str(tmp_path / "same"), shard_size=6)
    strip(whole, str(tmp_path / "captions"), pairs="drop")

    def holding(place: Path, i: int) -> set[str]:
        # The gallery shows small images as they are, in base64.
        wanted = (jpeg(i), base64.b64encode(jpeg(i)))
        files = [path for path in place.rglob("*") if path.is_file()]
        return {path.name for path in files if any(w in path.read_bytes() for w in wanted)}

    for i in range(6):
        assert holding(tmp_path / "same", i) == {"00000.tar", "gallery.html"}
        assert holding(tmp_path / "captions", i) == set()


def test_pairs_are_nothing_that_strip_decides_alone(whole: str, bare: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="say --pairs keep to share those images, or --pairs drop"):
        strip(whole, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    made = strip(whole, str(tmp_path / "out"), pairs="drop").manifest
    assert made.kinds == [TEXT_COMPENSATED]
    assert made.provenance.counts["strip"].dropped == {"image_text_pair": 6}
    small_set(str(tmp_path / "pairs"), own=[])
    with pytest.raises(UserError, match="holds no text-compensated anchors"):
        strip(str(tmp_path / "pairs"), str(tmp_path / "none"), pairs="keep")


def test_the_trainer_takes_a_stripped_set(bare: str, tmp_path: Path) -> None:
    data = folder(tmp_path / "mine", {f"thing/{9 - i}.jpg": i for i in range(6)})
    index = index_images(open_labelled(data), Tally())
    anchors = index_anchors(AnchorSet.open(bare), TEXT_COMPENSATED)
    found = join_captions(index, anchors, where=bare)
    assert found.matched() == found.by_content == 6
    texts = [anchors.texts.first[int(row)].as_py() for row in found.row]
    assert texts == [f"a circle number {i}" for i in reversed(range(6))]


@pytest.mark.parametrize("layout", ["folder", "tars", "list"])
def test_join_undoes_strip_whatever_the_layout(
    layout: str, whole: str, bare: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    if layout == "folder":
        place = folder(data, {f"circle/deep/{i}.jpg": i for i in range(6)})
    elif layout == "list":
        folder(data, {f"{i}.jpg": i for i in range(6)})
        rows = "".join(f"{i}.jpg\tcircle\n" for i in range(6))
        (data / "list.tsv").write_text("filepath\ttitle\n" + rows)
        place = str(data / "list.tsv")
    else:
        for half in range(2):
            members = [pair(f"s{i}", jpeg(i), None, label=0) for i in range(half, 6, 2)]
            write_tar(data / f"{half}.tar", [member for one in members for member in one])
        (data / "classnames.txt").write_text("circle\n")
        place = str(data)
    made, matching = join(bare, open_labelled(place), str(tmp_path / "out"), shard_size=6)
    assert contents(str(tmp_path / "out")) == contents(whole)
    straight = AnchorSet.open(whole).manifest
    assert {s.sha256 for s in made.manifest.shards if s.kind == IMAGE_TEXT_PAIR} == {
        s.sha256 for s in straight.shards if s.kind == IMAGE_TEXT_PAIR
    }
    assert (matching.matched, matching.had_images) == (6, 6)
    left_over = (matching.unmatched_captions, matching.unmatched_images, matching.renamed)
    assert left_over == ([], [], {})


def test_strip_then_join_gives_the_digest_back(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("whole", "bare", "again")]
    own = [text_record(i) for i in range(6)]
    before = small_set(places[0], own, [pair_record(i) for i in range(3)])
    strip(places[0], places[1], pairs="keep")
    data = folder(tmp_path / "data", {f"circle/{i}.jpg": i for i in range(6)})
    made, _ = join(places[1], open_labelled(data), places[2])
    assert made.manifest.digest == before.digest
    roles = [(given.role, given.name) for given in made.manifest.provenance.inputs]
    origin = ("parent", "small")  # the stripped set, and the one that it came from
    assert roles == [origin, ("finetune", "images-00000"), origin]


def test_what_is_left_over_on_either_side_is_told(
    bare: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {f"Circle/{i}.jpg": i for i in range(1, 6)}
    more = {"Circle/copy.jpg": 1, "square/7.jpg": 7, "square/8.jpg": 8, "ring/2.jpg": 2}
    data = folder(tmp_path / "data", images | more)
    (tmp_path / "data" / "square" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    out = str(tmp_path / "out")
    command = ["join", bare, "--finetune", data, "--output", out]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"1 of 6 captions of {bare!r} have no image in {data!r}" in error
    assert text_record(0).key in error
    assert not Path(out).exists()
    assert main([*command, "--max-unmatched", "0.2", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["matched"] == 5
    assert body["counts"]["join"] == {"read": 12, "kept": 11, "dropped": {"no_image": 1}}
    assert body["unmatched_captions"] == [text_record(0).key]
    assert [one["source"] for one in body["unmatched_images"]] == ["square/7.jpg", "square/8.jpg"]
    # A class is that of the first copy: ring/2.jpg comes after Circle/2.jpg.
    assert body["renamed_classes"] == [{"set": "circle", "data": "Circle", "images": 5}]
    assert body["unreadable_images"] == {"missing_file": 1}
    assert [record.class_name for record, _ in contents(out)][:5] == ["circle"] * 5  # type: ignore[attr-defined]
    assert main([*command, "--max-unmatched", "0.2"]) == 0
    text = capsys.readouterr().out
    assert "was there already" in text
    assert "images without a caption: 2 (square/7.jpg, square/8.jpg)" in text
    assert "class 'circle' of the set is 'Circle' in the data: 5 images" in text


def test_other_data_is_refused(bare: str, tmp_path: Path) -> None:
    data = folder(tmp_path / "data", {f"{name}/0.jpg": 50 + i for i, name in enumerate(CLASSES)})
    with pytest.raises(UserError, match="6 of 6 captions"):
        join(bare, open_labelled(data), str(tmp_path / "out"))
    # Other data than that of an unfinished join is another set.
    good = folder(tmp_path / "good", {f"circle/{i}.jpg": i for i in range(6)})
    join(bare, open_labelled(good), str(tmp_path / "out"))
    (tmp_path / "good" / "circle" / "6.jpg").write_bytes(jpeg(6))
    with pytest.raises(UserError, match="already holds another set"):
        join(bare, open_labelled(good), str(tmp_path / "out"))
