"""Stage 3, screen: which pool pairs are searched at all, by what the pool says of each.

What can be told from one pair alone is told here, before the search, so that a pair that cannot
become an anchor takes no neighbour's place. What takes the others, the finetune images or an
evaluation set to tell is for the select stage, which only looks at what was retrieved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics
from numpy.typing import NDArray

from pipelines.parts import (
    Part,
    fingerprint,
    finished,
    part_place,
    read_table,
    required_part,
    write_part,
)
from pipelines.reading import publish
from pipelines.selection.options import ScreenConfig
from pipelines.selection.rejected import rejected_place, rejected_row, write_rejected
from pipelines.selection.rules import COLUMNS, judge
from pipelines.watching.timing import timed
from schemas.errors import BadSample
from schemas.tables import SCREENED
from shards import places
from shards.decoding import Tally

STAGE = "screen"
_BATCH = 10_000  # rows that are judged at once


class Screen(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Part] of pool embeddings -> PCollection[Part]``: the rows that are searched.

    Args:
        work: the work folder.
        config: what is kept.
        force: redo parts that are finished.
    """

    def __init__(self, *, work: str, config: ScreenConfig, force: bool) -> None:
        super().__init__()
        self._work = work
        self._config = config
        self._force = force

    def expand(self, pool: beam.PCollection[Part]) -> beam.PCollection[Part]:
        """See the class."""
        return (
            pool
            | beam.Reshuffle()
            | beam.Map(screen_part, work=self._work, config=self._config, force=self._force)
        )


def screen_options(config: ScreenConfig) -> dict[str, Any]:
    """The options that shape a part."""
    return config.recorded()


def screen_part(pool: Part, *, work: str, config: ScreenConfig, force: bool) -> Part:
    """Judge the pairs of one pool part, unless that is done."""
    options = screen_options(config)
    wanted = fingerprint(STAGE, pool.fingerprint, options)
    part = None if force else finished(work, STAGE, pool.number, wanted)
    if part is None or not places.exists(rejected_place(work, STAGE, pool.number)):
        part = timed(work, lambda: _screen(pool, work, wanted, options, config))
    publish(STAGE, part.counts)
    for column, number in (part.counts.lacking or {}).items():
        Metrics.counter(STAGE, f"lacking/{column}").inc(number)
    return part


def _screen(
    pool: Part, work: str, wanted: str, options: dict[str, Any], config: ScreenConfig
) -> Part:
    tally = Tally()
    kept: list[int] = []
    rejected: list[dict[str, Any]] = []
    lacking: Counter[str] = Counter()
    unusable = set(pool.extra.get("unusable", ()))  # of embeddings that existed already
    for row, pair in enumerate(_pairs(work, pool)):
        problem, without = judge(pair, config)
        lacking.update(without)
        if row in unusable:
            problem = BadSample("bad_embedding", "its embedding is not finite, or all zeros")
        if problem is None:
            kept.append(row)
        else:
            tally.drop(str(pair["source_key"]), problem)
            rejected.append(rejected_row(STAGE, pair, problem))
    tally.kept = len(kept)
    write_rejected(work, STAGE, pool.number, rejected)
    counts = tally.counts()
    part = Part(
        STAGE,
        pool.number,
        pool.name,
        len(kept),
        wanted,
        pool.input_fingerprint,
        counts.model_copy(update={"lacking": dict(sorted(lacking.items())) or None}),
        None,
        tally.examples,
        {"options": options, "rows": fingerprint(kept)},
    )
    return write_part(work, part, pa.table({"row": kept}, schema=SCREENED))


def _pairs(work: str, pool: Part) -> Iterator[dict[str, Any]]:
    """What the pool says of each row of a part, in order."""
    wanted = [*COLUMNS, "source", "source_key", "url"]
    with places.open_read(part_place(work, pool.stage, pool.number)) as opened:
        file = pq.ParquetFile(opened)
        nothing = dict.fromkeys(wanted)
        columns = [name for name in wanted if name in file.schema_arrow.names]
        for batch in file.iter_batches(_BATCH, columns=columns, use_threads=False):
            for pair in batch.to_pylist():
                yield nothing | pair


def kept_rows(work: str, number: int) -> NDArray[np.int32]:
    """Rows of a pool part that are searched, ascending."""
    table = read_table(work, required_part(work, STAGE, number))
    rows: NDArray[np.int32] = table.column("row").to_numpy()
    return rows
