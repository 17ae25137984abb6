"""Stage 4, retrieve: the k nearest pool images of every finetune image.

The pool is cut into partitions and the queries into groups; a task searches one partition for one
group, exactly (pipelines.retrieval.search) or with an index (.index, chosen by .rule, built and
tuned by .tuning), and leaves its hits as a part. Then the hits of a group are merged. A search
that was killed repeats only the tasks that were in flight. Only numbers of tasks cross the shuffle.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.embedding.vectors import Vectors
from pipelines.parts import Part, fingerprint, finished, read_table, required_part, write_part
from pipelines.reading import publish
from pipelines.retrieval import tuning
from pipelines.retrieval.given import Translation
from pipelines.retrieval.hits import Hits, blank, hits_of, hits_table, merge
from pipelines.retrieval.index import opened
from pipelines.retrieval.options import RetrieveConfig
from pipelines.retrieval.partitions import Group, Partition
from pipelines.retrieval.plan import HITS_STAGE, STAGE, Plan, make_plan
from pipelines.retrieval.rule import GIVEN
from pipelines.retrieval.search import nearest
from pipelines.retrieval.tuning import Tuned
from pipelines.selection.options import ScreenConfig
from pipelines.watching.timing import timed
from schemas.manifest import Counts
from schemas.tables import NEIGHBOURS

__all__ = ["STAGE", "Retrieve", "index_info", "retrieve_options"]


class Retrieve(beam.PTransform):  # type: ignore[misc]
    """``(queries, pool, screened) -> PCollection[Part]``: one parquet of neighbours per query part.

    The inputs are singletons: lists of embed parts, and of the pool's screen parts.

    Args:
        work: the work folder.
        config: how to search.
        screen: what was left out before the search.
        force: redo parts that are finished.
        threads: of faiss in a process; 0 leaves it to faiss.
    """

    def __init__(
        self,
        *,
        work: str,
        config: RetrieveConfig,
        screen: ScreenConfig,
        force: bool,
        threads: int = 0,
    ) -> None:
        super().__init__()
        self._work = work
        self._config = config
        self._options = retrieve_options(config, screen)
        self._force = force
        self._threads = threads

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
        planned = pool | "Plan" >> beam.Map(
            make_plan,
            beam.pvalue.AsSingleton(queries),
            beam.pvalue.AsSingleton(screened),
            work=self._work,
            config=self._config,
            options=self._options,
            force=self._force,
        )
        plan = beam.pvalue.AsSingleton(planned)
        trained = planned | "Train" >> self._map(tuning.train_index)
        prepared = (
            planned
            | "Partitions" >> beam.FlatMap(_partitions)
            | "SpreadPartitions" >> beam.Reshuffle()
            | "Prepare"
            >> self._map(tuning.prepare_partition, plan, beam.pvalue.AsSingleton(trained))
        )
        tuned = planned | "Tune" >> self._map(tuning.tune, beam.pvalue.AsList(prepared))
        how = beam.pvalue.AsSingleton(tuned)
        found = (
            planned
            | "Tasks" >> beam.FlatMap(lambda plan: plan.tasks)
            | "SpreadTasks" >> beam.Reshuffle()
            | "Search" >> self._map(search, plan, how)
            | "ByGroup" >> beam.GroupByKey()
            | "Merge" >> beam.FlatMap(merge_group, plan, self._work)
        )
        done = planned | "Done" >> beam.FlatMap(without_search, how, self._work)
        return (found, done) | beam.Flatten() | "Count" >> beam.Map(_published)

    def _map(self, function: Callable[..., Any], *inputs: Any) -> beam.PTransform:
        return beam.Map(_with_threads, function, self._threads, *inputs, self._work)


def retrieve_options(config: RetrieveConfig, screen: ScreenConfig) -> dict[str, Any]:
    """The options that shape a part."""
    return config.recorded() | screen.recorded()


def index_info(work: str, k: int) -> dict[str, Any]:
    """What was searched and how, for the manifest: measured recall included.

    Raises:
        UserError: the retrieve stage did not run.
    """
    info: dict[str, Any] = required_part(work, tuning.TUNED, 0).extra["index"]
    return info | {"k": k}


def _with_threads(element: Any, function: Callable[..., Any], threads: int, *inputs: Any) -> Any:
    """Call a function after its process was told how many threads faiss may use."""
    if threads:
        faiss.omp_set_num_threads(threads)
    return function(element, *inputs)


def _partitions(plan: Plan) -> list[int]:
    """Those to prepare: none for an exact search, nor where all is done."""
    return [p.number for p in plan.partitions] if plan.choice.approximate and plan.todo else []


def search(task: tuple[int, int], plan: Plan, tuned: Tuned, work: str) -> tuple[int, int]:
    """Search one partition for one group, unless that is done; returns group and task."""
    partition, group = plan.searched[task[0]], plan.groups[task[1]]
    number = task[0] * len(plan.groups) + task[1]
    how = tuned.fingerprint if plan.choice.approximate else None
    wanted = fingerprint(HITS_STAGE, partition.fingerprint, group.fingerprint, plan.config.k, how)
    if plan.force or not finished(work, HITS_STAGE, number, wanted):

        def make() -> Part:
            hits = _search(partition, group_queries(group, work), plan, tuned, work)
            counts = Counts(read=group.rows, kept=group.rows)
            name = f"{partition.number}-{group.number}"
            part = Part(HITS_STAGE, number, name, group.rows, wanted, counts=counts)
            return write_part(work, part, hits_table(hits))

        timed(work, make)
    return group.number, number


def group_queries(group: Group, work: str) -> NDArray[np.float32]:
    """The queries of a group, [N, D]."""
    return np.concatenate([Vectors(work, part).take(slice(None)) for part in group.parts])


def _search(
    group: Group, queries: NDArray[np.float32], plan: Plan, tuned: Tuned, work: str
) -> Hits:
    partition, k = Partition(work, group.parts), plan.config.k
    if tuned.effort is None:
        return nearest(queries, partition.blocks(), k)
    if plan.choice.type == GIVEN:
        assert plan.config.pool_index is not None
        place, translate = plan.config.pool_index, Translation(work, plan.pool)
    else:
        place, translate = tuning.checked_index(work, group.number), None
    with opened(place) as index:
        return tuning.propose_and_score(index, partition, queries, tuned.effort, k, translate)


def merge_group(group: tuple[int, Iterable[int]], plan: Plan, work: str) -> Iterator[Part]:
    """Merge the hits of a group of queries, task by task, and write its neighbours."""
    began = time.perf_counter()
    queries = plan.groups[group[0]]
    best = blank(queries.rows, 0)
    for number in sorted(group[1]):
        table = read_table(work, required_part(work, HITS_STAGE, number))
        best = merge(best, hits_of(table, queries.rows), plan.config.k)
    done = {part.number for part in plan.finished}
    share = (time.perf_counter() - began) / len(queries.parts)
    start = 0
    for part in queries.parts:
        mine = best.lines(slice(start, start + part.rows))
        start += part.rows
        if part.number not in done:
            make = functools.partial(write_neighbours, work, part, mine, plan)
            yield timed(work, make, before=share)


def without_search(plan: Plan, _: Tuned, work: str) -> Iterator[Part]:
    """Parts that need none: those of an earlier run, and empty ones, which later stages look for.

    They wait for the tuning, so that what the manifest says of the index is there before them.
    """
    yield from plan.finished
    done = {part.number for part in plan.finished}
    for part in plan.empty:
        if part.number not in done:
            make = functools.partial(write_neighbours, work, part, blank(0, 0), plan)
            yield timed(work, make)


def write_neighbours(work: str, query: Part, hits: Hits, plan: Plan) -> Part:
    """Write the neighbours of one query part."""
    classes = read_table(work, query).column("class_name").combine_chunks()
    number, width = hits.score.shape
    lines = np.repeat(np.arange(number, dtype=np.int32), width)
    found = hits.row.reshape(-1) >= 0
    columns = {
        "query": lines,
        "pool_part": hits.part.reshape(-1),
        "pool_row": hits.row.reshape(-1),
        "score": hits.score.reshape(-1),
        "rank": np.tile(np.arange(width, dtype=np.int32), number),
    }
    columns = {name: values[found] for name, values in columns.items()}
    table = pa.table(
        columns | {"query_class": classes.take(pa.array(columns["query"]))}, schema=NEIGHBOURS
    )
    counts = Counts(read=number, kept=number)
    wanted, extra = plan.wanted[query.number], {"options": plan.options}
    made = Part(STAGE, query.number, query.name, number, wanted, "", counts, query.model, [], extra)
    return write_part(work, made, table)


def _published(part: Part) -> Part:
    publish(STAGE, part.counts)
    return part
