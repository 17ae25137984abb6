"""Records picked out of sets by their position, and read back in that order, a block at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.reader import AnchorSet

_BLOCK = 256
_TABLES = 4


@dataclass(frozen=True)
class Picks:
    """Positions of N records, 12 bytes each.

    Attributes:
        parent: int32 [N], which of several sets.
        shard: int32 [N], position in that set's manifest.
        row: int32 [N], position in that shard.
    """

    parent: NDArray[np.int32]
    shard: NDArray[np.int32]
    row: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: NDArray[Any]) -> Picks:
        """Those at positions, or where a mask is true."""
        return Picks(self.parent[which], self.shard[which], self.row[which])

    @classmethod
    def of_shard(cls, parent: int, shard: int, rows: NDArray[Any]) -> Picks:
        """Rows of one shard."""
        rows = rows.astype(np.int32)
        return cls(np.full_like(rows, parent), np.full_like(rows, shard), rows)

    @classmethod
    def concatenate(cls, parts: Sequence[Picks]) -> Picks:
        """All of them, in order."""
        none = [np.zeros(0, np.int32)]
        return cls(
            np.concatenate([p.parent for p in parts] or none),
            np.concatenate([p.shard for p in parts] or none),
            np.concatenate([p.row for p in parts] or none),
        )


class Rows:
    """Reads picked rows. A few tables are kept, since picks may go back and forth between sets.

    Args:
        sets: what ``Picks.parent`` counts.
    """

    def __init__(self, sets: Sequence[AnchorSet]) -> None:
        self._sets = sets
        self._table = functools.lru_cache(_TABLES)(self._read)

    def _read(self, parent: int, shard: int) -> pa.Table:
        anchors = self._sets[parent]
        return anchors.table(anchors.manifest.shards[shard])

    def at(self, picks: Picks, start: int = 0) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """``(parent, shard, row)`` of the picks from ``start`` on, in order.

        Raises:
            UserError: a parquet is missing or was changed.
        """
        while start < len(picks):
            stop = min(start + _BLOCK, len(picks))
            parent, shard = int(picks.parent[start]), int(picks.shard[start])
            same = (picks.parent[start:stop] == parent) & (picks.shard[start:stop] == shard)
            stop = stop if same.all() else start + int(np.argmin(same))
            block = self._table(parent, shard).take(pa.array(picks.row[start:stop]))
            for row in block.to_pylist():
                yield parent, shard, row
            start = stop
