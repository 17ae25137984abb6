"""Approximate indices on real embeddings, of the toy world's pictures, through whole builds."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_builds import build

from benchmarks.recall import found_rows, recall
from pipelines.embedding.embed import FINETUNE, POOL
from pipelines.embedding.vectors import read_array
from pipelines.parts import Part, array_place, part_place, required_part
from pipelines.selection.screen import kept_rows
from schemas.manifest import MANIFEST_NAME
from toyworld.world import WorldConfig, ensure_world

K = 10
PER_TAR = 400


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = WorldConfig(finetune=240, pool=2000, pool_shard=PER_TAR, evaluation=24)
    return ensure_world(tmp_path_factory.mktemp("recall") / "world", sizes)


@pytest.fixture(scope="module")
def work(world: Path) -> str:
    """A work folder with the embeddings."""
    place = str(world.parent / "work")
    done = build(world / "finetune", world / "pool", world.parent / "none", "--work", place, *ALONE)
    assert done.code == 0, done.err
    return place


ALONE = ("--kinds", "image-text-pair", "--stages", "embed")


def parts(work: str, stage: str) -> list[Part]:
    number, found = 0, []
    while Path(part_place(work, stage, number)).exists():
        found.append(required_part(work, stage, number))
        number += 1
    return found


def exact_rows(work: str) -> NDArray[np.int64]:
    """What one search of IndexFlatIP finds of what is searched, as part times PER_TAR plus row."""
    pool = parts(work, POOL)
    index = faiss.IndexIDMap(faiss.IndexFlatIP(pool[0].extra["dimension"]))
    for part in pool:
        kept = kept_rows(work, part.number)
        assert len(kept) < part.rows  # the pool has pairs that are screened out
        index.add_with_ids(read_array(work, part)[kept], part.number * PER_TAR + kept.astype("i8"))
    queries = np.concatenate([read_array(work, part) for part in parts(work, FINETUNE)])
    rows: NDArray[np.int64] = index.search(queries, K)[1]
    return rows


@pytest.mark.parametrize("index", ["approximate", "ivf-pq", "hnsw"])
def test_recall_is_what_the_manifest_says(
    world: Path, work: str, tmp_path: Path, index: str
) -> None:
    options = ("--work", work, "--index", index, "--kinds", "image-text-pair", "--k", str(K))
    built = build(world / "finetune", world / "pool", tmp_path / "set", *options)
    assert built.code == 0, built.err
    manifest = json.loads((tmp_path / "set" / MANIFEST_NAME).read_text("utf-8"))
    info = manifest["provenance"]["index"]
    measured = recall(found_rows(work, parts(work, FINETUNE), PER_TAR, K), exact_rows(work))
    assert info["recall_queries"] == 240
    assert info["recall"] >= 0.95
    assert measured == pytest.approx(info["recall"], abs=0.002)  # equal scores may change places
    assert manifest["provenance"]["config"]["index"] == index


def test_an_index_that_exists_gives_the_set_of_an_exact_search(
    world: Path, work: str, tmp_path: Path
) -> None:
    pool = parts(work, POOL)
    index = faiss.IndexFlatIP(pool[0].extra["dimension"])
    for part in pool:
        # As any tool would read the work folder: clip-retrieval's layout.
        index.add(
            np.load(array_place(work, POOL, part.number), allow_pickle=False).astype(np.float32)
        )
    faiss.write_index(index, str(tmp_path / "image.index"))
    digests = []
    for name, options in (("given", ("--pool_index", tmp_path / "image.index")), ("exact", ())):
        output = tmp_path / name
        more = ("--work", work, "--kinds", "image-text-pair", *map(str, options))
        built = build(world / "finetune", world / "pool", output, *more)
        assert built.code == 0, built.err
        digests.append(json.loads((output / MANIFEST_NAME).read_text("utf-8"))["digest"])
    assert digests[0] == digests[1]
