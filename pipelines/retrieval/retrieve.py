"""Stage 4, retrieve: the k nearest pool images of every finetune image, exactly.

Each part of the pool is searched apart, with the finetune parts as queries, and the lists are
merged per query. Only (score, part, row) blocks cross the shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.embedding.vectors import read_array
from pipelines.parts import Part, fingerprint, finished, read_table, write_part
from pipelines.reading import publish
from pipelines.retrieval.options import RetrieveConfig
from pipelines.retrieval.search import nearest
from pipelines.selection.options import ScreenConfig
from pipelines.selection.screen import kept_rows
from schemas.errors import UserError
from schemas.manifest import Counts
from schemas.tables import NEIGHBOURS

STAGE = "retrieve"
INDEX = {"type": "exact", "metric": "cosine", "storage": "float16"}


class Hits(NamedTuple):
    """Neighbours of a block of N queries, best first: score float32, part and row int32, [N, K]."""

    score: NDArray[np.float32]
    part: NDArray[np.int32]
    row: NDArray[np.int32]


class Retrieve(beam.PTransform):  # type: ignore[misc]
    """``(queries, pool, screened) -> PCollection[Part]``: one parquet of neighbours per query part.

    The inputs are singletons: lists of embed parts, and of the pool's screen parts.

    Args:
        work: the work folder.
        config: how to search.
        screen: what was left out before the search.
        force: redo parts that are finished.
    """

    def __init__(
        self, *, work: str, config: RetrieveConfig, screen: ScreenConfig, force: bool
    ) -> None:
        super().__init__()
        self._work = work
        self._k = config.k
        self._options = retrieve_options(config, screen)
        self._force = force

    def expand(
        self,
        lists: tuple[
            beam.PCollection[list[Part]],
            beam.PCollection[list[Part]],
            beam.PCollection[list[Part]],
        ],
    ) -> beam.PCollection[Part]:
        """See the class."""
        queries, pool, screened = lists
        todo = pool | "Plan" >> beam.Map(
            plan,
            beam.pvalue.AsSingleton(queries),
            beam.pvalue.AsSingleton(screened),
            self._work,
            self._k,
            self._options,
            self._force,
        )
        found = (
            todo
            | "PoolParts" >> beam.FlatMap(lambda plan: plan.pool if plan.queries else [])
            | beam.Reshuffle()
            | "Search" >> beam.FlatMap(search_part, beam.pvalue.AsSingleton(todo), self._work)
            | "Merge" >> beam.CombinePerKey(MergeHits(self._k))
            | "Write" >> beam.Map(write_hits, beam.pvalue.AsSingleton(todo), self._work)
        )
        done = todo | "Done" >> beam.FlatMap(lambda plan: plan.finished)
        return (found, done) | beam.Flatten() | "Count" >> beam.Map(_published)


def retrieve_options(config: RetrieveConfig, screen: ScreenConfig) -> dict[str, Any]:
    """The options that shape a part."""
    return config.recorded() | screen.recorded()


class Plan(NamedTuple):
    """What is to be searched, and what an earlier run has left."""

    pool: list[Part]
    queries: list[Part]
    finished: list[Part]
    wanted: dict[int, str]
    k: int
    options: dict[str, Any]


def plan(
    pool: list[Part],
    queries: list[Part],
    screened: list[Part],
    work: str,
    k: int,
    options: dict[str, Any],
    force: bool,
) -> Plan:
    """Check that the search makes sense, and leave out the query parts that are done.

    Raises:
        UserError: k exceeds the pool, the dimensions differ, or the encoders do.
    """
    rows = sum(part.rows for part in screened)
    if k > rows:
        raise UserError(
            f"--k {k} is larger than the pool, which has {rows} usable pairs; give a smaller "
            f"--k or a larger --pool."
        )
    if not any(part.rows for part in queries):
        raise UserError("no finetune image could be embedded, so there is nothing to retrieve for.")
    embedded = [part for part in pool + queries if part.rows]
    for what, values in (
        ("dimensions", {part.extra["dimension"] for part in embedded}),
        ("encoders", {part.model["weights_sha256"] for part in embedded if part.model}),
    ):
        if len(values) > 1:
            raise UserError(
                f"the embeddings of finetune set and pool are of different {what}; run the embed "
                f"stage again for both with one --encoder."
            )
    made_of = [
        [part.extra["npy_sha256"], kept.extra["rows"]]
        for part, kept in zip(pool, screened, strict=True)
    ]
    wanted = {
        q.number: fingerprint(STAGE, q.fingerprint, q.extra["npy_sha256"], made_of, k, INDEX)
        for q in queries
    }
    done = [
        part
        for q in queries
        if not force and (part := finished(work, STAGE, q.number, wanted[q.number]))
    ]
    nothing = Hits(
        np.zeros((0, k), np.float32), np.zeros((0, k), np.int32), np.zeros((0, k), np.int32)
    )
    for q in queries:  # nothing to search for, but a later stage looks for the part
        if not q.rows and q.number not in {part.number for part in done}:
            done.append(_write(work, q, nothing, wanted[q.number], options))
    numbers = {part.number for part in done}
    todo = [q for q in queries if q.number not in numbers and q.rows]
    searched = [part for part, kept in zip(pool, screened, strict=True) if kept.rows]
    return Plan(searched, todo, done, wanted, k, options)


def search_part(part: Part, todo: Plan, work: str) -> Iterator[tuple[int, Hits]]:
    """Search one pool part for every query part; yields a block of hits per query part."""
    rows = kept_rows(work, part.number)
    vectors = read_array(work, part)[rows]
    for query in todo.queries:
        score, row = nearest(read_array(work, query), vectors, todo.k)
        yield query.number, Hits(score, np.full_like(row, part.number), rows[row])


class MergeHits(beam.CombineFn):  # type: ignore[misc]
    """Keep the k best of several blocks for the same queries.

    Equal scores are ordered by part and row, so the result does not depend on the order in
    which a runner merges.
    """

    def __init__(self, k: int) -> None:
        self._k = k

    def create_accumulator(self) -> Hits | None:
        """Nothing yet."""
        return None

    def add_input(self, accumulator: Hits | None, block: Hits) -> Hits:
        """One more block."""
        return self.merge_accumulators([accumulator, block])

    def merge_accumulators(self, accumulators: Iterable[Hits | None]) -> Hits:
        """The k best of all blocks."""
        blocks = [Hits(*block) for block in accumulators if block is not None]
        score, part, row = (np.concatenate(values, axis=1) for values in zip(*blocks, strict=True))
        order = np.lexsort((row, part, -score), axis=1)[:, : self._k]
        return Hits(*(np.take_along_axis(values, order, axis=1) for values in (score, part, row)))

    def extract_output(self, accumulator: Hits | None) -> Hits:
        """The merged block."""
        assert accumulator is not None
        return accumulator


def write_hits(hits: tuple[int, Hits], todo: Plan, work: str) -> Part:
    """Write the neighbours of one query part."""
    number, block = hits
    query = next(part for part in todo.queries if part.number == number)
    return _write(work, query, Hits(*block), todo.wanted[number], todo.options)


def _write(work: str, query: Part, hits: Hits, wanted: str, options: dict[str, Any]) -> Part:
    score, part, row = hits
    classes = read_table(work, query).column("class_name").combine_chunks()
    n, k = score.shape
    table = pa.table(
        {
            "query": np.repeat(np.arange(n, dtype=np.int32), k),
            "query_class": classes.take(pa.array(np.repeat(np.arange(n), k))),
            "pool_part": part.reshape(-1),
            "pool_row": row.reshape(-1),
            "score": score.reshape(-1),
            "rank": np.tile(np.arange(k, dtype=np.int32), n),
        },
        schema=NEIGHBOURS,
    )
    counts = Counts(read=n, kept=n)
    model = query.model
    extra: dict[str, Any] = {"options": options}
    made = Part(STAGE, query.number, query.name, n, wanted, "", counts, model, [], extra)
    return write_part(work, made, table)


def _published(part: Part) -> Part:
    publish(STAGE, part.counts)
    return part
