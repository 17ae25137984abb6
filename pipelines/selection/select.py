"""Stage 5, select: which of the retrieved pairs become anchors.

The union over all queries, each pool pair once, and what it takes more than one pair to judge, in
this order: what can be told within a pool part (``judge``); files that are there twice, or in the
finetune set; near-duplicates; the quota of each class. Each step looks at what the ones before
have left, so that the best of two duplicates is the best that may stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import apache_beam as beam

from pipelines.candidates import CANDIDATE_STAGE, candidate_table
from pipelines.config import Machine
from pipelines.embedding import embed
from pipelines.embedding.metadata import rows_fingerprint
from pipelines.embedding.options import EmbedConfig
from pipelines.parts import Part, fingerprint, finished, read_table, required_part, write_part
from pipelines.reading import publish
from pipelines.retrieval.options import RetrieveConfig
from pipelines.selection.duplicates import NearDuplicates, SameFiles
from pipelines.selection.judge import Judge, JudgeSetup, entries
from pipelines.selection.options import ScreenConfig, SelectConfig
from pipelines.selection.quota import Quota
from pipelines.selection.rejected import rejected_place, rejected_row, write_rejected
from pipelines.selection.union import NOTHING, by_pool_part
from pipelines.selection.verdicts import Survivors, Verdict
from pipelines.watching.timing import timed
from schemas.errors import BadSample
from schemas.record import IMAGE_TEXT_PAIR
from schemas.tables import CANDIDATES
from shards import places
from shards.decoding import Tally

STAGE = CANDIDATE_STAGE[IMAGE_TEXT_PAIR]


class Select(beam.PTransform):  # type: ignore[misc]
    """``(neighbours, pool, finetune, evaluation) -> PCollection[Part]`` of candidates.

    The first three are PCollections of parts, ``evaluation`` is a list of parts. Every pool part
    gets a part of candidates, if only an empty one.

    Args:
        work: the work folder.
        root: of the pool's sources.
        config: what is kept.
        options: those that shape a part, of this stage and of those before.
        embedding: the encoder.
        machine: where it runs.
        force: redo parts that are finished.
    """

    def __init__(
        self,
        *,
        work: str,
        root: str,
        config: SelectConfig,
        options: dict[str, Any],
        embedding: EmbedConfig,
        machine: Machine,
        force: bool,
    ) -> None:
        super().__init__()
        self._work = work
        self._config = config
        self._options = options
        self._force = force
        self._judge = Judge(JudgeSetup(work, root, config, embedding, machine, force))

    def expand(
        self,
        inputs: tuple[
            beam.PCollection[Part],
            beam.PCollection[Part],
            beam.PCollection[Part],
            beam.PCollection[list[Part]],
        ],
    ) -> beam.PCollection[Part]:
        """See the class."""
        neighbours, pool, finetune, evaluation = inputs
        found = neighbours | "ByPoolPart" >> beam.FlatMap(by_pool_part, self._work)
        every = pool | "EveryPart" >> beam.Map(lambda part: (part.number, NOTHING))
        judged = (
            (found, every)
            | "Unions" >> beam.Flatten()
            | "Union" >> beam.GroupByKey()
            | "Judge" >> beam.ParDo(self._judge, beam.pvalue.AsSingleton(evaluation))
        )
        left = judged | "Entries" >> beam.FlatMap(entries, self._work)
        verdicts = [(left, finetune) | "SameFiles" >> SameFiles(self._work)]
        if self._config.near_duplicates is not None or self._config.max_per_class:
            left = (left, verdicts[-1]) | "AfterSameFiles" >> Survivors()
        if self._config.near_duplicates is not None:
            step = NearDuplicates(self._work, self._config.near_duplicates)
            verdicts.append((left, neighbours) | "NearDuplicates" >> step)
            if self._config.max_per_class:
                left = (left, verdicts[-1]) | "AfterNearDuplicates" >> Survivors()
        if self._config.max_per_class:
            verdicts.append(left | "Quota" >> Quota(self._config.max_per_class))
        return (
            {
                "judged": judged | "Judged" >> beam.Map(lambda part: (part.number, part)),
                "verdicts": tuple(verdicts) | "Verdicts" >> beam.Flatten(),
            }
            | "Together" >> beam.CoGroupByKey()
            | "Write" >> beam.Map(write_selected, self._work, self._options, self._force)
        )


def select_options(
    retrieval: RetrieveConfig, screen: ScreenConfig, config: SelectConfig
) -> dict[str, Any]:
    """The options that shape a part."""
    return retrieval.recorded() | screen.recorded() | config.recorded()


def write_selected(
    group: tuple[int, dict[str, Iterable[Any]]], work: str, options: dict[str, Any], force: bool
) -> Part:
    """Write the candidates of a pool part, and what was left out."""
    began = time.perf_counter()
    number, found = group
    (judged,) = found["judged"]
    later: dict[int, Verdict] = {verdict.row: verdict for verdict in found["verdicts"]}
    tally = Tally()
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for row in read_table(work, judged).to_pylist():
        verdict = later.get(row["row"])
        reason, detail = row["reason"], row["detail"]
        if reason is None and verdict is not None:
            reason, detail = verdict.reason, verdict.detail
        if reason is None:
            rows.append({name: row[name] for name in CANDIDATES.names})
            continue
        problem = BadSample(reason, detail)
        tally.drop(row["source_key"], problem)
        about = row | {"caption": row["texts"][0]}
        rejected.append(rejected_row(STAGE, about, problem, row["score"]))
    tally.kept = len(rows)
    publish(STAGE, tally.counts())
    pool = required_part(work, embed.POOL, number)
    table = candidate_table(rows)
    # Of the candidates themselves: another retrieval that finds the same ones changes nothing.
    content = fingerprint(STAGE, rows_fingerprint(work, pool), table.to_pylist())
    made = Part(
        STAGE,
        number,
        pool.name,
        len(rows),
        content,
        pool.input_fingerprint,
        tally.counts(),
        examples=tally.examples,
        extra={"options": options, "rejected": fingerprint(rejected)},
    )
    known = None if force else finished(work, STAGE, number, content)
    if known == made and places.exists(rejected_place(work, STAGE, number)):
        return known
    write_rejected(work, STAGE, number, rejected)
    before = time.perf_counter() - began
    return timed(work, lambda: write_part(work, made, table), before=before)
