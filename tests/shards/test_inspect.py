"""What ``inspect`` says of a set and of one sample; images that leave through it are the set's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import encoded, jpeg, picture
from tiny_sets import pair_record, small_set, text_record

from schemas.record import TEXT_COMPENSATED
from shards.__main__ import main
from shards.reader import AnchorSet
from shards.showing.lookup import find, nearest
from shards.showing.summary import summarise
from shards.showing.thumbnails import MANY, thumbnail
from shards.writer import write_shard


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["inspect", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_the_summary_counts_what_the_source_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [
        pair_record(0, license="CC0", language="en", nsfw="UNLIKELY", punsafe=0.25),
        pair_record(1, license="CC0", language="de", punsafe=0.75, similarity=0.3),
        pair_record(2, license="?").model_copy(update={"source": "00001.tar"}),
    ]
    own = [text_record(0), text_record(1).model_copy(update={"source_key": "1", "source": "d/1"})]
    own.append(text_record(2).model_copy(update={"source_key": "2", "source": "2"}))
    small_set(str(tmp_path), own=own, pairs=pairs)
    found = summarise(AnchorSet.open(str(tmp_path)))
    assert found.licenses == {"?": 1, "CC0": 2}
    assert found.languages == {"de": 1, "en": 1}
    assert found.nsfw == {"UNLIKELY": 1}
    assert found.images == {"jpg": 6}
    assert found.without_images == 0
    punsafe = found.safety["punsafe"]
    assert punsafe is not None
    assert (punsafe.count, punsafe.least, punsafe.most) == (2, 0.25, 0.75)
    assert found.safety["pwatermark"] is None
    assert found.sources == {
        "text-compensated": {"./": 1, "d/0.jpg": 1, "d/1": 1},
        "image-text-pair": {"00000.tar": 2, "00001.tar": 1},
    }
    assert said(capsys, str(tmp_path))["licenses"] == {"?": 1, "CC0": 2}
    assert main(["inspect", str(tmp_path)]) == 0
    lines = capsys.readouterr().out
    assert "licences: CC0 2, ? 1; 3 without" in lines
    assert "punsafe: 0.25 to 0.75, median 0.5, mean 0.5; 4 without" in lines
    assert "pwatermark: none has it" in lines


def test_a_sample_is_shown_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, image = tmp_path / "set", tmp_path / "out.jpg"
    small_set(str(root))
    record = pair_record(4)
    assert main(["inspect", str(root), "--sample", record.key, "--image", str(image)]) == 0
    text = capsys.readouterr().out
    assert f"{record.key}: image-text-pair\n" in text
    assert "  text: a pair number 4\n" in text
    assert "in image-text-pair/00000.tar, sample 4:" in text
    assert "the image is jpg, 40 x 32" in text
    assert image.read_bytes() == jpeg(4)
    body = said(capsys, str(root), "--sample", record.key)
    assert body["record"] == json.loads(record.to_json()) | {"texts": []}
    assert body["image"] == {"ext": "jpg", "width": 40, "height": 32, "bytes": len(jpeg(4))}
    # the places are where the bytes lie
    members = body["members"]
    assert isinstance(members, dict)
    tar = (root / "image-text-pair" / "00000.tar").read_bytes()
    for member, wanted in {"image": jpeg(4), "record": record.to_json().encode()}.items():
        where = members[member]
        assert tar[where["offset"] : where["offset"] + where["size"]] == wanted


def test_an_unknown_key_is_one_sentence_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_set(str(tmp_path))
    key = text_record(3).key
    for wrong in (key[:-1], "x" + key[1:], key[:7] + "zz" + key[9:]):
        assert main(["inspect", str(tmp_path), "--sample", wrong]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"no sample {wrong!r}; the nearest keys are {key}, " in error


@given(st.lists(st.text("abcdef", min_size=6, max_size=8), unique=True, max_size=200), st.data())
def test_a_key_with_one_wrong_character_is_found(keys: list[str], data: st.DataObject) -> None:
    spread = [f"tc-{i * 7919:08x}{key}" for i, key in enumerate(keys)]
    assert nearest("tc-", []) == []
    if not spread:
        return
    key = data.draw(st.sampled_from(spread))
    at = data.draw(st.integers(0, len(key) - 1))
    assert nearest(key[:at] + "~" + key[at + 1 :], spread)[0] == key


def test_a_broken_image_is_told_of_and_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, image = tmp_path / "set", tmp_path / "out.jpg"
    small_set(str(root))
    key = text_record(1).key
    where = find(AnchorSet.open(str(root)), key)
    place = where.members["image"]
    assert place is not None
    tar = root / where.shard
    data = bytearray(tar.read_bytes())
    data[place["offset"] + 40] ^= 1
    tar.write_bytes(bytes(data))
    assert main(["inspect", str(root), "--sample", key, "--image", str(image)]) == 1
    assert "BAD: hash_mismatch" in capsys.readouterr().out
    assert not image.exists()


def test_an_image_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_set(str(tmp_path), pairs=[])
    key = text_record(1).key
    own = tmp_path / "text-compensated" / "00000.tar"
    before = own.read_bytes()
    crooked = tmp_path / "text-compensated" / ".." / "text-compensated" / "00000.tar"
    assert main(["inspect", str(tmp_path), "--sample", key, "--image", str(crooked)]) == 2
    assert "is a file of the set" in capsys.readouterr().err
    assert own.read_bytes() == before
    assert main(["inspect", str(tmp_path), "--image", "a.jpg"]) == 2
    assert "give its key with --sample" in capsys.readouterr().err


def test_a_set_without_images_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = small_set(str(tmp_path), pairs=[])
    records = [(text_record(i), None) for i in range(3)]
    shard = write_shard(str(tmp_path), TEXT_COMPENSATED, 0, records)
    manifest = manifest.model_copy(update={"shards": [shard, *manifest.shards[1:]]})
    anchors = AnchorSet(str(tmp_path), manifest)
    summary = summarise(anchors)
    assert (summary.images, summary.without_images) == ({"jpg": 3}, 3)
    found = find(anchors, text_record(1).key)
    assert (found.image, found.problem, found.header) == (None, None, None)
    assert found.members["image"] is None


def test_texts_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nasty = "red \x1b[31m, title \x9d0;owned\x07, back \r\b and\nnext \u202eline"
    small_set(
        str(tmp_path),
        own=[text_record(0, nasty, class_name=nasty)],
        pairs=[pair_record(1, nasty, license=nasty)],
        classes=(nasty,),
    )
    for words in ([], ["--sample", text_record(0).key], ["--sample", pair_record(1).key]):
        assert main(["inspect", str(tmp_path), *words]) == 0
        out = capsys.readouterr().out
        assert "\\x1b[31m" in out
        assert all(line.isprintable() for line in out.split("\n"))


def test_thumbnails_are_small() -> None:
    large = encoded(picture(1, (900, 600)), quality=95)
    uri = thumbnail(large, MANY)
    assert uri.startswith("data:image/webp;base64,")
    assert len(uri) < 12_000
    assert thumbnail(jpeg(1), MANY).startswith("data:image/jpeg"), "it is its own thumbnail"
