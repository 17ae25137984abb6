"""Candidates: what will become anchors, from either kind's last stage to the assembly."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED
from schemas.tables import CANDIDATES

CANDIDATE_STAGE = {
    TEXT_COMPENSATED: "candidates-text-compensated",
    IMAGE_TEXT_PAIR: "select",
}


def candidate_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table of schemas.tables.CANDIDATES; absent fields are null."""
    return pa.Table.from_pylist(rows, schema=CANDIDATES)
