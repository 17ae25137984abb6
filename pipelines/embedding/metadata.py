"""What the pool says of a few of its rows: the one way in which later stages look rows up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.parts import Part, part_place
from schemas.tables import POOL_ROWS
from shards import places


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
    return take_rows(part_place(work, part.stage, part.number), rows)


def take_rows(place: str, rows: Sequence[int]) -> pa.Table:
    """Rows of a parquet by number, one row group at a time, as schemas.tables.POOL_ROWS."""
    wanted = np.asarray(rows, np.int64)
    found: list[pa.Table] = []
    with places.open_read(place) as opened, pq.ParquetFile(opened) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            inside = wanted[(wanted >= start) & (wanted < stop)]
            if len(inside):
                table = file.read_row_group(group).take(pa.array(inside - start))
                found.append(table.add_column(0, "row", pa.array(inside, pa.int32())))
            start = stop
    columns = POOL_ROWS.names
    tables = [table.select(columns).cast(POOL_ROWS) for table in found]
    return pa.concat_tables(tables) if tables else POOL_ROWS.empty_table()
