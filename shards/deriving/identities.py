"""Which records of several sets are the same anchor, and which are equal: 44 bytes a record."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from schemas.errors import BadSample
from schemas.tables import MEMBERS
from shards.deriving.picks import Picks
from shards.reader import AnchorSet

Row = dict[str, Any]
_DIGEST = 16
_PLACES = frozenset(f"{member}_{what}" for member in MEMBERS for what in ("offset", "size"))


@dataclass(frozen=True)
class Identities:
    """N records of some sets: set after set, in each in the order of its manifest.

    Attributes:
        key: S16 [N], digest of the record's key.
        content: S16 [N], digest of the whole record.
        image: bool [N], whether the set holds its image.
        picks: where the records are.
    """

    key: NDArray[np.bytes_]
    content: NDArray[np.bytes_]
    image: NDArray[np.bool_]
    picks: Picks


def identify(
    sets: Sequence[AnchorSet],
    revise: Callable[[int, Row], Row] = lambda parent, row: row,
    what: str = "comparing",
) -> Identities:
    """Read the parquets of sets.

    Args:
        sets: which.
        revise: changes a row before it is compared; it is given the set's number.
        what: for the progress bar.

    Raises:
        UserError: a parquet is missing or was changed.
    """
    keys, contents = bytearray(), bytearray()
    images: list[NDArray[np.bool_]] = []
    picks: list[Picks] = []
    total = sum(anchors.manifest.samples for anchors in sets)
    with tqdm(
        total=total, desc=what, unit="record", leave=False, disable=not sys.stderr.isatty()
    ) as bar:
        for parent, anchors in enumerate(sets):
            for number, shard in enumerate(anchors.manifest.shards):
                table = anchors.table(shard)
                for batch in table.to_batches(max_chunksize=256):
                    for row in batch.to_pylist():
                        keys += _digest(row["key"])
                        contents += _digest(record_text(_revised(revise, parent, row)))
                    bar.update(batch.num_rows)
                images.append(table.column("image_offset").is_valid().to_numpy())
                picks.append(Picks.of_shard(parent, number, np.arange(table.num_rows)))
    none = [np.zeros(0, bool)]
    return Identities(
        key=np.frombuffer(bytes(keys), f"S{_DIGEST}"),
        content=np.frombuffer(bytes(contents), f"S{_DIGEST}"),
        image=np.concatenate(images or none),
        picks=Picks.concatenate(picks),
    )


def record_fields(row: Row) -> Row:
    """What a row says of its anchor: without the members' places, and without what is absent.

    Fields that this version does not know count as fields.
    """
    fields = {
        name: value
        for name, value in row.items()
        if name not in _PLACES and name != "extra" and value is not None and value != []
    }
    if row.get("extra"):
        try:
            fields |= json.loads(row["extra"])
        except (ValueError, TypeError, RecursionError):
            fields["extra"] = row["extra"]
    return fields


def record_text(row: Row) -> str:
    """A text that is equal where records are; also of a record that is no valid one."""
    return json.dumps(record_fields(row), sort_keys=True)


def _revised(revise: Callable[[int, Row], Row], parent: int, row: Row) -> Row:
    try:
        return revise(parent, row)
    except BadSample:
        return row  # it is told of when it is written


def _digest(text: str) -> bytes:
    # JSON escapes half surrogate pairs; a key with one is bad, but must not end the comparison.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
