"""Stage 3, screen: which pool pairs are searched at all, by what the pool says of each.

What can be told from one pair alone is told here, before the search, so that a pair that cannot
become an anchor takes no neighbour's place. What takes the others, the finetune images or an
evaluation set to tell is for the select stage, which only looks at what was retrieved.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.parts import Part, fingerprint, finished, read_table, required_part, write_part
from pipelines.reading import publish
from pipelines.selection.options import ScreenConfig
from pipelines.selection.texts import clean_text
from pipelines.watching.timing import timed
from schemas.errors import BadSample
from schemas.tables import SCREENED
from shards.decoding import Tally

STAGE = "screen"


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
    return {"screen": config.recorded()}


def screen_part(pool: Part, *, work: str, config: ScreenConfig, force: bool) -> Part:
    """Judge the pairs of one pool part, unless that is done."""
    options = screen_options(config)
    wanted = fingerprint(STAGE, pool.fingerprint, options)
    part = None if force else finished(work, STAGE, pool.number, wanted)
    if part is None:
        part = timed(work, lambda: _screen(pool, work, wanted, options))
    publish(STAGE, part.counts)
    return part


def _screen(pool: Part, work: str, wanted: str, options: dict[str, Any]) -> Part:
    tally = Tally()
    kept: list[int] = []
    for row, pair in enumerate(read_table(work, pool).to_pylist()):
        if clean_text(pair["caption"]):
            kept.append(row)
        else:
            tally.drop(pair["source_key"], BadSample("empty_text", "it has no text"))
    tally.kept = len(kept)
    part = Part(
        STAGE,
        pool.number,
        pool.name,
        len(kept),
        wanted,
        pool.input_fingerprint,
        tally.counts(),
        None,
        tally.examples,
        {"options": options, "rows": fingerprint(kept)},
    )
    return write_part(work, part, pa.table({"row": kept}, schema=SCREENED))


def kept_rows(work: str, number: int) -> NDArray[np.int32]:
    """Rows of a pool part that are searched, ascending."""
    table = read_table(work, required_part(work, STAGE, number))
    rows: NDArray[np.int32] = table.column("row").to_numpy()
    return rows
