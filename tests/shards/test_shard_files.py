"""Shards: written the same every time, readable without our code, never half there."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import jpeg
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import BadSample, UserError
from schemas.record import TEXT_COMPENSATED
from shards import places
from shards.reader import AnchorSet
from shards.writer import record_row, row_record, rows_to_table, write_shard


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    entries = []
    for name in ("a", "b"):
        samples = [(text_record(i), jpeg(i)) for i in range(3)]
        entries.append(write_shard(str(tmp_path / name), TEXT_COMPENSATED, 0, samples))
    assert entries[0] == entries[1]
    tar = tmp_path / "a" / entries[0].path
    assert hashlib.sha256(tar.read_bytes()).hexdigest() == entries[0].sha256
    assert entries[0].bytes == tar.stat().st_size
    assert (tmp_path / "b" / entries[0].path).read_bytes() == tar.read_bytes()


def test_tar_and_webdataset_read_a_shard_without_our_code(tmp_path: Path) -> None:
    samples = [(text_record(i), jpeg(i)) for i in range(3)]
    entry = write_shard(str(tmp_path), TEXT_COMPENSATED, 0, samples)
    tar = tmp_path / entry.path
    names = subprocess.check_output(["tar", "tf", tar], text=True).split()
    keys = [record.key for record, _ in samples]
    assert names == [f"{key}.{ext}" for key in keys for ext in ("jpg", "txt", "json")]
    read = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in read] == keys
    assert [sample["txt"] for sample in read] == [record.text for record, _ in samples]
    assert read[0]["jpg"].size == (40, 32)
    assert read[0]["json"]["class_name"] == "circle"


def test_a_tar_is_what_webdataset_would_write(tmp_path: Path) -> None:
    long = text_record(1).model_copy(update={"key": "k" * 95})
    samples = [(text_record(0), jpeg(0)), (long, jpeg(1))]
    entry = write_shard(str(tmp_path), TEXT_COMPENSATED, 0, samples)
    with webdataset.TarWriter(
        str(tmp_path / "theirs.tar"), user="anchorft", group="anchorft", mtime=0, encoder=False
    ) as tar:
        for record, image in samples:
            texts = {"txt": record.text.encode(), "json": record.to_json().encode()}
            for ext, data in ({"jpg": image} | texts).items():
                tar.write({"__key__": record.key, ext: data})
    assert (tmp_path / "theirs.tar").read_bytes() == (tmp_path / entry.path).read_bytes()


def test_the_parquet_says_where_every_member_lies(tmp_path: Path) -> None:
    long = text_record(1).model_copy(update={"key": "k" * 95})
    samples = [(text_record(0), jpeg(0)), (long, jpeg(1)), (text_record(2), None)]
    entry = write_shard(str(tmp_path), TEXT_COMPENSATED, 0, samples)
    data = (tmp_path / entry.path).read_bytes()
    rows = pq.read_table(tmp_path / entry.index.path).to_pylist()
    for (record, image), row in zip(samples, rows, strict=True):
        wanted = {"image": image, "text": record.text.encode(), "record": record.to_json().encode()}
        for member, bytes_ in wanted.items():
            offset, size = row[f"{member}_offset"], row[f"{member}_size"]
            found = None if offset is None else data[offset : offset + size]
            assert found == bytes_
        assert row_record(row) == record


@given(
    st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), max_size=3),
    st.dictionaries(st.sampled_from(["mood", "extra", "x y"]), st.integers(-9, 9)),
    st.booleans(),
)
def test_a_record_survives_the_parquet(texts: list[str], extra: dict[str, int], own: bool) -> None:
    record = text_record(3) if own else pair_record(3)
    record = record.model_validate(record.model_dump() | {"texts": texts} | extra)
    table = rows_to_table([record_row(record)])
    assert row_record(table.to_pylist()[0]) == record


def test_a_writer_that_dies_leaves_nothing(tmp_path: Path) -> None:
    def samples() -> object:
        yield text_record(0), jpeg(0)
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="power"):
        write_shard(str(tmp_path), TEXT_COMPENSATED, 0, samples())  # type: ignore[arg-type]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("store", ["local", "memory"])
def test_a_set_reads_back_as_it_was_written(tmp_path: Path, store: str) -> None:
    root = str(tmp_path / "set") if store == "local" else f"memory://{tmp_path.name}/set"
    written = small_set(root)
    anchors = AnchorSet.open(root)
    assert anchors.manifest == written
    bad: list[str] = []
    read = list(anchors.samples(lambda key, problem: bad.append(problem.reason)))
    assert [(r.kind, r.text) for r, _ in read] == [
        *[("text-compensated", f"a circle number {i}") for i in range(0, 6)],
        *[("image-text-pair", f"a pair number {i}") for i in range(6)],
    ]
    assert [image for _, image in read][:6] == [jpeg(i) for i in range(6)]
    assert bad == []


def test_a_damaged_image_is_told_of_and_left_out(tmp_path: Path) -> None:
    small_set(str(tmp_path))
    anchors = AnchorSet.open(str(tmp_path))
    shard = anchors.shards()[0]
    row = anchors.table(shard).to_pylist()[1]
    tar = tmp_path / shard.path
    data = bytearray(tar.read_bytes())
    data[row["image_offset"] + 9] ^= 1
    tar.write_bytes(bytes(data))
    bad: list[tuple[str, str]] = []
    read = list(anchors.samples(lambda key, problem: bad.append((key, problem.reason))))
    assert bad == [(row["key"], "hash_mismatch")]
    assert len(read) == 11


def test_a_changed_parquet_is_refused(tmp_path: Path) -> None:
    small_set(str(tmp_path))
    anchors = AnchorSet.open(str(tmp_path))
    place = tmp_path / anchors.shards()[0].index.path
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{place.name}' is not the file that the manifest names"):
        anchors.table(anchors.shards()[0])


def test_a_folder_without_a_manifest_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no anchor_set\.json"):
        AnchorSet.open(str(tmp_path))


@pytest.mark.parametrize("store", ["local", "memory"])
def test_atomic_write_is_all_or_nothing(tmp_path: Path, store: str) -> None:
    folder = str(tmp_path / "new") if store == "local" else f"memory://{tmp_path.name}/new"
    place = places.join(folder, "a.txt")
    places.write_bytes(place, b"old")

    def half() -> None:
        with places.atomic_write(place) as file:
            file.write(b"ne")
            raise BadSample("stop")

    with pytest.raises(BadSample, match="stop"):
        half()
    assert places.read_bytes(place) == b"old"
    assert places.list_folder(folder) == ([], ["a.txt"])
    assert places.find_files(folder) == ["a.txt"]
    assert places.read_bytes(place, 1, 1) == b"l"


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file/below/a' cannot be written"):
        places.write_bytes(str(tmp_path / "file" / "below" / "a"), b"x")


def test_places_refuse_what_would_run_a_command() -> None:
    with pytest.raises(UserError, match="shell command"):
        places.open_read("pipe:touch /tmp/owned")
    with pytest.raises(UserError, match="cannot be opened"):
        places.exists("nosuchstore://a/b")


def test_braces_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("p-1.tar", "p-0.tar", "q.txt"):
        (tmp_path / name).write_bytes(b"")
    assert places.expand("a/{00..02}.tar") == ["a/00.tar", "a/01.tar", "a/02.tar"]
    assert places.expand(f"{tmp_path}/p-*.tar") == [f"{tmp_path}/p-{n}.tar" for n in (0, 1)]
    monkeypatch.chdir(tmp_path)
    assert places.expand("./p-*.tar") == ["p-0.tar", "p-1.tar"]
    with pytest.raises(UserError, match="no file matches"):
        places.expand(f"{tmp_path}/z*.tar")
    places.write_bytes(f"memory://{tmp_path.name}/x.tar", b"1")
    found = places.expand(f"memory://{tmp_path.name}/*.tar")
    assert [places.read_bytes(place) for place in found] == [b"1"]


def test_fingerprints_follow_the_content_alone(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.write_bytes(b"one")
    first = places.content_fingerprint(str(place))
    place.unlink()
    place.write_bytes(b"one")
    assert places.content_fingerprint(str(place)) == first
    place.write_bytes(b"two")
    assert places.content_fingerprint(str(place)) != first


def test_the_record_member_is_the_record(tmp_path: Path) -> None:
    record = pair_record(5)
    body = json.loads(record.to_json())
    assert {"score", "rank", "query_classes", "key"} <= set(body)
    assert "class_name" not in body
    assert record_row(record)["score"] == record.score
