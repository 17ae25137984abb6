"""The pool in partitions, the queries in groups: what one task of the search holds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.embedding.vectors import Vectors
from pipelines.parts import Part, fingerprint
from pipelines.retrieval.hits import Hits, best, blank, joined
from pipelines.retrieval.search import BLOCK_BYTES, BLOCK_ROWS, Block, pair_scores
from pipelines.selection.screen import kept_rows

_OPEN = 64  # files that are held open at once
_PAIRS = 1 << 16  # pairs whose vectors are in memory at once


@dataclass(frozen=True)
class Group:
    """Consecutive parts that one task holds: a partition of the pool, or a group of queries.

    Attributes:
        number: of the group.
        parts: embed parts.
        rows: those of them that are searched, or searched for, in all.
        fingerprint: of which vectors these are.
    """

    number: int
    parts: list[Part] = field(repr=False)
    rows: int
    fingerprint: str


def grouped(parts: Sequence[Part], screened: Sequence[Part] | None, most: int) -> list[Group]:
    """Cut parts, in their order, into groups of up to ``most`` rows; none is cut in two.

    A part with more rows than that is a group of its own; parts without any are left out.

    Args:
        parts: embed parts.
        screened: their screen parts, where some rows are left out.
        most: rows in a group.
    """
    groups: list[Group] = []
    held: list[tuple[Part, Part]] = []

    def close() -> None:
        if held:
            rows = sum(kept.rows for _, kept in held)
            made_of = [vectors_fingerprint(part, kept) for part, kept in held]
            members = [part for part, _ in held]
            groups.append(Group(len(groups), members, rows, fingerprint(made_of)))
            held.clear()

    for part, kept in zip(parts, screened or parts, strict=True):
        if held and sum(other.rows for _, other in held) + kept.rows > most:
            close()
        if kept.rows:
            held.append((part, kept))
    close()
    return groups


def vectors_fingerprint(part: Part, kept: Part) -> list[str | None]:
    """What a part's searched vectors follow from; ``kept`` may be the part itself: all rows."""
    return [part.extra["npy_sha256"], kept.extra.get("rows")]


class Partition:
    """The searched rows of some pool parts, numbered from 0 in their order.

    Args:
        work: the work folder.
        parts: of the pool.
    """

    def __init__(self, work: str, parts: Sequence[Part]) -> None:
        self._work = work
        self._parts = list(parts)
        self._kept = [kept_rows(work, part.number) for part in parts]
        self._starts = np.cumsum([0, *map(len, self._kept)])
        self._open = functools.lru_cache(_OPEN)(lambda at: Vectors(work, self._parts[at]))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def blocks(self, size: int | None = None) -> Iterator[Block]:
        """All rows, ``size`` at a time (default: as many as BLOCK_BYTES hold).

        The blocks share one buffer: each is overwritten by the next.
        """
        if not len(self):
            return
        dimension = self._open(int(np.flatnonzero(np.diff(self._starts))[0])).dimension
        size = min(size or block_rows(dimension), len(self))
        block = Block(
            np.empty(size, np.int32), np.empty(size, np.int32), np.empty((size, dimension), "f4")
        )
        filled = 0
        for at, kept in enumerate(self._kept):
            start = 0
            while start < len(kept):
                rows = kept[start : start + size - filled]
                room = slice(filled, filled + len(rows))
                block.part[room] = self._parts[at].number
                block.row[room] = rows
                self._open(at).take(rows, out=block.vectors[room])
                start, filled = start + len(rows), room.stop
                if filled == size:
                    yield block
                    filled = 0
        if filled:
            yield Block(block.part[:filled], block.row[:filled], block.vectors[:filled])

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of some rows by their numbers here, which ascend."""
        return np.concatenate([vectors for _, _, vectors in self._runs(ids)])

    def score(self, queries: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> Hits:
        """The k best of each query's candidates, by exact scores.

        Args:
            queries: [N, D].
            ids: [N, C], numbers of rows here, none twice in a line; -1 is none.
            k: fewer are returned where there are fewer candidates.
        """
        step = max(1, _PAIRS // max(1, ids.shape[1]))
        found = [
            self._score(queries[start : start + step], ids[start : start + step], k)
            for start in range(0, len(ids), step)
        ]
        return joined(found, axis=0)

    def _score(self, queries: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> Hits:
        hits = blank(*ids.shape)
        query, column = np.nonzero(ids >= 0)
        wanted = ids[query, column]
        every = np.unique(wanted)
        for at, chosen, vectors in self._runs(every):
            first, last = every[chosen.start], every[chosen.stop - 1]
            mine = np.flatnonzero((wanted >= first) & (wanted <= last))
            rows = np.searchsorted(every[chosen], wanted[mine])
            place = (query[mine], column[mine])
            hits.score[place] = pair_scores(queries, query[mine], vectors, rows)
            hits.part[place] = self._parts[at].number
            hits.row[place] = self._kept[at][wanted[mine] - self._starts[at]]
        return best(hits, k)

    def _runs(self, ids: NDArray[np.int64]) -> Iterator[tuple[int, slice, NDArray[np.float32]]]:
        """Ascending numbers, by the part that they lie in: which part, which of them, vectors."""
        edges = np.searchsorted(ids, self._starts)
        for at, (start, stop) in enumerate(itertools.pairwise(edges)):
            if stop > start:
                rows = self._kept[at][ids[start:stop] - self._starts[at]]
                yield at, slice(int(start), int(stop)), self._open(at).take(rows)


def block_rows(dimension: int) -> int:
    """Rows of a block."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // (4 * max(1, dimension))))
