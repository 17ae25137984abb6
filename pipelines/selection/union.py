"""The union over all queries: each retrieved pool row once, with what its queries say of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.parts import Part, read_table


class Union(NamedTuple):
    """Pool rows that queries retrieved: one entry per (query, row), arrays of equal length."""

    row: NDArray[np.int32]
    score: NDArray[np.float32]
    rank: NDArray[np.int32]
    query_class: list[str | None]


NOTHING = Union(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.int32), [])


@dataclass(frozen=True)
class Retrieved:
    """One pool row.

    Attributes:
        row: in its pool part.
        score: best cosine similarity to a query.
        rank: best rank among a query's neighbours.
        query_count: how many queries retrieved it.
        class_scores: best score by class of those queries, sorted by class.
    """

    row: int
    score: float
    rank: int
    query_count: int
    class_scores: tuple[tuple[str, float], ...]


def by_pool_part(part: Part, work: str) -> Iterator[tuple[int, Union]]:
    """Split a table of neighbours by the pool part that they lie in."""
    table = read_table(work, part)
    pool_part, row, score, rank = (
        table.column(name).to_numpy() for name in ("pool_part", "pool_row", "score", "rank")
    )
    classes = np.asarray(table.column("query_class").to_pylist(), dtype=object)
    for number in np.unique(pool_part):
        mine = pool_part == number
        yield int(number), Union(row[mine], score[mine], rank[mine], list(classes[mine]))


def united(unions: Iterable[Union], min_score: float) -> tuple[list[Retrieved], list[Retrieved]]:
    """The rows of one pool part that are kept, and those below ``min_score``; by row.

    A query that finds a row with less than ``min_score`` does not count as one that asked for it;
    a row that all queries find so is among the second.
    """
    blocks = [_table(union) for union in unions]
    table = pa.concat_tables(blocks) if blocks else _table(NOTHING)
    good = np.asarray(table.column("score").to_numpy() >= np.float32(min_score))
    kept = _grouped(table.filter(pa.array(good)))
    low = _grouped(table.filter(pa.array(~good)))
    rows = {found.row for found in kept}
    return kept, [found for found in low if found.row not in rows]


def _table(union: Union) -> pa.Table:
    row, score, rank = (np.asarray(values) for values in union[:3])
    classes = pa.array(union.query_class, pa.string())
    return pa.table({"row": row, "score": score, "rank": rank, "class": classes})


def _grouped(table: pa.Table) -> list[Retrieved]:
    """One entry per row, ascending; the grouping by row and class is Arrow's."""
    grouped = table.group_by(["row", "class"], use_threads=False).aggregate(
        [("score", "max"), ("rank", "min"), ("score", "count")]
    )
    columns = ("row", "class", "score_max", "rank_min", "score_count")
    found: dict[int, list[tuple[str | None, float, int, int]]] = {}
    for row, *rest in zip(*(grouped.column(name).to_pylist() for name in columns), strict=True):
        found.setdefault(row, []).append(tuple(rest))
    return [
        Retrieved(
            row=row,
            # Six decimals: what two machines' float32 sums agree on.
            score=round(max(score for _, score, _, _ in entries), 6),
            rank=min(rank for _, _, rank, _ in entries),
            query_count=sum(count for _, _, _, count in entries),
            class_scores=tuple(
                sorted((name, round(score, 6)) for name, score, _, _ in entries if name is not None)
            ),
        )
        for row, entries in sorted(found.items())
    ]
