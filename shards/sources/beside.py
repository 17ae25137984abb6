"""The parquet that img2dataset leaves beside a tar: a row for every pair that it was to fetch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from schemas.errors import BadSample, UserError
from shards import places
from shards.parquet import BadParquet, check_claims, read_columns
from shards.sources.web import known_columns, lower_case
from shards.tars import OnBad

MAX_BESIDE_BYTES = 128 << 20
"""Of such a parquet: img2dataset's has some hundred bytes a pair, and 10,000 pairs."""


@dataclass(frozen=True)
class Beside:
    """What the parquet beside a tar says.

    Attributes:
        rows: by the sample's key, metadata under lower-case names; only of what was fetched.
        failed: pairs that could not be fetched (status other than ``success``).
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: int = 0


def beside_place(tar: str) -> str:
    """Where the parquet beside a tar lies."""
    return tar.removesuffix(".tar") + ".parquet"


def read_beside(tar: str, on_bad: OnBad) -> Beside | None:
    """The parquet beside a tar, or None if there is none that tells of the tar's keys.

    Args:
        tar: place of the tar.
        on_bad: told ``bad_parquet`` of one that does not read; the tar serves without it.
    """
    place = beside_place(tar)
    if not places.exists(place):
        return None
    try:
        data = places.read_limited(place, MAX_BESIDE_BYTES)
        names = known_columns(check_claims(data, place), "key", "status")
        if "key" not in [name.lower() for name in names]:
            return None
        found = [lower_case(row) for row in read_columns(data, place, names).to_pylist()]
    except (BadParquet, UserError) as error:
        on_bad(places.parent_and_name(place)[1], BadSample("bad_parquet", str(error)))
        return None
    fetched = [row for row in found if row.get("status", "success") == "success"]
    rows = {str(row["key"]): row for row in fetched if "key" in row}
    return Beside(rows, len(found) - len(fetched))
