"""Push and pull over a local folder, a store in memory and a real S3 server (moto's, a process)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import s3_server
from tiny_builds import contents
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME, Manifest
from shards import places
from shards.__main__ import main
from shards.completion import complete_set
from shards.reader import AnchorSet
from shards.sharing.stores import DamagedFile, Sums
from shards.sharing.transfer import pull, push

SHARDS = ("text-compensated/00000", "text-compensated/00001", "image-text-pair/00000")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as place:
        yield place


@pytest.fixture(params=["local", "memory", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that is empty."""
    if request.param == "local":
        return str(tmp_path / "target" / "set")
    name = f"{uuid.uuid4().hex}/set"
    return (
        f"memory://{name}"
        if request.param == "memory"
        else f"{request.getfixturevalue('bucket')}/{name}"
    )


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    root = tmp_path / "whole"
    complete_set(str(root), small_set(str(root)))
    return root


def other_set(root: Path) -> Path:
    """Without the first shard of texts, and with other pairs."""
    manifest = small_set(str(root), [text_record(9)], [pair_record(i) for i in range(3)])
    complete_set(str(root), manifest)
    return root


def test_there_and_back_is_the_same_set(whole: Path, target: str, tmp_path: Path) -> None:
    digest = AnchorSet.open(str(whole)).manifest.digest
    pushed = push(str(whole), target)
    assert (pushed.digest, pushed.kept) == (digest, 0)
    assert pushed.bytes_sent == sum(
        path.stat().st_size
        for path in whole.rglob("*")
        if path.is_file() and path.name != MANIFEST_NAME
    )
    pulled = pull(target, str(tmp_path / "back"))
    assert (pulled.digest, pulled.sent) == (digest, pushed.sent)
    assert contents(tmp_path / "back") == contents(whole)


def test_what_is_there_is_not_sent_again(whole: Path, target: str, tmp_path: Path) -> None:
    back = tmp_path / "back"
    first = push(str(whole), target)
    assert push(str(whole), target).sent == 0
    places.remove(places.join(target, f"{SHARDS[1]}.tar"))
    places.write_bytes(places.join(target, f"{SHARDS[2]}.parquet"), b"half")
    mended = push(str(whole), target)
    assert (mended.sent, mended.kept) == (2, first.sent - 2)
    pull(target, str(back))
    size = (back / "README.md").stat().st_size
    (back / "README.md").write_bytes(b"x" * size)  # the right size is not enough
    assert pull(target, str(back)).sent == 1
    assert contents(back) == contents(whole)


def test_a_changed_file_of_the_same_size_is_found_at_the_target(whole: Path, target: str) -> None:
    push(str(whole), target)
    place = places.join(target, f"{SHARDS[0]}.tar")
    data = bytearray(places.read_bytes(place))
    data[1500] ^= 1
    places.write_bytes(place, bytes(data))
    assert push(str(whole), target).sent == 1
    assert places.read_bytes(place) == (whole / f"{SHARDS[0]}.tar").read_bytes()


def test_another_set_is_replaced_only_by_force(whole: Path, target: str, tmp_path: Path) -> None:
    other = other_set(tmp_path / "other")
    push(str(whole), target)
    with pytest.raises(UserError, match="holds another anchor set"):
        push(str(other), target)
    assert AnchorSet.open(target).manifest == AnchorSet.open(str(whole)).manifest
    push(str(other), target, force=True)
    back = tmp_path / "back"
    pull(target, str(back))
    assert contents(back) == contents(other)
    assert not places.exists(places.join(target, f"{SHARDS[0]}.tar"))  # of the old set only
    with pytest.raises(UserError, match="holds another anchor set"):
        pull(str(whole), str(back))
    pull(str(whole), str(back), force=True)
    assert contents(back) == contents(whole)


def test_shards_of_an_unfinished_replacement_are_in_the_way(whole: Path, target: str) -> None:
    places.write_bytes(places.join(target, "text-compensated/00007.tar"), b"of another set")
    with pytest.raises(UserError, match=r"'text-compensated/00007\.tar', which is not of this set"):
        push(str(whole), target)
    push(str(whole), target, force=True)
    assert not places.exists(places.join(target, "text-compensated/00007.tar"))


def test_the_same_data_with_a_new_card_needs_no_force(whole: Path, target: str) -> None:
    push(str(whole), target)
    before = contents(whole)
    manifest = AnchorSet.open(str(whole)).manifest
    complete_set(str(whole), manifest.model_copy(update={"name": "renamed"}))
    after = contents(whole)
    changed = {path for path in after if before[path] != after[path]} - {MANIFEST_NAME}
    assert "README.md" in changed
    assert push(str(whole), target).sent == len(changed)
    assert AnchorSet.open(target).manifest.name == "renamed"


@pytest.mark.parametrize("name", ["text-compensated/00001.tar", "README.md"])
def test_damage_at_the_source_stops_a_push(whole: Path, target: str, name: str) -> None:
    data = bytearray((whole / name).read_bytes())
    data[100] ^= 8
    (whole / name).write_bytes(bytes(data))
    with pytest.raises(DamagedFile, match=name):
        push(str(whole), target)
    assert not places.exists(places.join(target, MANIFEST_NAME))


def test_damage_at_the_source_stops_a_pull(whole: Path, target: str, tmp_path: Path) -> None:
    push(str(whole), target)
    for number, damage in enumerate((b"", b"short", b"x" * 10**6)):
        places.write_bytes(places.join(target, f"{SHARDS[0]}.tar"), damage)
        back = tmp_path / f"back{number}"
        with pytest.raises(DamagedFile, match=r"00000\.tar"):
            pull(target, str(back))
        assert not (back / MANIFEST_NAME).exists()
        assert not list(back.rglob(".*00000.tar*"))  # nor is anything kept of it
    places.remove(places.join(target, f"{SHARDS[0]}.tar"))
    with pytest.raises(UserError, match="is not there"):
        pull(target, str(tmp_path / "back"))


@pytest.mark.parametrize(
    ("kinds", "shards", "wanted"),
    [
        (["text-compensated"], [], SHARDS[:2]),
        ([], ["0"], (SHARDS[0], SHARDS[2])),
        ([], ["1-7"], SHARDS[1:2]),
        (["text-compensated"], ["0", "1"], SHARDS[:2]),
        ([], ["image-text-pair/00000.tar", "text-compensated/00001.parquet"], SHARDS[1:]),
    ],
)
def test_some_shards_are_a_set_of_their_own(
    whole: Path, tmp_path: Path, kinds: list[str], shards: list[str], wanted: tuple[str, ...]
) -> None:
    target = f"memory://{tmp_path.name}"
    parent = push(str(whole), target)
    folder = tmp_path / "part"
    moved = pull(target, str(folder), kinds=kinds, shards=shards)  # type: ignore[arg-type]
    anchors = AnchorSet.open(str(folder))
    assert [shard.path for shard in anchors.manifest.shards] == [f"{name}.tar" for name in wanted]
    assert anchors.manifest.provenance.parents == [parent.digest]
    assert moved.samples == anchors.manifest.samples < parent.samples
    assert set(contents(folder)) == {
        MANIFEST_NAME,
        *(file.path for file in anchors.manifest.files),
        *(f"{name}{ending}" for name in wanted for ending in (".tar", ".parquet")),
    }
    read = [record.key for record, image in anchors.samples(_no_bad)]
    assert len(read) == moved.samples
    before = contents(folder)
    assert pull(target, str(folder), kinds=kinds, shards=shards).sent == 0  # type: ignore[arg-type]
    assert contents(folder) == before


def _no_bad(key: str, problem: Exception) -> None:
    raise AssertionError(f"{key}: {problem}")


def test_a_part_is_another_set_than_the_whole(whole: Path, tmp_path: Path) -> None:
    pull(str(whole), str(tmp_path / "part"), shards=["0"])
    with pytest.raises(UserError, match="holds another anchor set"):
        pull(str(whole), str(tmp_path / "part"))
    pull(str(whole), str(tmp_path / "part"), force=True)
    assert contents(tmp_path / "part") == contents(whole)


@pytest.mark.parametrize("name", ["7", "5-2", "../x", "text-compensated", "0-", "9" * 30])
def test_shards_that_are_not_there(whole: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="has no shard"):
        pull(str(whole), str(tmp_path / "part"), shards=[name])
    assert not (tmp_path / "part").exists()


def test_a_partial_download_goes_on_where_it_stopped(whole: Path, tmp_path: Path) -> None:
    entry = AnchorSet.open(str(whole)).manifest.shards[0]
    back = tmp_path / "back"
    part = back / "text-compensated" / f".00000.tar.{entry.sha256[:16]}.part"
    part.parent.mkdir(parents=True)
    tar = (whole / entry.path).read_bytes()
    for left in (tar[:700], b"", tar, b"other bytes", tar + b"more"):
        part.write_bytes(left)
        (back / entry.path).unlink(missing_ok=True)
        pull(str(whole), str(back))
        assert contents(back) == contents(whole)


def test_what_other_runs_left_is_swept(whole: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    (back / "image-text-pair").mkdir(parents=True)
    (back / "image-text-pair" / f".00000.tar.{'0' * 16}.part").write_bytes(b"of an older set")
    pull(str(whole), str(back))
    assert contents(back) == contents(whole)


def test_the_checksum_of_parts_is_that_of_s3(bucket: str, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(b"".join(bytes([number]) * (1 << 20) for number in range(11)))
    fs, at = places.filesystem(f"{bucket}/large.bin")
    part = 5 << 20  # the least that S3 takes
    fs.put_file(str(path), at, chunksize=part)
    info = fs.info(at)
    assert info["ETag"].strip('"').endswith("-3")
    assert Sums.of(str(path), part).are_of(info)
    with path.open("r+b") as file:
        file.write(b"x")
    assert not Sums.of(str(path), part).are_of(info)


def test_command_lines(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, folder = f"memory://{tmp_path.name}", str(tmp_path / "back")
    assert main(["push", str(whole), url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["digest"] == Manifest.from_json(places.read_bytes(f"{url}/{MANIFEST_NAME}"), "").digest
    )
    assert main(["pull", url, folder, "--threads", "1"]) == 0
    assert f"digest {told['digest']}" in capsys.readouterr().out
    places.write_bytes(f"{url}/{SHARDS[0]}.tar", b"gone")
    assert main(["pull", url, str(tmp_path / "new")]) == 1
    assert "00000.tar' is not the file" in capsys.readouterr().err
    assert main(["pull", url, str(tmp_path / "new"), "--json"]) == 1
    assert "00000.tar" in json.loads(capsys.readouterr().out)["error"]
    for wrong in (
        ["pull", "memory://nothing/here", folder],
        ["pull", "nosuch://here", folder],
        ["pull", "pipe:cat x", folder],
        ["pull", url, url],
        ["push", url, folder],
        ["push", str(whole), str(whole) + "/"],
        ["push", str(whole), "hf://models/a/b"],
        ["pull", "hf://datasets/a", folder],
    ):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert error.startswith("anchorft-shards: error: ")
        assert error.count("\n") == 1
