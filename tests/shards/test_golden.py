"""The committed golden sets are what this code writes, and it reads them as it should."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from golden_sets import CAPTIONS, GOLDEN, PAIRS, write_golden

from schemas.json_schema import json_schema
from schemas.manifest import Manifest
from schemas.record import AnchorRecord
from shards.checking.verify import verify
from shards.parquet import BadParquet, read_records
from shards.reader import AnchorSet
from shards.tars import read_tar

NAMES = ("tiny", "captions-only")
OLDER = tuple(f"1.0/{name}" for name in NAMES)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_set_is_rebuilt_byte_for_byte(tmp_path: Path, name: str) -> None:
    made = write_golden(name, tmp_path)
    committed, rebuilt = files(GOLDEN / name), files(tmp_path)
    assert sorted(committed) == sorted(rebuilt)
    # Whatever pyarrow: tars and card to the byte, parquets by what they hold.
    for path in committed:
        if path.endswith((".tar", ".md")):
            assert rebuilt[path] == committed[path], path
        if path.endswith(".parquet"):
            tables = [pq.read_table(root / path) for root in (GOLDEN / name, tmp_path)]
            assert tables[0].equals(tables[1], check_metadata=True), path
    held = Manifest.from_json(committed["anchor_set.json"], name)
    assert made.digest == held.digest
    # A parquet's bytes name the version that wrote it, and so do the digests of it.
    index = GOLDEN / name / held.shards[0].index.path
    if pq.read_metadata(index).created_by.endswith(f" {pa.__version__}"):
        assert rebuilt == committed


@pytest.mark.parametrize("name", NAMES + OLDER)
def test_a_golden_set_is_sound(name: str) -> None:
    report = verify(str(GOLDEN / name), images="all")
    assert report.findings == []
    assert report.notes == {}
    assert (report.samples, report.images) == ((7, 7) if name.endswith("tiny") else (5, 0))


@pytest.mark.parametrize("name", NAMES + OLDER)
def test_a_golden_set_reads_as_it_was_made(name: str) -> None:
    anchors = AnchorSet.open(str(GOLDEN / name))
    bad: list[str] = []
    read = list(anchors.samples(lambda key, problem: bad.append(key)))
    made = [sample for group in CAPTIONS for sample in group]
    if name.endswith("tiny"):
        made += [sample for group in PAIRS for sample in group]
    if name in OLDER:
        made = [(r.model_copy(update={"clip_score": None}), image) for r, image in made]
    else:
        assert any(record.clip_score is not None for record, _ in made)
    if name.endswith("tiny"):
        assert read == made
    else:
        assert read == [(record, None) for record, _ in made]
    assert bad == []


@pytest.mark.parametrize("name", OLDER)
def test_a_set_of_1_0_has_no_column_for_what_came_later(name: str) -> None:
    manifest = AnchorSet.open(str(GOLDEN / name)).manifest
    assert manifest.format_version == "1.0"
    for shard in manifest.shards:
        assert "clip_score" not in pq.read_schema(GOLDEN / name / shard.index.path).names


def test_a_1_0_writer_keeps_the_later_field_among_the_unknown_ones(tmp_path: Path) -> None:
    manifest = write_golden("tiny", tmp_path)
    for shard in manifest.shards:  # as a 1.0 writer that passes records on leaves the parquet
        data = (tmp_path / shard.index.path).read_bytes()
        table = pq.read_table(pa.BufferReader(data))
        sink = pa.BufferOutputStream()
        pq.write_table(table.drop_columns(["clip_score"]), sink)
        older = read_records(sink.getvalue().to_pybytes(), "x", shard.samples)
        assert older.equals(read_records(data, "x", shard.samples))
        assert older.column("clip_score").null_count < shard.samples or "00001" in shard.path


@pytest.mark.parametrize("extra", ["[1]", "{", '{"clip_score":"x"}', "[" * 100_000])
def test_unknown_fields_that_are_no_object_are_a_bad_parquet(tmp_path: Path, extra: str) -> None:
    shard = write_golden("tiny", tmp_path).shards[0]
    table = pq.read_table(tmp_path / shard.index.path).drop_columns(["clip_score"])
    at = table.column_names.index("extra")
    table = table.set_column(at, "extra", pa.array([extra] * table.num_rows))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    with pytest.raises(BadParquet):
        read_records(sink.getvalue().to_pybytes(), "x")


def test_golden_files_follow_the_schemas() -> None:
    check = jsonschema.Draft202012Validator(json_schema("record"))
    for tar in sorted(GOLDEN.rglob("*.tar")):
        for sample in read_tar(str(tar), lambda key, problem: pytest.fail(key)):
            record = AnchorRecord.from_json(sample.fields["json"])
            check.validate(record.model_dump(exclude_none=True))
            assert sample.fields["txt"].decode() == record.text
    for path in sorted(GOLDEN.rglob("anchor_set.json")):
        manifest = Manifest.from_json(path.read_bytes(), path.name)
        assert manifest.to_json().encode() == path.read_bytes()
