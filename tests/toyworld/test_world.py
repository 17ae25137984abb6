"""The world on disk: layouts that real data has, the same bytes every time, no picture twice."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from tiny_builds import contents
from toyworld_small import SMALL

from schemas.errors import UserError
from toyworld.vocabulary import CLASSES, SEEN, UNSEEN
from toyworld.world import EVAL_SETS, WorldConfig, ensure_world


def samples(tar: Path) -> Iterator[dict[str, bytes]]:
    yield from webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False)


def photos_of(world: Path) -> set[str]:
    files = (world / "finetune").rglob("*.jpg")
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def images_of(tars: list[Path]) -> set[str]:
    return {hashlib.sha256(s["jpg"]).hexdigest() for tar in tars for s in samples(tar)}


def test_the_same_config_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    again = ensure_world(tmp_path / "again", SMALL)
    assert contents(again) == contents(world)
    small = WorldConfig(seed=1, finetune=12, pool=12, pool_shard=12, evaluation=4)
    other = ensure_world(tmp_path / "other", small)
    assert not photos_of(other) & photos_of(world)


def test_what_was_cut_off_is_rendered_and_what_is_there_is_left(
    world: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(world, copy)
    (copy / "world.json").unlink()
    (copy / "pool" / "00001.tar").unlink()
    ensure_world(copy, SMALL)
    assert contents(copy) == contents(world)
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    ensure_world(copy, SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in copy.rglob("*")}


def test_other_things_are_left_alone(world: Path, tmp_path: Path) -> None:
    before = contents(world)
    with pytest.raises(UserError, match="world of another config"):
        ensure_world(world, WorldConfig(seed=3))
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="something else"):
        ensure_world(tmp_path, SMALL)
    assert contents(world) == before
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_finetune_set_is_an_image_folder_of_the_seen_classes(world: Path) -> None:
    folders = [path for path in (world / "finetune").iterdir() if path.is_dir()]
    assert {folder.name for folder in folders} == set(SEEN)
    files = [path for folder in folders for path in folder.iterdir()]
    assert len(files) == SMALL.finetune
    with Image.open(files[0]) as image:
        assert image.format == "JPEG"


def test_the_pool_is_as_img2dataset_leaves_it(world: Path) -> None:
    keys, captions, pictures = [], [], []
    sizes = []
    for number in range(3):
        tar = world / "pool" / f"{number:05d}.tar"
        table = pq.read_table(tar.with_suffix(".parquet"))
        rows = {row["key"]: row for row in table.to_pylist()}
        stats = json.loads((world / "pool" / f"{number:05d}_stats.json").read_text())
        found = list(samples(tar))
        sizes.append(stats["count"])
        assert len(rows) == stats["count"]
        assert len(found) == stats["successes"] == stats["status_dict"]["success"]
        assert stats["count"] - stats["successes"] == stats["failed_to_download"]
        for sample in found:
            about = json.loads(sample["json"])
            assert about == rows[sample["__key__"]]
            assert about["status"] == "success"
            assert sample["txt"].decode() == about["caption"]
            assert hashlib.sha256(sample["jpg"]).hexdigest() == about["sha256"]
            with Image.open(io.BytesIO(sample["jpg"])) as image:
                assert image.size == (about["width"], about["height"])
            keys.append(sample["__key__"])
            captions.append(about["caption"])
            pictures.append(sample["jpg"])
        gone = [row for row in rows.values() if row["status"] != "success"]
        assert all(row["width"] is None and row["error_message"] for row in gone)
    assert sizes == [120, 120, 60]
    assert keys == sorted(set(keys))
    assert all(len(key) == 9 for key in keys)
    assert "" in captions
    assert any(c.startswith(("IMG_", "product")) for c in captions)
    assert all(any(name in text for text in captions) for name in CLASSES)
    with tarfile.open(world / "pool" / "00000.tar") as tar_file:
        exts = [name.partition(".")[2] for name in tar_file.getnames()[:3]]
    assert sorted(exts) == ["jpg", "json", "txt"]


def test_the_pool_has_near_duplicates(world: Path) -> None:
    def thumbnail(data: bytes) -> tuple[int, ...]:
        image = Image.open(io.BytesIO(data)).convert("L").resize((8, 8))
        return tuple(value // 16 for value in image.tobytes())

    pool = [s["jpg"] for tar in sorted((world / "pool").glob("*.tar")) for s in samples(tar)]
    assert len(set(pool)) > 0.98 * len(pool), "few are the same to the byte"
    assert 4 <= len(pool) - len({thumbnail(data) for data in pool}) <= 30


@pytest.mark.parametrize("one", EVAL_SETS, ids=lambda one: one.name)
def test_evaluation_sets_are_laid_out_as_clip_benchmark_does(world: Path, one: object) -> None:
    name, group, classes = one.name, one.group, one.classes  # type: ignore[attr-defined]
    root = world / "eval" / name
    assert root.joinpath("classnames.txt").read_text().splitlines() == list(classes)
    assert classes == (UNSEEN if group == "zero_shot" else SEEN)
    templates = root.joinpath("zeroshot_classification_templates.txt").read_text().splitlines()
    assert all("{c}" in template for template in templates)
    shards = int(root.joinpath("test", "nshards.txt").read_text())
    tars = sorted(root.joinpath("test").glob("*.tar"))
    assert [tar.name for tar in tars] == [f"{n}.tar" for n in range(shards)]
    labels = [int(sample["cls"]) for tar in tars for sample in samples(tar)]
    assert len(labels) == SMALL.evaluation * (2 if group == "id" else 1)
    assert set(labels) <= set(range(len(classes)))
    assert len(set(labels)) > len(classes) / 2


def test_the_sets_cover_what_is_asked() -> None:
    groups = [one.group for one in EVAL_SETS]
    assert groups.count("id") == 1
    assert groups.count("shift") == 3
    unseen = [one.domain for one in EVAL_SETS if one.group == "zero_shot"]
    assert sorted(unseen) == ["cartoon", "painting", "photo", "sketch"]


def test_no_picture_of_evaluation_is_in_the_finetune_set_or_the_pool(world: Path) -> None:
    finetune = photos_of(world)
    pool = images_of(sorted((world / "pool").glob("*.tar")))
    evaluation = [images_of(list((world / "eval" / one.name).rglob("*.tar"))) for one in EVAL_SETS]
    assert sum(map(len, evaluation)) == len(set.union(*evaluation))
    assert not set.union(*evaluation) & (finetune | pool)
    assert not finetune & pool
