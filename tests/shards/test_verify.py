"""verify: whatever is changed in a set is found, and the file is named, and the sample."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import encoded, jpeg, picture
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import UserError
from schemas.manifest import FileEntry, Manifest, ShardEntry, seal, set_digest
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, AnchorRecord, anchor_key
from shards.__main__ import main
from shards.checking.strict_tar import header
from shards.checking.verify import Report, verify
from shards.checking.verify_manifest import read_manifest
from shards.completion import complete_set
from shards.writer import write_manifest, write_shard

FILES = (
    "README.md",
    "anchor_set.json",
    "croissant.json",
    "gallery.html",
    "image-text-pair/00000.parquet",
    "image-text-pair/00000.tar",
    "text-compensated/00000.parquet",
    "text-compensated/00000.tar",
    "text-compensated/00001.parquet",
    "text-compensated/00001.tar",
)
TAR = "text-compensated/00000.tar"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine") / "set"
    complete_set(str(root), small_set(str(root)))
    return root


@pytest.fixture
def copy(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "set")
    return tmp_path / "set"


def faults(report: Report) -> set[tuple[str, str]]:
    return {(finding.file, finding.reason) for finding in report.findings}


def test_a_sound_set_passes(pristine: Path) -> None:
    assert sorted(str(p.relative_to(pristine)) for p in pristine.rglob("*.*")) == sorted(FILES)
    report = verify(str(pristine), images="all")
    assert report.findings == []
    assert report.notes == {}
    assert (report.files, report.samples, report.images) == (10, 12, 12)
    assert verify(str(pristine)).images == 12
    assert verify(str(pristine), images="none").images == 0


def test_any_flipped_bit_is_found_and_its_file_named(copy: Path) -> None:
    chooser = random.Random(0)
    missed = []
    for path in FILES:
        data = (copy / path).read_bytes()
        places = [(chooser.randrange(len(data)), chooser.randrange(8)) for _ in range(56)]
        for at, bit in places:
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            (copy / path).write_bytes(changed)
            findings = verify(str(copy), images="none").findings
            # A changed manifest can be wrong about files that are right, and says so.
            if path == "anchor_set.json":
                findings = [f for f in findings if "anchor_set.json again first" not in f.remedy]
            if {finding.file for finding in findings} != {path}:
                missed.append((path, at, bit, findings))
        (copy / path).write_bytes(data)
    assert missed == []


def test_every_byte_of_the_manifest_counts(pristine: Path) -> None:
    # The one file that no digest covers: each byte of it, one bit each.
    data = (pristine / "anchor_set.json").read_bytes()
    chooser = random.Random(1)
    unseen = []
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << chooser.randrange(8)
        told: list[str] = []
        read_manifest(bytes(changed), "here", lambda *fault, told=told: told.append(fault[1]))
        if not told:
            unseen.append(at)
    assert unseen == []


def test_a_flip_in_a_tar_names_its_sample(copy: Path) -> None:
    rows = pq.read_table(copy / "text-compensated/00000.parquet").to_pylist()
    whole = (copy / TAR).read_bytes()
    wanted = {
        "image_offset": "hash_mismatch",
        "text_offset": "text_differs",
        "record_offset": "bad_record",
    }
    for column, reason in wanted.items():
        data = bytearray(whole)
        data[rows[1][column]] ^= 1
        (copy / TAR).write_bytes(data)
        found = {(f.file, f.sample, f.reason) for f in verify(str(copy)).findings}
        assert found == {(TAR, "", "wrong_digest"), (TAR, rows[1]["key"], reason)}
    # A header that is unreadable does not hide what follows.
    data = bytearray(whole)
    data[rows[0]["image_offset"] - 512 + 124] ^= 1
    data[rows[2]["image_offset"] + 5] ^= 1
    (copy / TAR).write_bytes(data)
    found = {(f.sample, f.reason) for f in verify(str(copy)).findings}
    assert found == {
        ("", "wrong_digest"),
        (rows[0]["key"], "bad_header"),
        (rows[2]["key"], "hash_mismatch"),
    }


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("left", [0, 0.5, -1])
def test_a_truncated_file_is_named(copy: Path, path: str, left: float) -> None:
    data = (copy / path).read_bytes()
    (copy / path).write_bytes(data[: -1 if left == -1 else int(len(data) * left)])
    assert {finding.file for finding in verify(str(copy)).findings} == {path}


@pytest.mark.parametrize("path", FILES)
def test_a_deleted_file_is_named(copy: Path, path: str) -> None:
    (copy / path).unlink()
    assert faults(verify(str(copy))) == {(path, "missing")}


@pytest.mark.parametrize("path", FILES)
def test_a_copy_is_named(copy: Path, path: str) -> None:
    shutil.copy(copy / path, copy / f"{path}.bak")
    report = verify(str(copy))
    assert faults(report) == {(f"{path}.bak", "extra")}
    if path != "anchor_set.json":
        assert report.findings[0].detail == f"it is a copy of {path}"


@pytest.mark.parametrize("path", FILES)
def test_a_renamed_file_is_named(copy: Path, path: str) -> None:
    (copy / path).rename(copy / f"other-{path.replace('/', '-')}")
    found = faults(verify(str(copy)))
    if path == "anchor_set.json":
        assert found == {(path, "missing")}
    else:
        assert found == {(path, "renamed"), (f"other-{path.replace('/', '-')}", "extra")}


@pytest.mark.parametrize("first", FILES)
def test_swapped_files_are_named(copy: Path, first: str) -> None:
    for second in FILES:
        if second == first:
            continue
        for source, target in ((first, "hold"), (second, first), ("hold", second)):
            (copy / source).rename(copy / target)
        found = faults(verify(str(copy), images="none"))
        if "anchor_set.json" in (first, second):
            assert found == {("anchor_set.json", "bad_manifest")}
        else:
            assert found == {(first, "swapped"), (second, "swapped")}
        for source, target in ((first, "hold"), (second, first), ("hold", second)):
            (copy / source).rename(copy / target)


def test_what_interrupted_writes_leave_is_told_apart(copy: Path) -> None:
    temporary = f"text-compensated/.00000.tar.{'0' * 32}.tmp"
    part = f".README.md.{'0' * 16}.part"
    harmless = (part, ".unfinished/made.json", ".DS_Store", "Thumbs.db", ".gitattributes")
    for path in (temporary, *harmless):
        (copy / path).parent.mkdir(exist_ok=True)
        (copy / path).write_bytes(b"x")
    report = verify(str(copy))
    assert report.ok
    assert report.notes[temporary].startswith("left by a write")
    assert report.notes[".unfinished/made.json"].startswith("left by a write")
    assert report.notes[part].startswith("left by a write")
    assert len(report.notes) == 6
    (copy / ".hidden").write_bytes(b"x")
    assert faults(verify(str(copy))) == {(".hidden", "extra")}


def test_links_and_pipes_are_not_read(copy: Path, tmp_path: Path) -> None:
    os.mkfifo(copy / "pipe")
    (copy / "README.md").rename(tmp_path / "elsewhere")
    (copy / "README.md").symlink_to(tmp_path / "elsewhere")
    (copy / "folder").symlink_to(tmp_path)
    assert faults(verify(str(copy))) == {
        ("README.md", "not_a_file"),
        ("pipe", "extra"),
        ("folder", "extra"),
    }


def test_a_set_in_a_store(copy: Path, tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    root = f"memory://{tmp_path.name}/set"
    store.put(str(copy), root, recursive=True)
    assert verify(root).ok
    store.pipe_file(f"{root}/x/y", b"1")
    store.rm_file(f"{root}/{TAR}")
    assert faults(verify(root)) == {("x/y", "extra"), (TAR, "missing")}


# From here on the manifest fits the files: what is wrong is the writer's doing.


def reseal(root: Path) -> None:
    """Write the manifest that fits the shards as they are now."""
    old = Manifest.from_json((root / "anchor_set.json").read_bytes(), "here")

    def entry(path: str) -> dict[str, object]:
        data = (root / path).read_bytes()
        return {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    shards = [
        ShardEntry.model_validate(
            shard.model_dump()
            | entry(shard.path)
            | {"index": FileEntry.model_validate(entry(shard.index.path))}
        )
        for shard in old.shards
    ]
    changed = old.model_copy(update={"shards": shards, "digest": set_digest(shards)})
    write_manifest(str(root), changed)


Members = list[tuple[tarfile.TarInfo, bytes]]


def rewrite(place: Path, change: Callable[[Members], Members], **settings: object) -> None:
    """Write a tar again with other members or headers."""
    with tarfile.open(place) as tar:
        held = [(m, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    with tarfile.open(place, "w", **settings) as tar:  # type: ignore[call-overload]
        for member, data in change(held):
            tar.addfile(member, io.BytesIO(data))


def with_header(number: int, **changes: object) -> Callable[[Members], Members]:
    def change(held: Members) -> Members:
        for name, value in changes.items():
            setattr(held[number][0], name, value)
        return held

    return change


def with_data(number: int, data: bytes) -> Callable[[Members], Members]:
    def change(held: Members) -> Members:
        held[number][0].size = len(data)
        return [*held[:number], (held[number][0], data), *held[number + 1 :]]

    return change


def named(name: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode, info.uname, info.gname = 0o444, "anchorft", "anchorft"
    return info, b""


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (with_header(0, mode=0o644), {"bad_header"}),
        (with_header(0, uname="root"), {"bad_header"}),
        (with_header(1, uid=1000), {"bad_header"}),
        (with_header(1, mtime=7), {"bad_header"}),
        (with_header(0, type=tarfile.SYMTYPE, linkname="/etc/passwd"), {"bad_header"}),
        (with_header(2, type=tarfile.CHRTYPE), {"bad_header"}),
        (with_header(0, name="../x.jpg"), {"odd_member"}),
        (with_header(3, name="tc-0.jpg"), {"incomplete_sample"}),
        (with_data(1, b"another text"), {"text_differs"}),
        (with_data(1, b"  \n"), {"text_differs", "empty_text"}),
        (with_data(1, b"caf\xe9"), {"text_differs", "text_not_utf8"}),
        (with_data(0, jpeg(77)), {"hash_mismatch"}),
        (with_data(2, b"{}"), {"bad_record"}),
        (lambda held: [*held, held[0]], {"incomplete_sample", "sample_count"}),
        (lambda held: held[:-1], {"incomplete_sample"}),
        (lambda held: held[:-3], {"sample_count", "not_in_tar"}),
        (lambda held: [held[1], held[0], *held[2:]], {"incomplete_sample", "sample_count"}),
        (lambda held: [*held, named("notes")], {"odd_member"}),
        (lambda held: held[3:6] + held[:3] + held[6:], {"parquet_differs", "parquet_order"}),
        (lambda held: held + held[:3], {"duplicate_key", "sample_count", "parquet_differs"}),
    ],
)
def test_a_tar_that_is_not_as_the_format_says(
    copy: Path, change: Callable[[Members], Members], reasons: set[str]
) -> None:
    rewrite(copy / TAR, change, format=tarfile.PAX_FORMAT)
    reseal(copy)
    report = verify(str(copy))
    found = {finding.reason for finding in report.findings}
    assert reasons <= found
    assert {finding.file.rpartition(".")[0] for finding in report.findings} == {TAR[:-4]}
    assert all("writer of the set" in finding.remedy for finding in report.findings)
    if len(reasons) == 1 and "sample" not in "".join(reasons):
        sides = found - {"parquet_differs", "not_in_tar", "incomplete_sample", "sample_count"}
        assert sides == reasons


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data + bytes(10240), "trailing_data"),
        (lambda data: data[:-1] + b"x", "trailing_data"),
        (lambda data: data[:-512], "truncated_tar"),
        (lambda data: data.rstrip(b"\0"), "truncated_tar"),
        (lambda data: data[:511] + b"x" + data[512:], "bad_header"),
    ],
)
def test_what_follows_the_members_is_checked(
    copy: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    (copy / TAR).write_bytes(change((copy / TAR).read_bytes()))
    reseal(copy)
    assert (TAR, reason) in faults(verify(str(copy)))


def test_padding_must_be_zero(copy: Path) -> None:
    row = pq.read_table(copy / "text-compensated/00000.parquet").to_pylist()[1]
    data = bytearray((copy / TAR).read_bytes())
    data[row["text_offset"] + row["text_size"]] = 1
    (copy / TAR).write_bytes(data)
    reseal(copy)
    found = [(f.file, f.sample, f.reason) for f in verify(str(copy)).findings]
    assert found == [(TAR, row["key"], "bad_padding")]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("text", lambda column: ["other", *column[1:]]),
        ("image_offset", lambda column: [column[0] + 512, *column[1:]]),
        ("record_size", lambda column: [None, *column[1:]]),
        ("class_index", lambda column: [1, *column[1:]]),
        ("extra", lambda column: ['{"a":1}', *column[1:]]),
    ],
)
def test_a_parquet_must_say_what_the_tar_says(
    copy: Path, name: str, change: Callable[[list[object]], list[object]]
) -> None:
    place = copy / "text-compensated/00000.parquet"
    table = pq.read_table(place)
    at = table.column_names.index(name)
    column = pa.array(change(table.column(name).to_pylist()), table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), column), place)
    reseal(copy)
    (finding,) = verify(str(copy)).findings
    assert finding.file == "text-compensated/00000.parquet"
    assert (finding.sample, finding.reason) == (table.column("key")[0].as_py(), "parquet_differs")
    assert finding.detail.endswith(name)


def test_a_parquet_of_something_else_is_named(copy: Path) -> None:
    place = copy / "text-compensated/00000.parquet"
    for data, reason in ((b"PAR1", "bad_parquet"), (None, "bad_parquet")):
        if data is None:
            pq.write_table(pa.table({"key": ["a"]}), place)
        else:
            place.write_bytes(data)
        reseal(copy)
        assert (str(place.relative_to(copy)), reason) in faults(verify(str(copy)))


def damaged(record: AnchorRecord, **changes: object) -> AnchorRecord:
    return record.model_copy(update=changes)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (damaged(text_record(1), key="tc-abc"), "bad_key"),
        (damaged(text_record(1), class_index=1), "bad_class"),
        (damaged(text_record(1), class_index=99), "bad_class"),
        (damaged(text_record(1), texts=["a", "b"]), "text_differs"),
        (damaged(text_record(1), width=41), "image_differs"),
        (damaged(text_record(1), image_ext="png"), "image_differs"),
        (damaged(pair_record(1)), "kind_differs"),
    ],
)
def test_records_that_do_not_fit_their_anchor(
    tmp_path: Path, record: AnchorRecord, reason: str
) -> None:
    manifest = small_set(str(tmp_path))
    entry = write_shard(str(tmp_path), TEXT_COMPENSATED, 0, [(record, jpeg(1))])
    shards = [entry, *manifest.shards[1:]]
    write_manifest(
        str(tmp_path),
        manifest.model_copy(
            update={"shards": shards, "samples": 10, "digest": set_digest(shards)},
        ),
    )
    findings = verify(str(tmp_path)).findings
    assert (TAR, record.key, reason) in {(f.file, f.sample, f.reason) for f in findings}


def test_images_that_do_not_decode_are_named(tmp_path: Path) -> None:
    image = encoded(picture(3), quality=90)[:700]
    digest = hashlib.sha256(image).hexdigest()
    key = anchor_key(IMAGE_TEXT_PAIR, digest, "00000.tar", "3")
    record = damaged(pair_record(3), image_sha256=digest, key=key)
    manifest = small_set(str(tmp_path), pairs=[pair_record(1)])
    entry = write_shard(str(tmp_path), IMAGE_TEXT_PAIR, 0, [(record, image)])
    shards = [*manifest.shards[:2], entry]
    write_manifest(
        str(tmp_path), manifest.model_copy(update={"shards": shards, "digest": set_digest(shards)})
    )
    (finding,) = verify(str(tmp_path)).findings
    assert (finding.sample, finding.reason) == (key, "truncated_image")
    assert verify(str(tmp_path), images="none").ok


def test_a_key_that_stands_in_two_shards_is_named(tmp_path: Path) -> None:
    small_set(str(tmp_path), own=[text_record(i) for i in (0, 1, 1, 2)])
    found = {(f.file, f.sample, f.reason) for f in verify(str(tmp_path)).findings}
    key = text_record(1).key
    assert found == {
        ("text-compensated/00000.tar", key, "duplicate_key"),
        ("text-compensated/00001.tar", key, "duplicate_key"),
    }


def test_captions_without_images_are_a_set_and_pairs_are_not(tmp_path: Path) -> None:
    manifest = small_set(str(tmp_path))
    samples = [(text_record(i), None) for i in range(3)]
    shards = [write_shard(str(tmp_path), TEXT_COMPENSATED, 0, samples), *manifest.shards[1:]]
    changed = manifest.model_copy(update={"shards": shards, "digest": set_digest(shards)})
    write_manifest(str(tmp_path), changed)
    report = verify(str(tmp_path), images="all")
    assert report.ok
    assert report.images == 9
    assert shards[0].images == 0
    shards[0] = shards[0].model_copy(update={"images": None})  # as if all were there
    changed = manifest.model_copy(update={"shards": shards, "digest": set_digest(shards)})
    write_manifest(str(tmp_path), changed)
    assert faults(verify(str(tmp_path))) == {(TAR, "image_count")}
    samples = [(pair_record(i), None) for i in range(6)]
    pair = write_shard(str(tmp_path), IMAGE_TEXT_PAIR, 0, samples)
    shards = [manifest.shards[0], shards[1], pair]
    write_shard(str(tmp_path), TEXT_COMPENSATED, 0, [(text_record(i), jpeg(i)) for i in range(3)])
    changed = manifest.model_copy(update={"shards": shards, "digest": set_digest(shards)})
    write_manifest(str(tmp_path), changed)
    assert faults(verify(str(tmp_path))) == {(pair.path, "incomplete_sample")}


def test_a_manifest_is_checked_whole(copy: Path) -> None:
    place = copy / "anchor_set.json"
    text = place.read_text()
    body = json.loads(text)

    def said(**changes: object) -> list[str]:
        changed = body | changes
        sealed = changed | {"seal": seal(changed)}
        place.write_text(json.dumps(sealed, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        return [f"{f.reason}: {f.detail}" for f in verify(str(copy)).findings]

    assert said() == []
    assert said(samples=-1, name="") == [
        "bad_manifest: name: String should have at least 1 character",
        "bad_manifest: samples: Input should be greater than or equal to 0",
    ]
    assert said(digest="0" * 64) == ["bad_digest: its digest does not follow from its shards"]
    assert said(mood="new") == []
    assert said(format_version="1.9") == []
    assert "1.9 is newer" in verify(str(copy)).notes["anchor_set.json"]
    place.write_text(text.replace('": ', '":  ', 1))
    assert faults(verify(str(copy))) == {("anchor_set.json", "not_canonical")}
    with pytest.raises(UserError, match=r"format version 2\.0"):
        said(format_version="2.0")
    place.write_text(json.dumps({"format": body["format"], "format_version": "0.9"}))
    with pytest.raises(UserError, match="upgrade the set"):
        verify(str(copy))


def test_the_strict_header_is_the_writers(pristine: Path) -> None:
    data = (pristine / TAR).read_bytes()
    rows = pq.read_table(pristine / "text-compensated/00000.parquet").to_pylist()
    for row in rows:
        at = row["image_offset"]
        assert data[at - 512 : at] == header(f"{row['key']}.jpg".encode(), row["image_size"])


def test_the_command(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(copy), "--images", "all"]) == 0
    said = capsys.readouterr().out
    assert "whole: 10 files" in said
    (copy / "README.md").write_text("changed")
    assert main(["verify", str(copy), "--json", "--threads", "1", "--seed", "4"]) == 1
    body = json.loads(capsys.readouterr().out)
    assert body["ok"] is False
    assert body["findings"][0]["file"] == "README.md"
    assert body["findings"][0]["sample"] is None
    assert main(["verify", str(copy)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("README.md: wrong_size: it has 7 bytes, not ")
    assert "BAD: 1 faults in 1 files" in said
    assert main(["verify", str(copy / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
