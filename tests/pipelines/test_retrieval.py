"""The retrieve stage over synthetic embeddings: partitions, resumption, and every kind of index."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from tiny_builds import contents

from benchmarks.recall import retrieve as run
from benchmarks.vectors import clustered, metadata, no_screen, write_embeddings
from pipelines.embedding.embed import FINETUNE, POOL
from pipelines.parts import Part, left_parts, part_place, read_part, write_part
from pipelines.retrieval import retrieve, rule
from pipelines.retrieval.options import RetrieveConfig
from pipelines.retrieval.search import Block, nearest
from pipelines.watching.sentences import user_sentence
from schemas.errors import UserError
from shards import places


@dataclass
class World:
    """Embeddings in a work folder, and what an exact search must find."""

    work: Path
    queries: list[Part]
    pool: list[Part]
    screened: list[Part]
    query_vectors: NDArray[np.float32]
    pool_vectors: NDArray[np.float32]
    kept: NDArray[np.bool_]
    per_part: int

    def run(self, **settings: Any) -> list[Part]:
        """The stage, in a pipeline of its own."""
        force = settings.pop("force", False)
        config = RetrieveConfig(**{"k": 5} | settings)
        run(str(self.work), self.queries, self.pool, self.screened, config, force=force)
        return [
            part for q in self.queries if (part := retrieve_part(self.work, q.number)) is not None
        ]

    def sentence(self, **settings: Any) -> str:
        with pytest.raises(Exception) as caught:  # noqa: PT011  runners wrap it
            self.run(**settings)
        sentence = user_sentence(caught.value)
        assert sentence is not None, caught.value
        return sentence

    def found(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Query, score and pool row over all, as the neighbours' files say."""
        columns: list[list[NDArray[Any]]] = [[], [], []]
        start = 0
        for query in self.queries:
            table = pq.read_table(part_place(str(self.work), "retrieve", query.number))
            columns[0].append(table["query"].to_numpy().astype(np.int64) + start)
            columns[1].append(table["score"].to_numpy())
            part = table["pool_part"].to_numpy().astype(np.int64)
            columns[2].append(part * self.per_part + table["pool_row"].to_numpy())
            start += query.rows
        query, score, row = (np.concatenate(values) for values in columns)
        return query, score, row

    def recall(self, k: int = 5) -> float:
        """Measured apart from the stage, over all queries."""
        rows = np.flatnonzero(self.kept).astype(np.int32)
        block = Block(np.zeros(len(rows), np.int32), rows, self.pool_vectors[rows])
        exact = nearest(self.query_vectors, [block], k)
        wanted = {(q, int(r)) for q, line in enumerate(exact.row) for r in line}
        query, score, row = self.found()
        pairs = list(zip(query.tolist(), row.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)
        assert self.kept[row].all()
        exact_scores = np.einsum(
            "nd,nd->n", self.query_vectors[query].astype("f8"), self.pool_vectors[row].astype("f8")
        )
        assert np.array_equal(score, exact_scores.astype(np.float32))
        return len(wanted & set(pairs)) / len(wanted)

    def info(self) -> dict[str, Any]:
        return retrieve.index_info(str(self.work), 5)


SCREEN = no_screen()


def retrieve_part(work: Path, number: int) -> Part | None:
    return read_part(str(work), "retrieve", number)


def make_world(
    work: Path, pool: int = 900, queries: int = 70, per_part: int = 100, dimension: int = 16
) -> World:
    pool_vectors = clustered(pool, dimension, seed=0, clusters=30)
    query_vectors = clustered(queries, dimension, seed=1, clusters=30)
    kept = np.random.default_rng(2).random(pool) < 0.8
    kept[3 * per_part : 4 * per_part] = False  # one part of which nothing is searched
    parts, screened = write_embeddings(str(work), POOL, pool_vectors, per_part, kept)
    asked, _ = write_embeddings(str(work), FINETUNE, query_vectors, 20)
    return World(work, asked, parts, screened, query_vectors, pool_vectors, kept, per_part)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "work")


def neighbours(world: World) -> dict[str, str]:
    return contents(world.work / "retrieve")


def lasting(work: Path) -> dict[str, str]:
    """Everything in the work folder but how long it took."""
    return {name: d for name, d in contents(work).items() if not name.startswith("timings/")}


def test_partitions_and_groups_of_any_size_give_the_same_bytes(world: World) -> None:
    parts = world.run(index=rule.EXACT)
    assert [part.rows for part in parts] == [20, 20, 20, 10]
    assert world.recall() == 1.0
    wanted = neighbours(world)
    for partition_rows, query_rows in ((1, 1), (150, 45), (333, 1000)):
        sizes = {"partition_rows": partition_rows, "query_rows": query_rows}
        world.run(index=rule.EXACT, force=True, **sizes)
        assert neighbours(world) == wanted
    assert world.info() == {"type": "exact", "metric": "cosine", "storage": "float16", "k": 5}


def test_a_search_goes_on_where_it_was_killed(world: World) -> None:
    sizes = {"partition_rows": 200, "query_rows": 45}
    world.run(**sizes)
    wanted = lasting(world.work)
    hits = sorted((world.work / "retrieve-hits").iterdir())
    assert len(hits) == 8  # 4 partitions of the rows that are searched, 2 groups
    work = world.work / "retrieve"
    dates = {path: path.stat().st_mtime_ns for path in hits}
    # Group 0 asks by tasks 0, 2, 4 and 6, group 1 by the others.
    for path in (hits[2], work / "00001.parquet"):
        path.unlink()
    hits[6].write_bytes(hits[6].read_bytes()[:100])  # what a full disk may leave
    hits[5].write_bytes(b"")  # of a group that is finished, so nobody looks
    world.run(**sizes)
    redone = {path for path in hits if path.stat().st_mtime_ns != dates[path]}
    assert redone == {hits[2], hits[5], hits[6]}
    (work / "00003.parquet").unlink()
    world.run(**sizes)
    assert lasting(world.work) == wanted


def test_only_what_changed_is_searched_again(world: World) -> None:
    world.run(partition_rows=200)
    before = {path: path.stat().st_mtime_ns for path in (world.work / "retrieve-hits").iterdir()}
    world.run(partition_rows=200)
    assert all(path.stat().st_mtime_ns == date for path, date in before.items())
    changed = clustered(100, 16, seed=9, clusters=30)
    world.pool_vectors[:100] = changed
    parts, screened = write_embeddings(
        str(world.work), POOL, world.pool_vectors, world.per_part, world.kept
    )
    world.pool, world.screened = parts, screened
    world.run(partition_rows=200)
    again = {path for path, date in before.items() if path.stat().st_mtime_ns != date}
    assert len(again) == 1
    assert world.recall() == 1.0
    world.run(partition_rows=200, force=True)
    assert all(path.stat().st_mtime_ns != date for path, date in before.items())


@pytest.mark.parametrize("index", [rule.IVF_FLAT, rule.IVF_PQ, rule.HNSW, rule.APPROXIMATE])
def test_every_index_reaches_the_recall_that_it_reports(world: World, index: str) -> None:
    world.run(index=index, partition_rows=400)
    info = world.info()
    assert info["type"] == (rule.IVF_FLAT if index == rule.APPROXIMATE else index)
    assert info["recall"] >= 0.95
    assert info["recall_queries"] == 70  # all of them, so the figure is to be met exactly
    assert round(world.recall(), 6) == info["recall"]
    assert info["partitions"] == 2
    wanted = lasting(world.work)
    for name in ("index/00001.faiss", "index-trials/00000.parquet", "index-tuned/00000.parquet"):
        (world.work / name).unlink()
    (world.work / "index" / "00001.parquet").unlink()
    (world.work / "retrieve" / "00002.parquet").unlink()
    (world.work / "retrieve-hits" / "00001.parquet").unlink()
    world.run(index=index, partition_rows=400)
    assert lasting(world.work) == wanted
    world.run(index=index, partition_rows=400, force=True)
    assert lasting(world.work) == wanted


def test_the_number_of_threads_changes_nothing(world: World) -> None:
    found = []
    for threads in (1, 2, 4):
        faiss.omp_set_num_threads(threads)
        try:
            world.run(index=rule.HNSW, partition_rows=400, force=True)
            world.run(index=rule.IVF_PQ, partition_rows=400, force=True)
        finally:
            faiss.omp_set_num_threads(1)
        found.append(lasting(world.work))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    "factory", ["Flat", "IVF20,Flat", "IVF20,PQ8np", "HNSW16", "OPQ8_16,IVF20,PQ8np"]
)
def test_an_index_that_exists_is_searched(world: World, tmp_path: Path, factory: str) -> None:
    index = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(world.pool_vectors)
    index.add(world.pool_vectors)
    place = tmp_path / "image.index"
    faiss.write_index(index, str(place))
    world.run(index=rule.GIVEN, pool_index=str(place), partition_rows=300)
    info = world.info()
    assert info["type"] == "given"
    assert info["recall"] >= 0.95
    assert round(world.recall(), 6) == info["recall"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", info["fingerprint"])
    assert str(tmp_path) not in repr(info)


def test_an_index_of_something_else_is_refused(world: World, tmp_path: Path) -> None:
    place = tmp_path / "image.index"

    def sentence() -> str:
        return world.sentence(index=rule.GIVEN, pool_index=str(place))

    assert "is not there" in sentence()
    place.write_bytes(b"this is not an index of faiss")
    assert "is not a faiss index" in sentence()
    other = faiss.IndexFlatIP(24)
    faiss.write_index(other, str(place))
    assert "holds vectors of 24 numbers, but the pool's embeddings have 16" in sentence()
    short = faiss.IndexFlatIP(16)
    short.add(world.pool_vectors[:899])
    faiss.write_index(short, str(place))
    assert "holds 899 vectors, but the pool has 900 embeddings" in sentence()
    short.add(world.pool_vectors[899:])
    faiss.write_index(short, str(place))
    data = place.read_bytes()
    place.write_bytes(data[:12] + b"\xff" * 4 + data[16:])
    assert "is damaged" in sentence()
    place.write_bytes(data[: len(data) // 2])
    assert "cannot be read as a faiss index" in sentence()
    wrong = faiss.IndexFlat(16, faiss.METRIC_L1)
    wrong.add(world.pool_vectors)
    faiss.write_index(wrong, str(place))
    assert "neither by inner product nor by distance" in sentence()
    noise = faiss.IndexFlatIP(16)
    noise.add(world.pool_vectors[np.random.default_rng(0).permutation(900)])
    faiss.write_index(noise, str(place))
    assert re.search(r"finds 0\.\d+ of the exact neighbours at most, less than", sentence())


def test_small_pools_and_empty_parts(tmp_path: Path) -> None:
    world = make_world(tmp_path / "work", pool=40, queries=3, per_part=4)
    usable = int(world.kept.sum())
    assert f"--k {usable + 1} is larger than the pool" in world.sentence(k=usable + 1)
    assert "needs 256 pool rows" in world.sentence(index=rule.IVF_PQ)
    for index in (rule.EXACT, rule.IVF_FLAT, rule.HNSW):
        parts = world.run(k=usable, index=index, force=True, min_recall=0.5)
        assert [part.rows for part in parts] == [3]
        assert world.recall(usable) >= (1.0 if index == rule.EXACT else 0.5)


def test_a_query_part_without_queries_gets_its_empty_part(world: World) -> None:
    none = replace(world.queries[0], number=4, name="none", rows=0)
    none.extra["dimension"] = 0
    write_part(str(world.work), none, metadata("none", 0))
    world.queries[0] = replace(world.queries[0], extra=world.queries[0].extra | {"dimension": 16})
    world.queries.append(none)
    parts = world.run()
    assert [part.rows for part in parts] == [20, 20, 20, 10, 0]
    assert pq.read_table(part_place(str(world.work), "retrieve", 4)).num_rows == 0


def test_vectors_that_changed_are_refused(world: World) -> None:
    place = world.work / "embeddings" / "pool" / "img_emb" / "img_emb_00002.npy"
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(data)
    assert "img_emb_00002.npy' was changed after it was written; run the embed" in world.sentence()


def test_parts_made_with_another_index_are_told(world: World) -> None:
    world.run(index=rule.IVF_FLAT, partition_rows=400)
    names = [part.name for part in world.queries]
    same = RetrieveConfig(5, rule.IVF_FLAT, partition_rows=400)
    options = retrieve.retrieve_options(same, SCREEN)
    assert len(left_parts(str(world.work), "retrieve", names, options)) == 4
    for other, what in (
        (RetrieveConfig(5, rule.HNSW, partition_rows=400), "index"),
        (replace(same, min_recall=0.9), "min_recall"),
        (replace(same, k=6), "k"),
    ):
        options = retrieve.retrieve_options(other, SCREEN)
        with pytest.raises(UserError, match=f"made with another {what}"):
            left_parts(str(world.work), "retrieve", names, options)


def test_the_rule() -> None:
    def chosen(wanted: str = rule.AUTO, **sizes: Any) -> rule.Choice:
        usual = {"rows": 10**7, "largest": 10**6, "queries": 10**6, "dimension": 512, "memory": 2.0}
        return rule.choose(wanted, **usual | sizes)

    assert chosen(rows=10**5 - 1, queries=10**9).type == rule.EXACT
    assert chosen(rows=10**6, queries=5 * 10**5).type == rule.EXACT
    assert chosen().type == rule.IVF_FLAT
    assert chosen(rule.EXACT) == rule.Choice(rule.EXACT)
    assert (chosen().nlist, chosen().train_rows) == (4096, 64 * 4096)
    assert chosen(rows=10**6, queries=10**7).type == rule.HNSW
    assert chosen(rows=10**6, queries=10**7, memory=1.1).type == rule.IVF_FLAT
    codes = [chosen(memory=memory).code_size for memory in (0.9, 0.3, 0.1, 0.03)]
    assert codes == [256, 256, 64, 8]
    with pytest.raises(UserError, match=r"an index of type ivf-pq takes .* --index_memory 0.001"):
        chosen(memory=0.001)
    with pytest.raises(UserError, match="an index of type hnsw takes"):
        chosen(rule.HNSW, memory=0.5)
    for largest in (256, 300, 5000):
        assert (
            1 <= chosen(rule.IVF_PQ, rows=largest, largest=largest).nlist <= max(1, largest // 39)
        )


@pytest.mark.parametrize("index", [rule.EXACT, rule.IVF_FLAT, rule.HNSW])
def test_a_remote_work_folder_gives_the_same(world: World, index: str) -> None:
    world.run(index=index, partition_rows=400)
    remote = f"memory://retrieval-{index}"
    queries, _ = write_embeddings(remote, FINETUNE, world.query_vectors, 20)
    pool, screened = write_embeddings(remote, POOL, world.pool_vectors, world.per_part, world.kept)
    config = RetrieveConfig(5, index, partition_rows=400)
    run(remote, queries, pool, screened, config)
    for query in queries:
        ours, theirs = (part_place(w, "retrieve", query.number) for w in (str(world.work), remote))
        assert places.read_bytes(ours) == places.read_bytes(theirs)
