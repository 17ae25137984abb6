"""Which units hold the images of which rows: rows and images are joined by keys and paths.

Only keys that may be wanted cross the shuffle, with numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from numpy.typing import NDArray

from pipelines.embedding.embed import POOL
from pipelines.embedding.images import Lost, Wanted, ends_alike, ignore, join_key
from pipelines.embedding.metadata import take_rows
from pipelines.embedding.vectors import Vectors
from pipelines.parts import Part, part_place
from pipelines.units import with_items
from schemas.tables import POOL_ROWS
from shards import places
from shards.sources import Unit
from shards.sources.beside import read_beside
from shards.tars import read_tar

PROBES_A_PART = 8
PROBED_PARTS = 16
"""Images that are embedded again: at most so many of a part, and of so many parts."""


class Asked(NamedTuple):
    """Rows of a pool part whose images are wanted, and the fingerprint of what is made of them."""

    part: Part
    rows: list[int]
    wanted: str


def key_hash(key: str) -> int:
    """A hash of what a key is joined by."""
    return zlib.crc32(join_key(key).encode())


def keys_of_rows(asked: Asked, work: str) -> Iterator[tuple[str, Wanted]]:
    """The retrieved rows by what they are joined by; the first of a part carry their vectors."""
    part = asked.part
    table = take_rows(part_place(work, POOL, part.number), asked.rows, POOL_ROWS.names)
    probed = asked.rows[:PROBES_A_PART] if part.number < PROBED_PARTS else []
    vectors = np.zeros((0, 0), np.float32)
    if probed:
        vectors = Vectors(work, part).take(np.asarray(probed, np.int32))
    for at, row in enumerate(table.select(["row", "source", "source_key", "caption"]).to_pylist()):
        vector = np.asarray(vectors[at], np.float16).tobytes() if at < len(probed) else None
        key = row["source_key"]
        yield (
            join_key(key),
            Wanted(part.number, row["row"], key, row["source"], row["caption"], vector),
        )


def hashes_of_rows(asked: Asked, work: str) -> NDArray[np.uint32]:
    """What the keys of a part's rows hash to, four bytes each."""
    place = part_place(work, POOL, asked.part.number)
    keys = take_rows(place, asked.rows, ["source_key"]).column("source_key").to_pylist()
    return np.array([key_hash(key) for key in keys], np.uint32)


def one_array(arrays: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    """The hashes of all parts, ascending, each once."""
    return np.unique(np.concatenate([np.zeros(0, np.uint32), *arrays]))


def keys_of_unit(
    unit: Unit, hashes: NDArray[np.uint32]
) -> Iterator[tuple[str, tuple[int, str, str]]]:
    """The keys of a unit that may be wanted, with the unit's number and the file.

    A pool has many times the keys that are wanted, and what crosses a shuffle some runners hold in
    memory. So only keys with the hash of a wanted one are sent; that some others have it too does
    no harm. Where nothing is wanted no unit is opened.
    """
    if not len(hashes):
        return
    found = list(unit_keys(unit))
    keys = np.array([key_hash(key) for _, key in found], np.uint32)
    for at in np.flatnonzero(np.isin(keys, hashes)):
        source, key = found[at]
        yield join_key(key), (unit.number, source, key)


def unit_keys(unit: Unit) -> Iterator[tuple[str, str]]:
    """Source and key of every sample of a unit.

    Of a tar they come from the parquet beside it; without one, from its headers.
    """
    if unit.tar is None:
        for item in with_items(unit).items:
            yield item.path, item.path
        return
    place = places.join(unit.root, unit.tar)
    beside = read_beside(place, ignore)
    if beside is not None:
        for key in beside.rows:
            yield unit.tar, key
        return
    for sample in read_tar(place, ignore, want=lambda ext: False):
        yield unit.tar, sample.key


def match(group: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[Any]:
    """Each wanted row by the units that hold its key; what none holds goes to ``lost``."""
    _, values = group
    wanted = list(values["wanted"])
    if not wanted:
        return
    held = list(values["units"])
    for row in wanted:
        units = {
            unit
            for unit, source, key in held
            if ends_alike(key, row.key) and (not row.source or ends_alike(source, row.source))
        }
        for unit in sorted(units):
            yield unit, row
        if not units:
            lost = Lost(row.row, row.key, "image_not_found", "no image of the pool has its key")
            yield beam.pvalue.TaggedOutput("lost", (row.part, lost))
