"""A faiss index that exists already: checked, and its ids translated to rows of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pipelines.parts import Part
from pipelines.retrieval.index import read_header
from pipelines.selection.screen import kept_rows
from schemas.errors import UserError


def check_given(place: str, pool: Sequence[Part], dimension: int) -> None:
    """Check that an index can be one of these embeddings, by its header alone.

    Raises:
        UserError: another dimension or number of rows.
    """
    header = read_header(place)
    rows = sum(part.rows for part in pool)
    if header.dimension != dimension:
        raise UserError(
            f"{place!r} holds vectors of {header.dimension} numbers, but the pool's embeddings "
            f"have {dimension}: it was made by another model; give that one as --encoder."
        )
    if header.rows != rows:
        raise UserError(
            f"{place!r} holds {header.rows} vectors, but the pool has {rows} embeddings: it was "
            f"not made from all of them and nothing else; leave --pool_index out to build one."
        )


def check_opened(place: str, index: Any) -> None:
    """Check what only the index itself tells.

    Raises:
        UserError: it compares vectors in another way than by direction.
    """
    if index.metric_type not in (faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2):
        raise UserError(
            f"{place!r} compares vectors neither by inner product nor by distance; build it so."
        )


class Translation:
    """Ids of an index over all rows of the pool to numbers of those that are searched.

    Args:
        work: the work folder.
        pool: all its parts, in order.
    """

    def __init__(self, work: str, pool: Sequence[Part]) -> None:
        self._number = np.full(sum(part.rows for part in pool), -1, np.int32)
        start = kept_so_far = 0
        for part in pool:
            kept = kept_rows(work, part.number)
            self._number[start + kept] = np.arange(kept_so_far, kept_so_far + len(kept))
            start, kept_so_far = start + part.rows, kept_so_far + len(kept)

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """-1 for rows that were left out."""
        known = (ids >= 0) & (ids < len(self._number))
        return np.where(known, self._number[np.where(known, ids, 0)], -1).astype(np.int64)
