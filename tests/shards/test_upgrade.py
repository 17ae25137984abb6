"""Sets of older versions: written anew, whole, and the old ones left as they were."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from golden_sets import GOLDEN
from old_sets import set_0_9
from tiny_data import CLASSES, jpeg
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import UserError
from schemas.record import AnchorRecord
from shards.__main__ import main
from shards.checking.verify import verify
from shards.deriving.upgrade import upgrade
from shards.deriving.upgrade_steps import STEPS, Step
from shards.reader import AnchorSet
from shards.tars import TarSample

CAPTIONS = [
    [text_record(0), text_record(1, "a circle", class_name="circle")],
    [text_record(2).model_copy(update={"texts": ["a circle number 2", "round"], "mood": [1]})],
]
PAIRS = [[pair_record(3, license="?"), pair_record(4)]]


def bytes_of(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def expected(record: AnchorRecord) -> AnchorRecord:
    return AnchorRecord.model_validate(record.model_dump())


def test_a_set_of_0_9_becomes_a_sound_set(tmp_path: Path) -> None:
    old = set_0_9(tmp_path / "old", CAPTIONS + PAIRS)
    before = bytes_of(tmp_path / "old")
    made = upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    assert bytes_of(tmp_path / "old") == before
    assert (made.version, made.new) == ("0.9", True)
    report = verify(str(tmp_path / "new"), images="all")
    assert report.findings == []
    assert report.notes == {}
    anchors = AnchorSet.open(str(tmp_path / "new"))
    manifest = anchors.manifest
    assert manifest == made.manifest
    assert manifest.provenance.parents == [old["digest"]]
    assert manifest.classes == list(CLASSES)
    assert (manifest.name, manifest.samples, len(manifest.shards)) == ("old", 5, 3)
    assert manifest.provenance.captioner is not None
    assert manifest.provenance.counts["caption"].dropped == {"truncated_image": 2}
    assert manifest.provenance.counts["upgrade"].kept == 5
    assert manifest.provenance.config["parents"] == [{"k": 3}]
    bad: list[str] = []
    read = list(anchors.samples(lambda key, problem: bad.append(key)))
    made_of = [record for group in CAPTIONS + PAIRS for record in group]
    assert read == [(expected(r), jpeg(int(r.source_key))) for r in made_of]
    assert bad == []


@pytest.mark.parametrize("name", ["tiny", "captions-only"])
def test_a_set_of_1_0_gets_its_column_and_keeps_its_tars(tmp_path: Path, name: str) -> None:
    old, new = GOLDEN / "1.0" / name, tmp_path / "new"
    made = upgrade(str(old), str(new))
    assert (made.version, made.new, made.manifest.format_version) == ("1.0", True, "1.1")
    report = verify(str(new), images="all")
    assert report.findings == []
    held = AnchorSet.open(str(old)).manifest
    assert made.manifest.digest == held.digest
    assert made.manifest.provenance.parents == [held.digest]
    for shard in held.shards:
        assert (new / shard.path).read_bytes() == (old / shard.path).read_bytes()
        assert "clip_score" in pq.read_schema(new / shard.index.path).names
    assert not upgrade(str(new), str(tmp_path / "again")).new


def test_the_same_again_and_after_an_interruption(tmp_path: Path) -> None:
    set_0_9(tmp_path / "old", CAPTIONS + PAIRS)
    upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    whole = bytes_of(tmp_path / "new")
    assert not upgrade(str(tmp_path / "old"), str(tmp_path / "new")).new

    seen = []

    def stop(total: int) -> None:
        seen.append(total)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upgrade(str(tmp_path / "old"), str(tmp_path / "other"), on_anchor=stop)
    assert seen == [5, 5, 5]
    assert not (tmp_path / "other" / "anchor_set.json").exists()
    seen.clear()
    upgrade(str(tmp_path / "old"), str(tmp_path / "other"), on_anchor=seen.append)
    assert seen == [5, 5, 5]  # two of the five were done
    assert bytes_of(tmp_path / "other") == whole


def test_captions_without_images(tmp_path: Path) -> None:
    records = [[r.model_copy(update={"image_ext": "jpg"}) for r in group] for group in CAPTIONS]
    set_0_9(tmp_path / "old", records, images=False)
    with pytest.raises(UserError, match="cannot be used"):  # nothing says what the images were
        upgrade(str(tmp_path / "old"), str(tmp_path / "new"))


def test_a_chain_of_steps(tmp_path: Path) -> None:
    set_0_9(tmp_path / "old", CAPTIONS)
    place = tmp_path / "old" / "anchor_set.json"
    body = json.loads(place.read_text())
    body |= {"format_version": "0.8", "title": body.pop("name")}
    place.write_text(json.dumps(body))

    def manifest(older: dict[str, Any]) -> dict[str, Any]:
        return older | {"name": older["title"]}

    def record(older: dict[str, Any], sample: TarSample) -> dict[str, Any]:
        return older | {"captions": [f"{text}!" for text in older["captions"]]}

    steps = [*STEPS, Step("0.8", "0.9", manifest, record)]
    made = upgrade(str(tmp_path / "old"), str(tmp_path / "new"), steps=steps)
    assert made.version == "0.8"
    records = list(AnchorSet.open(str(tmp_path / "new")).samples(lambda *bad: None))
    assert [r.text for r, _ in records] == [
        "a circle number 0!",
        "a circle!",
        "a circle number 2!",
    ]
    with pytest.raises(UserError, match=r"version 0\.8, which .* it knows 0\.9, 1\.0 and 1\.1"):
        upgrade(str(tmp_path / "old"), str(tmp_path / "new"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)


def without(name: str) -> Any:
    def change(root: Path) -> None:
        place = root / "anchor_set.json"
        body = json.loads(place.read_text())
        del body[name]
        place.write_text(json.dumps(body))

    return change


def other(**changes: object) -> Any:
    def change(root: Path) -> None:
        place = root / "anchor_set.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: flip(root / "text-compensated/00001.tar"), "not the file that the manifest"),
        (lambda root: (root / "text-compensated/00000.tar").unlink(), "is not there"),
        (lambda root: (root / "anchor_set.json").write_text("{"), "not valid JSON"),
        (lambda root: (root / "anchor_set.json").write_text("[]"), "not the manifest"),
        (without("shards"), "does not follow format 0.9 .it has no 'shards'"),
        (other(digest="0" * 64), "its digest does not follow from its shards"),
        (other(classes={"circle": 0, "bar": 2}), "not numbered from 0"),
        (other(format_version="0.1"), r"version 0\.1, which"),
        (other(format_version="2.0"), r"version 2\.0, which"),
    ],
)
def test_what_cannot_be_upgraded(tmp_path: Path, change: Any, said: str) -> None:
    set_0_9(tmp_path / "old", CAPTIONS + PAIRS)
    change(tmp_path / "old")
    with pytest.raises(UserError, match=said):
        upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    assert not (tmp_path / "new" / "anchor_set.json").exists()


def test_paths_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    body = set_0_9(tmp_path / "old", CAPTIONS)
    for shard in body["shards"]:
        shard["tar"] = f"../old/{shard['tar']}"
    pairs = [(s[n], s[f"{n}_sha256"]) for s in body["shards"] for n in ("tar", "parquet")]
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(pairs))
    body["digest"] = hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "old" / "anchor_set.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="not a plain path"):
        upgrade(str(tmp_path / "old"), str(tmp_path / "new"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = set_0_9(tmp_path / "old", CAPTIONS)
    new = str(tmp_path / "new")
    assert main(["verify", str(tmp_path / "old")]) == 2
    assert "upgrade the set" in capsys.readouterr().err
    assert main(["upgrade", str(tmp_path / "old"), "--output", new]) == 0
    assert "3 anchors, 0.9 to 1.1" in capsys.readouterr().out
    assert main(["upgrade", str(tmp_path / "old"), "--output", new, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["from"], said["to"], said["new"]) == ("0.9", "1.1", False)
    assert said["parents"] == [old["digest"]]
    # A set that is current says so, and nothing is written.
    small_set(str(tmp_path / "now"))
    assert main(["upgrade", str(tmp_path / "now"), "--output", str(tmp_path / "x")]) == 0
    assert "is of format 1.1 already; nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()
    assert main(["upgrade", str(tmp_path / "old"), "--output", str(tmp_path / "now")]) == 2
    assert "already holds another set" in capsys.readouterr().err
