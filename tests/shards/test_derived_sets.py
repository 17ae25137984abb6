"""What all sets made of sets share: provenance, resuming, folders refused, corrupt samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_builds import contents
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME
from schemas.record import TEXT_COMPENSATED
from shards import places
from shards.__main__ import main
from shards.deriving.merge import merge
from shards.deriving.reshard import reshard
from shards.deriving.subset import Selection, subset
from shards.reader import AnchorSet


def damage(root: str, row: int, shard: int = 0) -> str:
    """Flip a bit in one image; returns the anchor's key."""
    anchors = AnchorSet.open(root)
    entry = anchors.shards()[shard]
    about = anchors.table(entry).to_pylist()[row]
    tar = Path(root) / entry.path
    data = bytearray(tar.read_bytes())
    data[about["image_offset"] + 9] ^= 1
    tar.write_bytes(bytes(data))
    return str(about["key"])


def test_provenance_names_parents_options_and_origins(tmp_path: Path) -> None:
    a, b, m, s = (str(tmp_path / name) for name in ("a", "b", "m", "s"))
    first = small_set(a)
    second = small_set(b, [text_record(9)], [])
    merge([b, a], m, name="both")
    made = AnchorSet.open(m).manifest.provenance
    assert made.parents == [second.digest, first.digest]
    assert [(i.role, i.fingerprint) for i in made.inputs] == [
        ("parent", second.digest),
        ("parent", first.digest),
    ]
    assert made.config["command"] == "merge"
    assert made.config["options"] == {"on_conflict": "error", "shard_size": 6}
    assert made.captioner is not None
    assert made.captioner.name == "some/model"
    subset(m, s, Selection(kinds=(TEXT_COMPENSATED,)))
    again = AnchorSet.open(s).manifest.provenance
    assert [i.fingerprint for i in again.inputs] == [
        AnchorSet.open(m).manifest.digest,
        second.digest,
        first.digest,
    ]
    assert again.config["parents"] == [made.config]
    text = (tmp_path / "s" / MANIFEST_NAME).read_text()
    assert str(tmp_path) not in text


def test_models_that_differ_are_not_named(tmp_path: Path) -> None:
    a, b, m = (str(tmp_path / name) for name in ("a", "b", "m"))
    small_set(a)
    held = small_set(b, [text_record(9)], [])
    other = held.provenance.captioner
    assert other is not None
    other = other.model_copy(update={"name": "another/model"})
    made = held.provenance.model_copy(update={"captioner": other, "encoder": None})
    text = held.model_copy(update={"provenance": made}).to_json()
    places.write_bytes(places.join(b, MANIFEST_NAME), text.encode())
    merged = merge([a, b], m).manifest.provenance
    assert merged.captioner is None
    assert merged.encoder == made.captioner.model_copy(update={"name": "some/model"})  # type: ignore[union-attr]


@pytest.mark.parametrize("store", ["local", "memory"])
def test_the_same_again_does_nothing_and_another_is_refused(tmp_path: Path, store: str) -> None:
    base = str(tmp_path) if store == "local" else f"memory://{tmp_path.name}"
    a, out = f"{base}/a", f"{base}/out"
    small_set(a)
    made = reshard(a, out, shard_size=4)
    assert made.new
    fs, path = places.filesystem(out)
    before = {name: fs.info(name) for name in fs.find(path)}
    assert not any("unfinished" in name or name.endswith(".tmp") for name in before)
    again = reshard(a, out, shard_size=4)
    assert not again.new
    assert again.manifest == made.manifest
    for attempt in (
        lambda: reshard(a, out, shard_size=5),
        lambda: reshard(a, out, shard_size=4, name="other"),
        lambda: reshard(out, a, shard_size=4),
        lambda: merge([a, out], out),
    ):
        with pytest.raises(UserError, match="already holds another set; give another --output"):
            attempt()
    assert {name: fs.info(name) for name in fs.find(path)} == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    a = str(tmp_path / "a")
    small_set(a)
    for name, file in (("b", "photo.jpg"), ("c", "text-compensated/00000.tar")):
        (tmp_path / name / file).parent.mkdir(parents=True)
        (tmp_path / name / file).write_bytes(b"mine")
        with pytest.raises(UserError, match=f"{name}' is not empty; give another --output"):
            reshard(a, str(tmp_path / name), shard_size=4)
        assert (tmp_path / name / file).read_bytes() == b"mine"
    with pytest.raises(UserError, match=r"photo.jpg' is not a folder"):
        reshard(a, str(tmp_path / "b" / "photo.jpg"), shard_size=4)


def test_nothing_is_written_into_a_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_set(str(tmp_path / "a"))
    before = contents(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for inside in ("a/new", str(tmp_path / "a" / "new")):
        with pytest.raises(UserError, match="lies in the set 'a', which must stay as it is"):
            reshard("a", inside, shard_size=4)
    assert contents(tmp_path / "a") == before


def interrupted(a: str, out: str, shard_size: int, at: str) -> None:
    """A reshard that ends because a tar of its parent is not there."""
    tar = Path(a) / at
    hidden = tar.with_suffix(".hidden")
    tar.rename(hidden)
    with pytest.raises(UserError, match="is not there"):
        reshard(a, out, shard_size=shard_size)
    hidden.rename(tar)


def test_an_interrupted_command_goes_on_where_it_was(tmp_path: Path) -> None:
    a, out, straight = (str(tmp_path / name) for name in ("a", "out", "straight"))
    small_set(a)
    reshard(a, straight, shard_size=2)
    interrupted(a, out, 2, "image-text-pair/00000.tar")
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()
    with pytest.raises(UserError, match="is not an anchor set"):
        AnchorSet.open(out)
    first = tmp_path / "out" / TEXT_COMPENSATED / "00000.tar"
    second = first.with_name("00001.tar")
    second.write_bytes(b"damaged meanwhile")
    kept = first.stat().st_ino
    with pytest.raises(UserError, match="unfinished set made of other sets or with other options"):
        reshard(a, out, shard_size=3)
    reshard(a, out, shard_size=2)
    assert first.stat().st_ino == kept, "a shard that was whole is not written again"
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_corrupt_samples_are_counted_up_to_a_ceiling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, out = str(tmp_path / "a"), str(tmp_path / "out")
    small_set(a)
    key, last = damage(a, 1), damage(a, 5, shard=2)
    command = ["reshard", a, "--shard-size", "2", "--output", out]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "1 of 12 anchors" in error
    assert "(hash_mismatch 1; the last is" in error
    assert key in error
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()
    # More may be bad, and the folder of the first attempt is gone on with.
    assert main([*command, "--max-bad-fraction", "0.2", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    counts = {"read": 12, "kept": 10, "dropped": {"hash_mismatch": 2}}
    assert body["counts"] == {"reshard": counts}
    assert [(one["key"], one["reason"]) for one in body["bad"]] == [
        (key, "hash_mismatch"),
        (last, "hash_mismatch"),
    ]
    # Shards are full in spite of what is missing.
    assert [s.samples for s in AnchorSet.open(out).manifest.shards] == [2, 2, 1, 2, 2, 1]


def test_a_corrupt_sample_at_the_end_leaves_no_empty_shard(tmp_path: Path) -> None:
    a, out = str(tmp_path / "a"), str(tmp_path / "out")
    small_set(a, [], [pair_record(i) for i in range(3)])
    damage(a, 2)
    made = reshard(a, out, shard_size=1, max_bad=0.5)
    assert [s.samples for s in made.manifest.shards] == [1, 1]
    assert made.manifest.provenance.counts["reshard"].dropped == {"hash_mismatch": 1}


def test_a_changed_parquet_ends_it(tmp_path: Path) -> None:
    a = str(tmp_path / "a")
    small_set(a)
    place = tmp_path / "a" / AnchorSet.open(a).shards()[1].index.path
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(UserError, match="is not the file that the manifest names"):
        merge([a, a], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
