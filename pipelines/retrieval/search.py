"""Exact nearest neighbours: faiss proposes in float32, float64 decides.

Embeddings are float16, whose values are multiples of 2^-24, and of unit length. A product of two
is a multiple of 2^-48 and a sum of them stays near 1, so float64 holds every partial sum without
rounding. Scores are therefore the same whatever the order of summation: on any machine, with any
number of threads, however the pool is cut. Rank and ties follow from them: equal scores are
ordered by row.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

_SLACK = 32  # more candidates than asked for, so that few queries need the slow path
_BLOCK = 128  # queries scored at once


def nearest(
    queries: NDArray[np.float32], pool: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The ``k`` rows of the pool with the largest inner products, best first.

    Args:
        queries: [N, D], float16 values of unit length.
        pool: [M, D], likewise.
        k: at most M are returned.

    Returns:
        Scores and rows, both [N, min(k, M)]; scores are exact, rounded once to float32.
    """
    k = min(k, len(pool))
    found = [
        _block(queries[start : start + _BLOCK], pool, k) for start in range(0, len(queries), _BLOCK)
    ]
    if not found:
        return np.zeros((0, k), np.float32), np.zeros((0, k), np.int32)
    scores, rows = (np.concatenate(values) for values in zip(*found, strict=True))
    return scores, rows


def _block(
    queries: NDArray[np.float32], pool: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    number = min(len(pool), k + _SLACK)
    proposed, found = faiss.knn(queries, pool, number, metric=faiss.METRIC_INNER_PRODUCT)
    candidates: NDArray[np.int32] = np.sort(found, axis=1).astype(np.int32)
    exact = np.einsum("nd,nmd->nm", queries.astype(np.float64), pool[candidates].astype(np.float64))
    scores, rows = _best(exact.astype(np.float32), candidates, k)
    if number == len(pool):
        return scores, rows
    # What was not proposed scores at most this; where that could reach the k best, look at all.
    error = pool.shape[1] * 2.0**-23
    unsure = np.flatnonzero(proposed.min(axis=1) + error >= scores[:, -1])
    if len(unsure):
        everything = queries[unsure].astype(np.float64) @ pool.T.astype(np.float64)
        every = np.broadcast_to(np.arange(len(pool), dtype=np.int32), everything.shape)
        scores[unsure], rows[unsure] = _best(everything.astype(np.float32), every, k)
    return scores, rows


def _best(
    scores: NDArray[np.float32], rows: NDArray[np.int32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The k best of each line; rows ascend, and a stable sort keeps them so among equals."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
