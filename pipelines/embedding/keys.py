"""Which units hold the images of which rows: they are joined by key or path, and by URL.

A key only says which image it is within the download that the embeddings were made from; another
download numbers its images anew. So where both sides have a URL it decides: it finds images under
another key, and an image of another URL is not taken for one of the same key. Only keys and URLs
that may be wanted cross the shuffle, with numbers.
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


class Held(NamedTuple):
    """An image that the pool holds: number of its unit, its file, key and URL (if it is known)."""

    unit: int
    source: str
    key: str
    url: str | None


def joins(key: str, url: str | None) -> list[str]:
    """What an image and its row have in common, one of them at least."""
    return [f"key {join_key(key)}"] + ([f"url {url}"] if url else [])


def join_hash(join: str) -> int:
    """A hash of one of these, four bytes."""
    return zlib.crc32(join.encode())


def keys_of_rows(asked: Asked, work: str) -> Iterator[tuple[str, Wanted]]:
    """The retrieved rows by what they are joined by; the first of a part carry their vectors."""
    part = asked.part
    table = take_rows(part_place(work, POOL, part.number), asked.rows, POOL_ROWS.names)
    probed = asked.rows[:PROBES_A_PART] if part.number < PROBED_PARTS else []
    vectors = np.zeros((0, 0), np.float32)
    if probed:
        vectors = Vectors(work, part).take(np.asarray(probed, np.int32))
    columns = ["row", "source", "source_key", "caption", "url"]
    for at, row in enumerate(table.select(columns).to_pylist()):
        vector = np.asarray(vectors[at], np.float16).tobytes() if at < len(probed) else None
        key, url = row["source_key"], row["url"]
        wanted = Wanted(part.number, row["row"], key, row["source"], url, row["caption"], vector)
        for join in joins(key, url):
            yield join, wanted


def hashes_of_rows(asked: Asked, work: str) -> NDArray[np.uint32]:
    """What the keys and URLs of a part's rows hash to."""
    place = part_place(work, POOL, asked.part.number)
    rows = take_rows(place, asked.rows, ["source_key", "url"]).to_pylist()
    found = [join_hash(join) for row in rows for join in joins(row["source_key"], row["url"])]
    return np.array(found, np.uint32)


def one_array(arrays: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    """The hashes of all parts, ascending, each once."""
    return np.unique(np.concatenate([np.zeros(0, np.uint32), *arrays]))


def keys_of_unit(unit: Unit, hashes: NDArray[np.uint32]) -> Iterator[tuple[str, Held]]:
    """The images of a unit that may be wanted, by each of their ``joins``.

    A pool has many times the images that are wanted, and what crosses a shuffle some runners hold
    in memory. So only what has the hash of something wanted is sent; that some others have it too
    does no harm. Where nothing is wanted no unit is opened.
    """
    if not len(hashes):
        return
    found = [(join, held) for held in images_of(unit) for join in joins(held.key, held.url)]
    mine = np.array([join_hash(join) for join, _ in found], np.uint32)
    for at in np.flatnonzero(np.isin(mine, hashes)):
        yield found[at]


def images_of(unit: Unit) -> Iterator[Held]:
    """Every image of a unit.

    Of a tar they come from the parquet beside it; without one, from its headers, without URLs.
    """
    if unit.tar is None:
        for item in with_items(unit).items:
            yield Held(unit.number, item.path, item.path, (item.web or {}).get("url"))
        return
    place = places.join(unit.root, unit.tar)
    beside = read_beside(place, ignore)
    if beside is not None:
        for key, row in beside.rows.items():
            yield Held(unit.number, unit.tar, key, row.get("url"))
        return
    for sample in read_tar(place, ignore, want=lambda ext: False):
        yield Held(unit.number, unit.tar, sample.key, None)


def match(group: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[Any]:
    """Each wanted row by the units that may hold its image; what none may goes to ``lost``."""
    join, values = group
    wanted = [Wanted(*row) for row in values["wanted"]]
    if not wanted:
        return
    images = {Held(*image) for image in values["units"]}
    for row in wanted:
        fitting = sorted(image for image in images if fits(row, image, join))
        for image in fitting:
            yield image.unit, row._replace(key=image.key)
        if not fitting:
            lost = Lost(row.row, row.key, "image_not_found", "the pool has neither key nor URL")
            yield beam.pvalue.TaggedOutput("lost", (row.part, lost))


def fits(row: Wanted, image: Held, join: str) -> bool:
    """Whether an image that has a key or the URL of a row may be the row's."""
    if join.startswith("url "):
        return True
    if row.url and image.url and row.url != image.url:
        return False
    same_source = not row.source or ends_alike(image.source, row.source)
    return same_source and ends_alike(image.key, row.key)
