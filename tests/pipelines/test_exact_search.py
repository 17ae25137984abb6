"""The laws of exact search: by blocks is at once, and float64 decides."""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.vectors import clustered
from pipelines.retrieval.hits import Hits, blank, hits_of, hits_table, merge
from pipelines.retrieval.search import Block, nearest


def unit_rows(number: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """Rows as the embed stage stores them: of unit length, then rounded to float16."""
    rows = np.random.default_rng(seed).standard_normal((number, dimension))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16).astype(np.float32)


def brute_force(
    queries: NDArray[np.float32], pool: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    scores = (queries.astype(np.float64) @ pool.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def cut(pool: NDArray[np.float32], starts: list[int]) -> Iterator[Block]:
    """Blocks that start at given rows; the part is the block's number, the row that in the pool."""
    for part, (start, stop) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True)):
        rows = np.arange(start, stop, dtype=np.int32)
        yield Block(np.full(len(rows), part, np.int32), rows, pool[start:stop])


@st.composite
def searches(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    dimension = draw(st.sampled_from([1, 3, 16, 65]))
    seed = draw(st.integers(0, 10**6))
    pool = unit_rows(draw(st.integers(1, 40)), dimension, seed)
    # Many equal rows: ties are the rule in a pool that was scraped.
    pool = pool[np.random.default_rng(seed).integers(0, len(pool), draw(st.integers(1, 400)))]
    queries = unit_rows(draw(st.integers(1, 30)), dimension, seed + 1)
    if draw(st.booleans()):
        queries = np.concatenate([queries, pool[:2]])
    return queries, pool, draw(st.integers(1, 50))


@settings(deadline=None, max_examples=150)
@given(searches(), st.data())
def test_by_blocks_is_what_brute_force_finds_at_once(
    search: tuple[NDArray[np.float32], NDArray[np.float32], int], data: st.DataObject
) -> None:
    queries, pool, k = search
    starts = sorted({0, *data.draw(st.sets(st.integers(0, len(pool) - 1), max_size=6))})
    found = nearest(queries, cut(pool, starts), k)
    scores, rows = brute_force(queries, pool, k)
    assert np.array_equal(found.score, scores)
    assert np.array_equal(found.row, rows)
    assert np.array_equal(found.part, np.searchsorted(starts, rows, side="right") - 1)


@settings(deadline=None, max_examples=60)
@given(searches(), st.data())
def test_hits_merge_in_any_order_also_through_their_tables(
    search: tuple[NDArray[np.float32], NDArray[np.float32], int], data: st.DataObject
) -> None:
    queries, pool, k = search
    starts = sorted({0, *data.draw(st.sets(st.integers(0, len(pool) - 1), max_size=6))})
    hits = [nearest(queries, [block], k) for block in cut(pool, starts)]
    merged = blank(len(queries), 0)
    for one in data.draw(st.permutations(hits)):
        merged = merge(merged, hits_of(hits_table(one), len(queries)), k)
    assert all(map(np.array_equal, merged, nearest(queries, cut(pool, starts), k)))


def test_empty_hits_are_last_and_leave_the_table() -> None:
    one = Hits(
        np.array([[0.5, -np.inf], [-np.inf, -np.inf]], np.float32),
        np.array([[0, -1], [-1, -1]], np.int32),
        np.array([[7, -1], [-1, -1]], np.int32),
    )
    other = Hits(np.full((2, 1), -0.25, "f4"), np.full((2, 1), 3, "i4"), np.full((2, 1), 9, "i4"))
    merged = merge(one, other, 2)
    assert merged.row.tolist() == [[7, 9], [9, -1]]
    assert merged.score.tolist() == [[0.5, -0.25], [-0.25, -np.inf]]
    assert hits_table(merged)["query"].to_pylist() == [0, 0, 1]
    assert all(map(np.array_equal, hits_of(hits_table(merged), 2), merged))


@pytest.mark.parametrize("k", [1, 10, 100])
def test_one_big_flat_index_finds_the_same_but_for_what_float32_confuses(k: int) -> None:
    pool, queries = clustered(20_000, 64, seed=0), clustered(500, 64, seed=1)
    pool = np.concatenate([pool, pool[:3000]])  # copies: ties in plenty
    index = faiss.IndexFlatIP(64)
    index.add(pool)
    theirs, rows = index.search(queries, k)
    ours = nearest(queries, cut(pool, list(range(0, len(pool), 7001))), k)
    error = 64 * 2.0**-24 * 1.01 + 2.0**-22
    assert np.abs(ours.score - theirs).max() <= error
    exact = np.einsum("nd,nkd->nk", queries.astype("f8"), pool[rows].astype("f8"))
    differ = ours.row != rows
    assert (np.abs(exact - ours.score)[differ] <= 2 * error).all()
    assert differ.mean() < 0.5
    # Where the scores stand apart by more than the error, nothing may differ.
    apart = np.full(ours.score.shape, True)
    gap = -np.diff(ours.score, axis=1) > 2 * error
    apart[:, 1:] &= gap
    apart[:, :-1] &= gap
    apart[:, -1] = False  # what comes next is not known
    assert apart.sum() > 100 or k == 1
    assert not (differ & apart).any()


def test_no_queries_and_no_pool_find_nothing() -> None:
    pool = unit_rows(5, 8, 0)
    assert nearest(np.zeros((0, 8), np.float32), cut(pool, [0]), 3).score.shape[0] == 0
    assert nearest(pool, [], 3).score.shape == (5, 0)
    assert nearest(pool, cut(pool, [0]), 9).row.shape == (5, 5)
