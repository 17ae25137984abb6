"""Stage 5, select: which of the retrieved pairs become anchors.

The union over all queries, each pool pair once, and what it takes more than one pair to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from numpy.typing import NDArray

from pipelines.candidates import CANDIDATE_STAGE, candidate_table
from pipelines.embedding import embed
from pipelines.embedding.metadata import pool_rows
from pipelines.parts import Part, fingerprint, read_table, required_part, write_part
from pipelines.reading import publish
from pipelines.retrieval.options import RetrieveConfig
from pipelines.selection.options import ScreenConfig, SelectConfig
from pipelines.selection.texts import clean_text
from schemas.manifest import Counts
from schemas.record import IMAGE_TEXT_PAIR

STAGE = CANDIDATE_STAGE[IMAGE_TEXT_PAIR]


class Union(NamedTuple):
    """Pool rows that queries retrieved: one entry per (query, row), arrays of equal length."""

    row: NDArray[np.int32]
    score: NDArray[np.float32]
    rank: NDArray[np.int32]
    query_class: list[str]


NOTHING = Union(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.int32), [])


class Select(beam.PTransform):  # type: ignore[misc]
    """``(PCollection[Part] of neighbours, PCollection[Part] of pool) -> PCollection[Part]``.

    The union over all queries, grouped by pool part: each pool sample once, with its best score
    and rank and the classes that asked for it. Every pool part gets a part of candidates, if only
    an empty one.

    Args:
        work: the work folder.
        config: what is kept.
        options: those that shape a part, of this stage and of those before.
    """

    def __init__(self, *, work: str, config: SelectConfig, options: dict[str, Any]) -> None:
        super().__init__()
        self._work = work
        self._config = config
        self._options = options

    def expand(
        self, inputs: tuple[beam.PCollection[Part], beam.PCollection[Part]]
    ) -> beam.PCollection[Part]:
        """See the class."""
        neighbours, pool = inputs
        found = neighbours | "ByPoolPart" >> beam.FlatMap(by_pool_part, self._work)
        every = pool | "EveryPart" >> beam.Map(lambda part: (part.number, NOTHING))
        return (
            (found, every)
            | beam.Flatten()
            | beam.GroupByKey()
            | "Union" >> beam.Map(pair_candidates, self._work, self._config, self._options)
        )


def select_options(
    retrieval: RetrieveConfig, screen: ScreenConfig, config: SelectConfig
) -> dict[str, Any]:
    """The options that shape a part."""
    return retrieval.recorded() | screen.recorded() | config.recorded()


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


def pair_candidates(
    group: tuple[int, Iterable[Union]], work: str, config: SelectConfig, options: dict[str, Any]
) -> Part:
    """Join the union with the pool's metadata.

    Dropped and counted are those that no query finds with ``min_score`` (``low_score``).
    """
    number, unions = group
    best: dict[int, dict[str, Any]] = {}
    low: set[int] = set()
    for union in unions:
        for row, score, rank, query_class in zip(*union, strict=True):
            if score < config.min_score:
                low.add(int(row))
                continue
            entry = best.setdefault(
                int(row), {"score": -2.0, "rank": int(rank), "query_count": 0, "classes": set()}
            )
            entry["score"] = max(entry["score"], float(score))
            entry["rank"] = min(entry["rank"], int(rank))
            entry["query_count"] += 1
            entry["classes"].add(query_class)
    pool = required_part(work, embed.POOL, number)
    rows: list[dict[str, Any]] = []
    for values in pool_rows(work, pool, sorted(best)).to_pylist():
        entry = best[values.pop("row")]
        rows.append(
            values
            | {
                "texts": [clean_text(values["caption"])],
                # Six decimals: what two machines' float32 sums agree on.
                "score": round(entry["score"], 6),
                "rank": entry["rank"],
                "query_count": entry["query_count"],
                "query_classes": sorted(c for c in entry["classes"] if c is not None),
            }
        )
    dropped = {"low_score": len(low - best.keys())}
    counts = Counts(
        read=len(rows) + dropped["low_score"],
        kept=len(rows),
        dropped={reason: n for reason, n in dropped.items() if n},
    )
    publish(STAGE, counts)
    table = candidate_table(rows)
    # Of the candidates themselves: another retrieval that finds the same ones changes nothing.
    content = fingerprint(STAGE, pool.fingerprint, table.to_pylist())
    made = Part(
        STAGE,
        number,
        pool.name,
        len(rows),
        content,
        pool.input_fingerprint,
        counts,
        extra={"options": options},
    )
    return write_part(work, made, table)
