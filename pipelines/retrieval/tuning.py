"""Indices of the partitions, and how hard they must be searched: measured against exact search.

A sample of the real queries is searched exactly and with the index, at rising effort; the least
effort that finds ``min_recall`` of the exact neighbours is what all queries are searched with. The
measured recall goes into the manifest.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.embedding.vectors import Vectors, check_once
from pipelines.parts import Part, fingerprint, finished, read_table, required_part, write_part
from pipelines.retrieval import index as indices
from pipelines.retrieval.given import Translation, check_opened
from pipelines.retrieval.hits import Hits, blank, hits_of, hits_table, joined, merge
from pipelines.retrieval.index import Effort, candidates, efforts, one_thread_for, opened
from pipelines.retrieval.partitions import Group, Partition
from pipelines.retrieval.plan import Plan
from pipelines.retrieval.rule import GIVEN, IVF_PQ
from pipelines.retrieval.search import nearest
from pipelines.watching.timing import note, stopwatch
from schemas.errors import UserError
from schemas.tables import TRIALS
from shards import places

TRAINED, FILLED, TRIED, TUNED = "index-trained", "index", "index-trials", "index-tuned"
SAMPLE = 1000
"""Queries that recall is measured on; with ten neighbours each, a share of 0.95 is known to 0.005
or so."""
_TRAIN_PARTS = 256  # pool parts that the training sample is read from: remote ones are fetched
_AT_ONCE = 8192  # queries whose candidates are in memory at once


class Tuned(NamedTuple):
    """How the pool is searched; no effort means exactly."""

    effort: Effort | None
    fingerprint: str


def index_place(work: str, number: int | None) -> str:
    """Where the faiss file of a partition lies; None is the empty one."""
    if number is None:
        return places.join(work, TRAINED, "00000.faiss")
    return places.join(work, FILLED, f"{number:05d}.faiss")


def train_index(plan: Plan, work: str) -> str | None:
    """Train the index that is chosen, unless that is done; returns its fingerprint."""
    if not plan.choice.approximate or plan.choice.type == GIVEN:
        return None
    made_of = [group.fingerprint for group in plan.partitions]
    wanted = fingerprint(TRAINED, plan.choice.recorded(), made_of)
    if not plan.force and finished(work, TRAINED, 0, wanted):
        return wanted
    with stopwatch(work, TRAINED, 0), one_thread_for(plan.choice):
        vectors = training_sample(plan, work)
        _write(work, TRAINED, 0, wanted, indices.train(plan.choice, vectors))
    return wanted


def training_sample(plan: Plan, work: str) -> NDArray[np.float32]:
    """Pool rows spread evenly over the parts that they are read from, those too spread evenly."""
    parts = [part for group in plan.partitions for part in group.parts]
    if len(parts) > _TRAIN_PARTS:
        at = np.linspace(0, len(parts) - 1, _TRAIN_PARTS).astype(int)
        parts = [parts[i] for i in at]
    pool = Partition(work, parts)
    number = min(max(plan.choice.train_rows, 1), len(pool))
    return pool.take(np.arange(number, dtype=np.int64) * len(pool) // number)


def prepare_partition(number: int, plan: Plan, trained: str | None, work: str) -> int:
    """Build a partition's index and search it for the sample, unless that is done."""
    group = plan.partitions[number]
    place = None
    wanted = fingerprint(FILLED, trained, group.fingerprint)
    if trained is not None:
        place = index_place(work, number)
        if plan.force or not finished(work, FILLED, number, wanted):
            with (
                stopwatch(work, FILLED, number),
                opened(checked_index(work, None), mapped=False) as empty,
                one_thread_for(plan.choice),
            ):
                index = indices.fill(empty, Partition(work, group.parts))
                _write(work, FILLED, number, wanted, index)
    asked = [query.fingerprint for query in plan.groups]
    wanted = fingerprint(TRIED, wanted, asked, plan.config.k)
    if plan.force or not finished(work, TRIED, number, wanted):
        began = time.perf_counter()
        trials = _try(plan, group, place, work)
        tables = [
            hits_table(hits).add_column(0, TRIALS.field(0), pa.array([level] * n, pa.int32()))
            for level, hits in trials.items()
            for n in [int((hits.row >= 0).sum())]
        ]
        # None of what lies beyond the last trial would find another neighbour of this partition.
        extra = {"levels": list(trials)}
        part = Part(TRIED, number, str(number), group.rows, wanted, extra=extra)
        write_part(work, part, pa.concat_tables(tables))
        note(work, TRIED, number, time.perf_counter() - began)
    return number


def _try(plan: Plan, group: Group, place: str | None, work: str) -> dict[int, Hits]:
    """Level of effort to the sample's hits in a partition; level -1 is the exact ones."""
    queries = sample(plan, work)
    partition = Partition(work, group.parts)
    trials = {-1: nearest(queries, partition.blocks(), plan.config.k)}
    if place is not None:
        with opened(checked_index(work, group.number)) as index:
            for level, effort in enumerate(_levels(plan, index)):
                trials[level] = propose_and_score(index, partition, queries, effort, plan.config.k)
                if all(map(np.array_equal, trials[level], trials[-1])):
                    break
    return trials


def _levels(plan: Plan, index: Any) -> list[Effort]:
    if plan.choice.type != GIVEN:
        return efforts(index, plan.config.k, lossy=plan.choice.type == IVF_PQ)
    share = sum(g.rows for g in plan.partitions) / max(1, sum(part.rows for part in plan.pool))
    return efforts(index, plan.config.k, lossy=True, share=share)


def sample(plan: Plan, work: str) -> NDArray[np.float32]:
    """Up to SAMPLE queries, evenly spaced over all of them."""
    total = sum(group.rows for group in plan.groups)
    number = min(SAMPLE, total)
    chosen = np.arange(number, dtype=np.int64) * total // number
    found, start = [], 0
    for part in (part for group in plan.groups for part in group.parts):
        rows = chosen[(chosen >= start) & (chosen < start + part.rows)] - start
        if len(rows):
            found.append(Vectors(work, part).take(rows))
        start += part.rows
    return np.concatenate(found)


def propose_and_score(
    index: Any,
    partition: Partition,
    queries: NDArray[np.float32],
    effort: Effort,
    k: int,
    translate: Translation | None = None,
) -> Hits:
    """The k best of what an index proposes, by exact scores."""
    found = []
    for start in range(0, len(queries), _AT_ONCE):
        some = queries[start : start + _AT_ONCE]
        ids = candidates(index, some, effort)
        found.append(partition.score(some, ids if translate is None else translate(ids), k))
    return joined(found, axis=0)


def tune(plan: Plan, prepared: list[int], work: str) -> Tuned:
    """Choose the effort, unless that is done, and leave it for the manifest.

    Raises:
        UserError: even the greatest effort finds less than ``min_recall``.
    """
    done = None if plan.force else finished(work, TUNED, 0, plan.tuned)
    if done is not None:
        effort = done.extra["effort"]
        return Tuned(None if effort is None else Effort(*effort), plan.tuned)
    began = time.perf_counter()
    about: dict[str, Any] = {"metric": "cosine", "storage": "float16"} | plan.choice.recorded()
    effort = None
    if plan.choice.approximate:
        effort, recall = (
            _effort_given(plan, work) if plan.choice.type == GIVEN else _effort(plan, work)
        )
        if recall < plan.config.min_recall:
            raise UserError(
                f"the index ({plan.choice.type}) finds {recall:.4f} of the exact neighbours at "
                f"most, less than --min_recall {plan.config.min_recall:g}; lower that, or take "
                f"another --index: ivf-flat and exact reach any."
            )
        about |= {"probe": effort.probe, "candidates": effort.depth, "recall": round(recall, 6)}
        about["recall_queries"] = min(SAMPLE, sum(group.rows for group in plan.groups))
        about["partitions"] = len(plan.searched)
        if plan.choice.type == GIVEN:
            assert plan.config.pool_index is not None
            about["fingerprint"] = places.content_fingerprint(plan.config.pool_index)
    extra = {"options": plan.options, "index": about, "effort": effort}
    part = Part(TUNED, 0, plan.choice.type, 0, plan.tuned, extra=extra)
    write_part(work, part, pa.table({}))
    note(work, TUNED, 0, time.perf_counter() - began)
    return Tuned(effort, plan.tuned)


def _effort(plan: Plan, work: str) -> tuple[Effort, float]:
    """The least effort that is enough, or the greatest; and its recall."""
    with opened(checked_index(work, 0)) as index:
        levels = _levels(plan, index)
    number = min(SAMPLE, sum(group.rows for group in plan.groups))
    merged = {level: blank(number, 0) for level in range(-1, len(levels))}
    for group in plan.partitions:
        part = required_part(work, TRIED, group.number)
        table = read_table(work, part)
        held = {
            level: hits_of(table.filter(pc.equal(table["level"], level)), number)
            for level in part.extra["levels"]
        }
        last = held[max(held)]
        for level, hits in merged.items():
            merged[level] = merge(hits, held.get(level, last), plan.config.k)
    recalls = [recall_of(merged[level], merged[-1]) for level in range(len(levels))]
    return _least(levels, recalls, plan.config.min_recall)


def _effort_given(plan: Plan, work: str) -> tuple[Effort, float]:
    assert plan.config.pool_index is not None
    exact = blank(min(SAMPLE, sum(group.rows for group in plan.groups)), 0)
    for group in plan.partitions:
        table = read_table(work, required_part(work, TRIED, group.number))
        exact = merge(exact, hits_of(table, len(exact.score)), plan.config.k)
    queries, whole = sample(plan, work), Partition(work, plan.searched[0].parts)
    translate = Translation(work, plan.pool)
    recalls: list[float] = []
    with opened(plan.config.pool_index) as index:
        check_opened(plan.config.pool_index, index)
        levels = _levels(plan, index)
        for effort in levels:
            hits = propose_and_score(index, whole, queries, effort, plan.config.k, translate)
            recalls.append(recall_of(hits, exact))
            if recalls[-1] >= plan.config.min_recall:
                break
    return _least(levels, recalls, plan.config.min_recall)


def _least(levels: list[Effort], recalls: list[float], least: float) -> tuple[Effort, float]:
    for effort, recall in zip(levels, recalls, strict=False):
        if recall >= least:
            return effort, recall
    return levels[len(recalls) - 1], recalls[-1]


def recall_of(found: Hits, exact: Hits) -> float:
    """The share of the exact neighbours that were found."""
    both = (found.part[:, :, None] == exact.part[:, None]) & (
        found.row[:, :, None] == exact.row[:, None]
    )
    there = exact.row >= 0
    return float((both.any(axis=1) & there).sum() / there.sum())


def _write(work: str, stage: str, number: int, wanted: str, index: Any) -> None:
    place = index_place(work, None if stage == TRAINED else number)
    indices.save(index, place)
    # The parquet goes last: it is what marks the pair as finished.
    extra = {"faiss_sha256": places.sha256_file(place)[0]}
    part = Part(stage, number, str(number), int(index.ntotal), wanted, extra=extra)
    write_part(work, part, pa.table({}))


def checked_index(work: str, number: int | None) -> str:
    """The place of a partition's index (None: the empty one), checked to be as it was written."""
    place = index_place(work, number)
    part = required_part(work, TRAINED if number is None else FILLED, number or 0)
    check_once(place, part.extra["faiss_sha256"], "retrieve")
    return place
