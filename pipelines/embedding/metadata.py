"""What the pool says of a few of its rows: the one way in which later stages look rows up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.parts import Part, fingerprint, part_place, read_table, required_part
from schemas.tables import POOL_ROWS
from shards import places

LOCATE = "locate"
"""The step that leaves the place of each retrieved image of embeddings that existed already."""


def pool_rows(work: str, part: Part, rows: Sequence[int]) -> pa.Table:
    """Some rows of a pool part, as a table of schemas.tables.POOL_ROWS.

    Memory holds one row group of the part and what is asked for.

    Args:
        work: the work folder.
        part: of the pool's embeddings.
        rows: which, ascending.

    Returns:
        The rows in their order, column ``row`` first. Of embeddings that existed already, rows
        whose image was not found in the pool are left out; the locate step has counted them.
    """
    if "npy" in part.extra:  # adopted: see pipelines.embedding.locate
        located = read_table(work, required_part(work, LOCATE, part.number))
        return located.filter(pc.is_in(located.column("row"), pa.array(rows, pa.int32())))
    table = take_rows(part_place(work, part.stage, part.number), rows, POOL_ROWS.names)
    return table.cast(POOL_ROWS)


def rows_fingerprint(work: str, part: Part) -> str:
    """Digest of all that ``pool_rows`` of a part can give."""
    if "npy" not in part.extra:
        return part.fingerprint
    located = required_part(work, LOCATE, part.number)
    return fingerprint(located.fingerprint, located.extra["content"])


def take_rows(place: str, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Rows of a parquet by number, one row group at a time.

    Args:
        place: of the file; it has at least one row group.
        rows: which, ascending.
        columns: which; ``row`` is their number.
    """
    wanted = np.asarray(rows, np.int64)
    stored = [name for name in columns if name != "row"]
    found: list[pa.Table] = []
    with places.open_read(place) as opened, pq.ParquetFile(opened) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            inside = wanted[(wanted >= start) & (wanted < stop)]
            if len(inside):
                held = file.read_row_group(group, stored, use_threads=False)
                found.append(_numbered(held, inside, start))
            start = stop
        if not found:
            found.append(_numbered(file.schema_arrow.empty_table(), wanted[:0], 0))
    return pa.concat_tables(found).select(list(columns))


def _numbered(table: pa.Table, rows: NDArray[np.int64], start: int) -> pa.Table:
    """Rows of a row group that begins at ``start``, with their numbers; no metadata of the part."""
    taken = table.take(pa.array(rows - start)).replace_schema_metadata(None)
    return taken.add_column(0, "row", pa.array(rows, pa.int32()))
