"""The select stage in builds: what is planted in a pool comes out with its reason."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_builds import Built, build, contents, ended, start
from tiny_data import image_folder, pair, write_tar

from benchmarks.planted import copy_of, pictured, scenes
from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR
from schemas.tables import REJECTED
from shards.reader import AnchorSet
from shards.sources import raise_bad
from shards.sources.evaluation import open_evaluation

ONLY = ("--kinds", IMAGE_TEXT_PAIR, "--k", "16")
OWN = scenes(12, 100)
SHOWN = scenes(6, 101)
POOL = scenes(10, 102)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ft``, ``ev`` and ``pool``: two tars of ten pictures, the second with what is planted."""
    root = tmp_path_factory.mktemp("planted")
    for number, scene in enumerate(OWN):
        place = root / "ft" / ("odd" if number % 2 else "even") / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pictured(scene))
    for number, scene in enumerate(SHOWN):
        place = root / "ev" / "deep" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pictured(scene))
    (root / "ev" / "notes.txt").write_text("not an image")
    rng = np.random.default_rng(0)
    shown = Image.open(root / "ev" / "deep" / "0.jpg")
    planted = {
        "own": pictured(OWN[0]),  # a file of the finetune set
        "twice": pictured(POOL[0]),  # a file of the other tar
        "nearly": copy_of(Image.open(io.BytesIO(pictured(POOL[1]))), ("re-encoded",), rng),
        "shown": pictured(SHOWN[1]),  # a file of the evaluation set
        "copy": copy_of(shown, ("cropped", "mirrored"), rng),
    }
    first = [(f"{n:09d}", pictured(scene)) for n, scene in enumerate(POOL)]
    for name, samples in (("0", first), ("1", list(planted.items()))):
        members = [m for key, image in samples for m in pair(key, image, f"text of {key}")]
        write_tar(root / "pool" / f"{name}.tar", members)
    return root


def select(data: Path, output: Path, *options: str) -> tuple[Built, dict[str, Any]]:
    built = build(data / "ft", data / "pool", output, *ONLY, *options, "--k", "15")
    assert built.code == 0, built.err
    manifest = json.loads((output / "anchor_set.json").read_text())
    return built, manifest["provenance"]


def kept(output: Path) -> set[str]:
    samples = AnchorSet.open(str(output)).samples(raise_bad)
    return {record.source_key for record, _ in samples}


def rejected(output: Path) -> dict[str, tuple[str, str]]:
    """Key to reason and detail."""
    found = {}
    for place in sorted((output.with_name("set.work") / "rejected").glob("select-*.parquet")):
        table = pq.read_table(place)
        assert table.schema.equals(REJECTED)
        found |= {r["source_key"]: (r["reason"], r["detail"]) for r in table.to_pylist()}
    return found


def test_by_default_only_the_same_files_go(data: Path, tmp_path: Path) -> None:
    built, made = select(data, tmp_path / "set")
    counts = made["counts"]["select"]
    assert counts["dropped"] == {"duplicate": 1, "finetune_duplicate": 1}
    assert counts["read"] == counts["kept"] + 2 == 15
    assert "select: read 15, kept 13, dropped duplicate 1, finetune_duplicate 1" in built.out
    found = rejected(tmp_path / "set")
    assert found["own"] == ("finetune_duplicate", "is even/0.jpg")
    # Both files have the same score, so the first in the pool stays.
    assert found["twice"] == ("duplicate", "is 0.tar 000000000")
    assert "000000000" in kept(tmp_path / "set")


def test_no_copy_of_an_evaluation_image_stays(data: Path, tmp_path: Path) -> None:
    _, made = select(data, tmp_path / "set", "--evaluation", str(data / "ev"))
    assert made["counts"]["select"]["dropped"]["evaluation_copy"] == 2
    found = rejected(tmp_path / "set")
    assert found["shown"] == ("evaluation_copy", "is 00000/deep/1.jpg deep/1.jpg")
    assert found["copy"][0] == "evaluation_copy"
    assert found["copy"][1].startswith("like 00000/deep/0.jpg deep/0.jpg (0.9")
    assert {"shown", "copy"}.isdisjoint(kept(tmp_path / "set"))
    named = [i["name"] for i in made["inputs"] if i["role"] == "evaluation"]
    assert named == ["00000/images-00000"]
    assert made["counts"]["embed-evaluation-00000"]["kept"] == 6
    assert made["config"]["evaluation"] == 1
    assert str(data) not in (tmp_path / "set" / "anchor_set.json").read_text()


def test_near_duplicates_are_one_picture(data: Path, tmp_path: Path) -> None:
    select(data, tmp_path / "set", "--near_duplicates", "0.97")
    reasons = Counter(reason for reason, _ in rejected(tmp_path / "set").values())
    pair_of_two = {"nearly", "000000001"}
    assert len(pair_of_two & kept(tmp_path / "set")) == 1
    assert reasons["near_duplicate"] >= 1
    _, made = select(data, tmp_path / "set2", "--near_duplicates", "0.5")
    assert made["counts"]["select"]["dropped"]["finetune_near_duplicate"] >= 2


def test_the_text_must_fit_if_that_is_asked(data: Path, tmp_path: Path) -> None:
    select(data, tmp_path / "plain", "--min_clip_score", "-0.99")
    records = [r for r, _ in AnchorSet.open(str(tmp_path / "plain")).samples(raise_bad)]
    scores = sorted(r.clip_score for r in records if r.clip_score is not None)
    assert len(scores) == len(records)
    floor = str(scores[3])
    _, made = select(data, tmp_path / "set", "--min_clip_score", floor)
    dropped = made["counts"]["select"]["dropped"]
    assert dropped["low_clip_score"] >= 3
    left = [r for r, _ in AnchorSet.open(str(tmp_path / "set")).samples(raise_bad)]
    assert min(r.clip_score for r in left) >= float(floor)  # type: ignore[type-var]


def test_a_class_has_its_quota(data: Path, tmp_path: Path) -> None:
    _, made = select(data, tmp_path / "set", "--max_per_class", "2")
    assert 2 <= made["counts"]["select"]["kept"] <= 4
    assert made["counts"]["select"]["dropped"]["class_quota"] >= 9
    details = [d for reason, d in rejected(tmp_path / "set").values() if reason == "class_quota"]
    assert set(details) == {"2 others score better for even, odd"}


EVERYTHING = ("--near_duplicates", "0.97", "--min_clip_score", "-0.99", "--max_per_class", "5")


def test_workers_and_a_second_run_give_the_same(data: Path, tmp_path: Path) -> None:
    options = (*EVERYTHING, "--evaluation", str(data / "ev"))
    select(data, tmp_path / "set", *options)
    whole = contents(tmp_path / "set")
    work = tmp_path / "set.work"
    parts = [p for p in work.rglob("*.parquet") if "units" not in p.parts]
    notes = {p: p.stat().st_mtime_ns for p in parts}
    select(data, tmp_path / "set", *options)
    assert {p: p.stat().st_mtime_ns for p in notes} == notes, "a finished part was made again"
    thumbnails = work / "embeddings" / "evaluation-00000" / "thumbnails" / "thumbnails_00000.npy"
    damaged = {p: p.read_bytes() for p in (work / "judge" / "00001.parquet", thumbnails)}
    for place, body in damaged.items():
        place.write_bytes(body[:-9])
    (work / "rejected" / "select-00000.parquet").unlink()
    select(data, tmp_path / "set", *options)
    assert {place: place.read_bytes() for place in damaged} == damaged
    assert (work / "rejected" / "select-00000.parquet").exists()
    assert contents(tmp_path / "set") == whole
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2", "--name", "set")
    arguments = (*ONLY, *options, "--k", "15", *workers)
    shutil.rmtree(tmp_path / "set")
    built = ended(start(data / "ft", data / "pool", tmp_path / "set", *arguments, "--force"))
    assert built.code == 0, built.err
    other = json.loads((tmp_path / "set" / "anchor_set.json").read_text())
    assert other["provenance"]["counts"]["select"]["dropped"].keys() >= {"class_quota"}
    shards = {name: d for name, d in contents(tmp_path / "set").items() if name.endswith(".tar")}
    assert shards == {name: d for name, d in whole.items() if name.endswith(".tar")}


def test_other_evaluation_images_are_looked_at_again(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "ev", tmp_path / "ev")
    select(data, tmp_path / "set", "--evaluation", str(tmp_path / "ev"))
    (tmp_path / "ev" / "deep" / "1.jpg").unlink()
    built = build(
        data / "ft", data / "pool", tmp_path / "set", *ONLY, "--k", "15", "--force",
        "--evaluation", str(tmp_path / "ev"),
    )  # fmt: skip
    assert built.code == 0, built.err
    assert "shown" in kept(tmp_path / "set")
    assert "copy" not in kept(tmp_path / "set")


def test_places_of_evaluation_images(data: Path, tmp_path: Path) -> None:
    def names(place: Path | str) -> list[str]:
        source = open_evaluation(str(place))
        return [s.source_key for unit in source.units for s in source.read(unit, raise_bad)]

    jpeg = pictured(SHOWN[0])
    assert names(data / "ev") == [f"deep/{n}.jpg" for n in range(6)]
    members = [("s0.jpg", jpeg), ("s0.cls", b"7"), ("s1.png.txt", b"x"), ("s2.jpg", jpeg)]
    for split in ("train", "test"):
        write_tar(tmp_path / "cb" / split / "0.tar", [*members[:2], (f"{split}.jpg", jpeg)])
    assert names(tmp_path / "cb") == ["s0", "test"]
    assert names(tmp_path / "cb" / "train") == ["s0", "train"]
    assert names(f"{tmp_path}/cb/*/0.tar") == ["s0", "test", "s0", "train"]
    (tmp_path / "a.csv").write_text(f"filepath,title\n{data}/ev/deep/3.jpg,x\n")
    assert names(tmp_path / "a.csv") == ["3.jpg"]
    for place, said in (
        (tmp_path / "nothing", "is neither a folder of images nor a tar"),
        (image_folder(tmp_path / "e", 1).parent / "a.csv" / "x", "is neither a folder"),
    ):
        with pytest.raises(UserError, match=said):
            open_evaluation(str(place))
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="holds neither images"):
        open_evaluation(str(tmp_path / "bare"))


def test_a_place_that_is_not_there_is_one_sentence(data: Path, tmp_path: Path) -> None:
    built = build(data / "ft", data / "pool", tmp_path / "set", *ONLY, "--evaluation", "/no/where")
    assert built.code == 2
    assert "'/no/where' is neither a folder of images nor a tar" in built.sentence
    assert not (tmp_path / "set").exists()
