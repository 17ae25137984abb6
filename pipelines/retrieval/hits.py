"""Hits: what a search has found, merged, and as a part of the work folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import HITS


class Hits(NamedTuple):
    """Neighbours of N queries, best first: score float32, part and row int32, all [N, K].

    A search that found fewer than K leaves the last ones empty: score -inf, part and row -1.
    """

    score: NDArray[np.float32]
    part: NDArray[np.int32]
    row: NDArray[np.int32]

    def lines(self, which: NDArray[np.integer] | slice) -> Hits:
        """Of some queries only."""
        return Hits(self.score[which], self.part[which], self.row[which])


def blank(queries: int, width: int) -> Hits:
    """Empty ones, to be filled in."""
    shape = (queries, width)
    return Hits(
        np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32), np.full(shape, -1, "i4")
    )


def best(hits: Hits, k: int) -> Hits:
    """The k best, in order: equal scores by part and row."""
    # What is empty sorts last among what scores -inf: its part is -1, the largest unsigned.
    order = np.lexsort((hits.row, hits.part.astype(np.uint32), -hits.score), axis=1)[:, :k]
    return Hits(
        np.take_along_axis(hits.score, order, axis=1),
        np.take_along_axis(hits.part, order, axis=1),
        np.take_along_axis(hits.row, order, axis=1),
    )


def joined(hits: Sequence[Hits], axis: int) -> Hits:
    """One below the other (0: more queries) or beside it (1: more hits)."""
    score, part, row = (np.concatenate(values, axis=axis) for values in zip(*hits, strict=True))
    return Hits(score, part, row)


def merge(first: Hits, second: Hits, k: int) -> Hits:
    """The k best of both, which have no neighbour in common; any order of merging does."""
    return best(joined([first, second], axis=1), k)


def hits_table(hits: Hits) -> pa.Table:
    """Hits as a table, one row per query and neighbour; empty ones are left out."""
    found = (hits.row >= 0).reshape(-1)
    queries, width = hits.score.shape
    query = np.repeat(np.arange(queries, dtype=np.int32), width)
    columns = (query, hits.part.reshape(-1), hits.row.reshape(-1), hits.score.reshape(-1))
    return pa.table(dict(zip(HITS.names, (c[found] for c in columns), strict=True)), schema=HITS)


def hits_of(table: pa.Table, queries: int) -> Hits:
    """The table's hits again, for so many queries."""
    query, part, row, score = (table.column(name).to_numpy() for name in HITS.names)
    counts = np.bincount(query, minlength=queries)
    width = int(counts.max(initial=0))
    hits = blank(queries, width)
    at = (query, np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts))
    hits.score[at], hits.part[at], hits.row[at] = score, part, row
    return hits
