"""Where the vectors of a part lie, and what somebody else's vectors become when they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.parts import Part, array_place

UNIT_TOLERANCE = 1e-3
"""A row whose length is this near to 1 is of unit length: float16 rounds it off by half as much."""


def array_of(work: str, part: Part) -> str:
    """The .npy of an embed stage's part: the stage's own, or one that existed already."""
    return str(part.extra.get("array") or array_place(work, part.stage, part.number))


def is_adopted(part: Part) -> bool:
    """True if the part's vectors are somebody else's file, which no stage of ours wrote."""
    return "array" in part.extra


def unusable_rows(part: Part) -> list[int]:
    """Rows of an adopted part, ascending, that no search may return: not finite, or of length 0."""
    rows: list[int] = part.extra.get("unusable", [])
    return rows


def unit_rows(block: NDArray[Any]) -> NDArray[np.float16]:
    """Rows of an adopted array [N, D], float16 or float32, as float16 of unit length.

    Rows that are of unit length keep their values, so that our own embeddings come back
    unchanged; a row that is unusable becomes zeros.
    """
    rows = np.asarray(block, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        usable = np.isfinite(length) & (length > 0)
        scale = np.where(np.abs(length - 1) <= UNIT_TOLERANCE, 1.0, length)
        rows = np.where(usable, rows / np.where(usable, scale, 1.0), 0.0)
    return np.asarray(rows, dtype=np.float16)
