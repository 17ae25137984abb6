"""Exact nearest neighbours by blocks: faiss proposes in float32, float64 decides.

Embeddings are float16, whose values are multiples of 2^-24, and of unit length. A product of two
is a multiple of 2^-48 and a sum of them stays near 1, so float64 holds every partial sum without
rounding. Scores are therefore the same whatever the order of summation: on any machine, with any
number of threads, however the pool is cut. Rank and ties follow from them: equal scores are
ordered by part and row.

Memory holds the queries, one block of the pool and what was found, however large the pool is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from pipelines.retrieval.hits import Hits, blank, merge

BLOCK_BYTES = 128 << 20
"""Float32 bytes of the pool that are searched at once: large enough for faiss's best speed."""
BLOCK_ROWS = 1 << 16
"""More rows than this at once, of vectors that are short, make the search no faster."""

_SLACK = 8  # more candidates than asked for, so that few queries are searched twice
_DEEPER = 8  # how many times more the second time
_PAIRS = 512  # pairs scored in float64 at once: what a cache holds
_GPU_MOST = 2048  # faiss finds no more neighbours than this on a GPU


class Block(NamedTuple):
    """Rows of the pool: where each is, int32 [M], and its vector, float32 [M, D]."""

    part: NDArray[np.int32]
    row: NDArray[np.int32]
    vectors: NDArray[np.float32]


def nearest(queries: NDArray[np.float32], pool: Iterable[Block], k: int) -> Hits:
    """The ``k`` rows of the pool with the largest inner products, best first.

    Args:
        queries: [N, D], float16 values of unit length.
        pool: blocks of rows, likewise; none twice. A block is done with when the next is asked for.
        k: fewer are returned where the pool has fewer.

    Returns:
        Scores are exact, rounded once to float32.
    """
    best = blank(len(queries), 0)
    for block in pool:
        if len(queries) and len(block.row):
            best = _with_block(best, queries, block, k)
    return best


def _with_block(best: Hits, queries: NDArray[np.float32], block: Block, k: int) -> Hits:
    """The k best of what was found and of one more block."""
    # A float32 sum of D products of unit vectors is off by less than D / 2^24, in any order of
    # summation; the rest is for scores that only rounding makes equal.
    error = np.float32(queries.shape[1] * 2.0**-24 * 1.01 + 2.0**-22)
    merged = best
    unsure = np.arange(len(queries))
    depth = k + _SLACK
    while len(unsure):
        depth = min(depth, len(block.row))
        proposed, found = _propose(queries[unsure], block.vectors, depth)
        bar = _kth(best.lines(unsure), k) - error
        if depth > k:  # k of the block are as good as this, so what is worse need not be scored
            bar = np.maximum(bar, proposed[:, k - 1] - 2 * error)
        hits = _score(queries[unsure], block, found, proposed >= bar[:, None])
        again = merge(best.lines(unsure), hits, k)
        merged = again if len(unsure) == len(queries) else _replaced(merged, unsure, again)
        if depth == len(block.row):
            break
        # What was not proposed scores at most the last proposal; could that be among the best?
        unsure = unsure[proposed[:, -1] + error >= _kth(again, k)]
        depth *= _DEEPER
    return merged


def _propose(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], number: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Float32 scores and rows of the best, best first; on the GPU, where faiss finds one."""
    if faiss.get_num_gpus() and number <= _GPU_MOST:
        scores, rows = faiss.knn_gpu(
            _gpu(), queries, vectors, number, metric=faiss.METRIC_INNER_PRODUCT
        )
    else:
        scores, rows = faiss.knn(queries, vectors, number, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, rows


@functools.cache
def _gpu() -> Any:
    return faiss.StandardGpuResources()


def _score(
    queries: NDArray[np.float32],
    block: Block,
    found: NDArray[np.int64],
    chosen: NDArray[np.bool_],
) -> Hits:
    """The chosen proposals with their exact scores; the others are empty."""
    query, place = np.nonzero(chosen)
    rows = found[query, place]
    scores = pair_scores(queries, query, block.vectors, rows)
    hits = blank(*found.shape)
    hits.score[chosen], hits.part[chosen], hits.row[chosen] = (
        scores,
        block.part[rows],
        block.row[rows],
    )
    return hits


def pair_scores(
    queries: NDArray[np.float32],
    query: NDArray[np.int64],
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Exact inner products of pairs (query, row), rounded once to float32."""
    scores = np.empty(len(query), np.float32)
    for start in range(0, len(query), _PAIRS):
        pairs = slice(start, start + _PAIRS)
        scores[pairs] = np.einsum(
            "pd,pd->p",
            queries[query[pairs]].astype(np.float64),
            vectors[rows[pairs]].astype(np.float64),
        )
    return scores


def _kth(hits: Hits, k: int) -> NDArray[np.float32]:
    """Each query's k-th best score; -inf where there are fewer."""
    if hits.score.shape[1] < k:
        return np.full(len(hits.score), -np.inf, np.float32)
    return hits.score[:, k - 1]


def _replaced(hits: Hits, lines: NDArray[np.int64], new: Hits) -> Hits:
    """Hits with some lines replaced; both are as wide as each other."""
    for values, others in zip(hits, new, strict=True):
        values[lines] = others
    return hits
