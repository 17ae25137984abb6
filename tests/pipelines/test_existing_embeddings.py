"""Embeddings of the pool that exist already, in place of embedding it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_builds import Built, build, contents
from tiny_data import CLASSES, jpeg, pair, write_tar

from pipelines.embedding.adopt import check_array, read_metadata
from schemas.errors import UserError
from schemas.manifest import Manifest
from schemas.record import IMAGE_TEXT_PAIR
from shards.sources import open_embeddings, open_pool, read_unit

Reference = tuple[Path, Built]
Build = Callable[..., Built]
ALONE = ("--kinds", IMAGE_TEXT_PAIR)


def manifest(output: Path) -> Manifest:
    return Manifest.from_json((output / "anchor_set.json").read_bytes(), str(output))


def ours(reference: Reference) -> Path:
    """What our own embed stage left, in clip-retrieval's layout."""
    return reference[0].with_name("set.work") / "embeddings" / "pool"


def as_others_write(reference: Reference, root: Path, *, scale: float = 1.0) -> Path:
    """The same in one file, with the columns and names that clip-retrieval and LAION use."""
    metadata = sorted((ours(reference) / "metadata").glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(path) for path in metadata])
    arrays = [np.load(p) for p in sorted((ours(reference) / "img_emb").glob("*.npy"))]
    columns = {
        "image_path": table.column("source_key"),
        "caption": table.column("caption"),
        "url": table.column("url"),
        "LICENSE": table.column("license"),
        "punsafe": table.column("punsafe"),
        "key": table.column("source_key"),
        "status": pa.array(["success"] * table.num_rows),
    }
    for folder in ("img_emb", "metadata"):
        (root / folder).mkdir(parents=True)
    rows = np.concatenate(arrays).astype(np.float32) * np.float32(scale)
    np.save(root / "img_emb" / "img_emb_0.npy", rows)
    pq.write_table(pa.table(columns), root / "metadata" / "metadata_0.parquet")
    return root


@pytest.fixture
def adopted(tmp_path: Path, finetune: Path, pairs: Path) -> Build:
    """Build with embeddings that exist already."""

    def call(embeddings: Path, *options: str, pool: Path | None = None) -> Built:
        more = ("--pool_embeddings", str(embeddings), *ALONE, *options)
        return build(finetune, pool or pairs, tmp_path / "set", *more)

    return call


def test_our_own_embeddings_give_the_same_anchors(
    reference: Reference, adopted: Build, tmp_path: Path
) -> None:
    built = adopted(ours(reference))
    assert built.code == 0, built.err
    made, ordinary = manifest(tmp_path / "set"), manifest(reference[0])
    pairs = [shard.sha256 for shard in ordinary.shards if shard.kind == IMAGE_TEXT_PAIR]
    assert [shard.sha256 for shard in made.shards] == pairs
    assert "which model made them is not in the files" in built.err
    work = tmp_path / "set.work"
    assert not list(work.rglob("embeddings/pool/img_emb/*.npy"))
    assert made.provenance.config["pool_embeddings"] == "existing"
    names = [i.name for i in made.provenance.inputs if i.role == "pool"]
    assert {"00000.tar", "00001.tar", "00002.tar"} < set(names)
    assert sum(name.endswith(".npy") for name in names) == 3
    assert str(ours(reference)) not in (tmp_path / "set" / "anchor_set.json").read_text()


def test_others_files_give_the_same_anchors(
    reference: Reference, adopted: Build, tmp_path: Path
) -> None:
    """One file for three tars, float32, another padding, rows that are not of unit length."""
    built = adopted(as_others_write(reference, tmp_path / "laion", scale=4.0))
    assert built.code == 0, built.err
    counts = manifest(tmp_path / "set").provenance.counts
    assert counts["locate"].read == counts["locate"].kept == counts["select"].kept
    wanted = {record["key"] for record in records(reference[0])}
    assert {record["key"] for record in records(tmp_path / "set")} == wanted


def records(output: Path) -> list[dict[str, object]]:
    tables = [pq.read_table(p) for p in sorted((output / IMAGE_TEXT_PAIR).glob("*.parquet"))]
    return pa.concat_tables(tables).to_pylist()


def test_a_build_that_is_run_again_reads_no_tar(
    reference: Reference, adopted: Build, tmp_path: Path
) -> None:
    assert adopted(ours(reference)).code == 0
    before = contents(tmp_path / "set")
    parts = {p: p.stat().st_mtime_ns for p in (tmp_path / "set.work" / "locate").iterdir()}
    built = adopted(ours(reference))
    assert built.code == 0, built.err
    assert contents(tmp_path / "set") == before
    assert {p: p.stat().st_mtime_ns for p in parts} == parts
    for stages in ("select", "assemble"):
        assert adopted(ours(reference), "--stages", stages).code == 0
    next(iter(parts)).unlink()
    built = adopted(ours(reference), "--stages", "assemble")
    assert "run the select stage first" in built.sentence


def test_images_that_are_gone_are_counted(
    reference: Reference, adopted: Build, tmp_path: Path, pairs: Path
) -> None:
    shutil.copytree(pairs, tmp_path / "pool")
    for path in (tmp_path / "pool").glob("00001*"):
        path.unlink()
    built = adopted(ours(reference), pool=tmp_path / "pool")
    assert built.code == 0, built.err
    found = records(tmp_path / "set")
    assert {record["source"] for record in found} == {"00000.tar", "00002.tar"}
    located = manifest(tmp_path / "set").provenance.counts["locate"]
    lost = sum(record["source"] == "00001.tar" for record in records(reference[0]))
    assert located.dropped == {"image_not_found": lost}
    rejected = pq.read_table(tmp_path / "set.work" / "rejected" / "locate-00001.parquet")
    assert set(rejected.column("reason").to_pylist()) == {"image_not_found"}
    assert rejected.num_rows == lost
    shutil.copy(pairs / "00001.tar", tmp_path / "pool")  # fetched after all
    assert adopted(ours(reference), "--force", pool=tmp_path / "pool").code == 0
    assert len(records(tmp_path / "set")) == len(found) + lost


def test_a_key_of_several_tars(
    reference: Reference, adopted: Build, tmp_path: Path, pairs: Path
) -> None:
    """Two downloads with the same numbers: the caption tells whose row it is, if anything does."""
    pool = tmp_path / "pool"
    shutil.copytree(pairs, pool / "a")
    for number in range(3):
        members = []
        for n in range(8):
            text = f"another {n}" if number else f"a {CLASSES[n % 3]} number {n}"
            members += pair(f"{number:05d}{n:04d}", jpeg(5000 + 8 * number + n), text)
        write_tar(pool / "b" / f"{number:05d}.tar", members)
    embeddings = as_others_write(reference, tmp_path / "laion")
    place = embeddings / "metadata" / "metadata_0.parquet"
    pq.write_table(pq.read_table(place).drop_columns(["url"]), place)
    built = adopted(embeddings, "--pool", str(pool / "a"), str(pool / "b"))
    assert built.code == 0, built.err
    sources = [record["source"] for record in records(reference[0])]
    found = [record["source"] for record in records(tmp_path / "set")]
    assert found == [f"a/{source}" for source in sources if source != "00000.tar"]
    located = manifest(tmp_path / "set").provenance.counts["locate"]
    assert located.dropped == {"ambiguous_key": sources.count("00000.tar")}


def test_another_download_is_joined_by_url(
    reference: Reference, adopted: Build, tmp_path: Path, pairs: Path
) -> None:
    """Its images have other numbers, so a key of the embeddings is another image's."""
    source = open_pool(str(pairs))
    samples = [s for unit in source.units for s in read_unit(source, unit)][::-1]
    members, rows = [], []
    for n, sample in enumerate(samples):
        key = f"{n // 8:05d}{n % 8:04d}"
        members += pair(key, sample.image, sample.text, **sample.web)
        rows.append({"key": key, "caption": sample.text, "status": "success"} | sample.web)
    write_tar(tmp_path / "pool" / "00000.tar", members)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool" / "00000.parquet")
    built = adopted(as_others_write(reference, tmp_path / "laion"), pool=tmp_path / "pool")
    assert built.code == 0, built.err
    wanted = [(r["text"], r["image_sha256"]) for r in records(reference[0])]
    assert [(r["text"], r["image_sha256"]) for r in records(tmp_path / "set")] == wanted


def test_images_in_files_are_found_by_the_end_of_their_path(
    reference: Reference, adopted: Build, tmp_path: Path, pairs: Path
) -> None:
    """clip-retrieval writes the whole path of a file, as it was where it ran."""
    root = as_others_write(reference, tmp_path / "laion")
    source = open_pool(str(pairs))
    for sample in (s for unit in source.units for s in read_unit(source, unit)):
        folder = tmp_path / "files" / sample.source_key[:5]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{sample.source_key}.jpg").write_bytes(sample.image)
        (folder / f"{sample.source_key}.txt").write_text(sample.text or "", encoding="utf-8")
    place = root / "metadata" / "metadata_0.parquet"
    table = pq.read_table(place)
    keys = table.column("image_path").to_pylist()
    paths = pa.array([f"/mnt/elsewhere/files/{key[:5]}/{key}.jpg" for key in keys])
    pq.write_table(table.set_column(0, "image_path", paths), place)
    built = adopted(root, pool=tmp_path / "files")
    assert built.code == 0, built.err
    texts = [record["text"] for record in records(tmp_path / "set")]
    assert texts == [record["text"] for record in records(reference[0])]
    sources = {str(record["source"]) for record in records(tmp_path / "set")}
    assert {source.split("/")[0] for source in sources} == {"00000", "00001", "00002"}


def test_the_encoder_is_checked_by_images(
    reference: Reference, adopted: Build, tmp_path: Path
) -> None:
    root = as_others_write(reference, tmp_path / "laion")
    place = root / "img_emb" / "img_emb_0.npy"
    np.save(place, np.load(place)[:, ::-1])  # another model's rows are as good as shuffled
    for _ in range(2):  # and what was found out is not forgotten
        built = adopted(root)
        assert built.code == 2
        assert "are not those of --encoder" in built.sentence
        assert "embedded again, have a median cosine of" in built.sentence
    assert not (tmp_path / "set").exists()


ARRAY = np.full((24, 8), 0.5, np.float16)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda npy: npy.write_bytes(npy.read_bytes()[:-9]), "ends before its 24 rows do"),
        (lambda npy: npy.write_bytes(npy.read_bytes() + b"x"), "goes on after its 24 rows"),
        (lambda npy: npy.write_bytes(b"half"), "is no .npy that can be read"),
        (lambda npy: npy.write_bytes(b"\x93NUMPY\x01\0\xff\xff{}"), "is no .npy that can be read"),
        (
            lambda npy: np.save(npy, ARRAY[:, 1:]),
            "7 dimensions, but those of --encoder clip have 8",
        ),
        (lambda npy: np.save(npy, ARRAY.astype(np.float64)), "not a table of float16"),
        (lambda npy: np.save(npy, np.asfortranarray(ARRAY)), "not a table of float16"),
        (lambda npy: np.save(npy, ARRAY[0]), "not a table of float16"),
        (lambda npy: np.save(npy, np.array([[{}]]), allow_pickle=True), "not a table of float16"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    place = tmp_path / "img_emb_0.npy"
    np.save(place, ARRAY)
    assert check_array(str(place), 8, "clip")[0] == 24
    spoil(place)
    with pytest.raises(UserError, match=said):
        check_array(str(place), 8, "clip")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], r"holds no img_emb/img_emb_N\.npy"),
        (["img_emb/img_emb_1.npy"], "has no metadata parquet of its number"),
        (["img_emb/img_emb_1.npy", "metadata/metadata_2.parquet"], "has no metadata parquet"),
        (["img_emb_1.npy", "metadata_1.parquet", "metadata_02.parquet"], "has no img_emb .npy"),
        (["img_emb_1.npy", "img_emb_01.npy", "metadata_1.parquet"], "have one number"),
        (["img_emb/img_emb_9.npy", "metadata/metadata_09.parquet"], None),
    ],
)
def test_files_belong_together_by_their_number(
    tmp_path: Path, names: list[str], said: str | None
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    if said is None:
        (unit,) = open_embeddings(f"{tmp_path}/").units
        assert [item.path for item in unit.items] == names
        return
    with pytest.raises(UserError, match=said):
        open_embeddings(str(tmp_path))


def test_metadata_of_every_release(tmp_path: Path) -> None:
    table = {
        "image_path": ["000000001", "a/b.jpg"],
        "caption": [None, "two"],
        "NSFW": ["UNLIKELY", None],
        "width": [256.0, float("nan")],
        "similarity": [0.31, None],
    }
    place = str(tmp_path / "metadata_0.parquet")
    pq.write_table(pa.table(table), place)
    one, two = read_metadata(place).to_pylist()
    assert (one["source_key"], one["caption"], one["nsfw"]) == ("000000001", None, "UNLIKELY")
    assert (one["width"], one["similarity"], two["width"]) == (256, 0.31, None)
    for spoilt, said in (
        (pa.table(table).drop_columns(["image_path"]), "has no image_path"),
        (pa.table(table | {"image_path": ["x", None]}), "has a row without image_path"),
    ):
        pq.write_table(spoilt, place)
        with pytest.raises(UserError, match=said):
            read_metadata(place)


def test_rows_that_do_not_belong_together(
    reference: Reference, adopted: Build, tmp_path: Path
) -> None:
    root = as_others_write(reference, tmp_path / "laion")
    place = root / "img_emb" / "img_emb_0.npy"
    np.save(place, np.load(place)[1:])
    built = adopted(root, "--stages", "embed")
    assert built.code == 2
    assert re.search("has 23 rows, but .* has 24; row i of one must be", built.sentence)


def test_rows_without_a_direction_are_bad(
    reference: Reference, adopted: Build, tmp_path: Path
) -> None:
    root = as_others_write(reference, tmp_path / "laion")
    place = root / "img_emb" / "img_emb_0.npy"
    rows = np.load(place)
    rows[3], rows[5, 0], rows[7, 1] = 0, np.nan, np.inf
    np.save(place, rows)
    built = adopted(root)
    assert "bad_embedding 3" in built.sentence
    built = adopted(root, "--max_bad_fraction", "0.2")
    assert built.code == 0, built.err
    assert json.loads((tmp_path / "set" / "anchor_set.json").read_text())["provenance"]["counts"][
        "embed-pool"
    ]["dropped"] == {"bad_embedding": 3}
    keys = {record["source_key"] for record in records(tmp_path / "set")}
    assert not keys & {"000000003", "000000005", "000000007"}


def test_a_folder_of_embeddings_needs_pairs(finetune: Path, tmp_path: Path) -> None:
    options = ("--pool_embeddings", "x", "--kinds", "text-compensated")
    built = build(finetune, None, tmp_path / "set", *options)
    assert "--pool_embeddings is given, but --kinds leaves image-text-pair out" in built.sentence
