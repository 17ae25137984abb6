"""Reading chosen images of a unit: those that rows of embeddings are of."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from PIL import Image

from pipelines.units import with_items
from schemas.errors import BadSample
from schemas.record import IMAGE_EXTENSIONS
from shards import places
from shards.decoding import Decoded, Tally, decoded_batches
from shards.reader import RangeReader
from shards.sources import Sample, Unit
from shards.sources.beside import read_beside
from shards.sources.files import read_list
from shards.sources.tar_sets import read_unit_tar

_BATCH = 64


class Wanted(NamedTuple):
    """A row of a pool part whose image is looked for.

    ``source`` is its tar or file, where the metadata says so; ``vector`` the bytes of its
    embedding (float16), where it is to be compared with one of ours.
    """

    part: int
    row: int
    key: str
    source: str | None
    url: str | None
    caption: str | None
    vector: bytes | None


@dataclass(frozen=True)
class Found:
    """Where the image of a row lies and what it is.

    Attributes:
        row: of the pool part.
        key: of the sample.
        where: the columns of the schemas' tables that say so.
        caption: that the pool has for it.
        web: likewise.
        unit: name of the unit that holds it.
        input: that unit's fingerprint.
    """

    row: int
    key: str
    where: dict[str, Any]
    caption: str | None
    web: dict[str, Any] = field(default_factory=dict)
    unit: str = ""
    input: str = ""


class Lost(NamedTuple):
    """Why a row has no image."""

    row: int
    key: str
    reason: str
    detail: str


def wanted_images(
    unit: Unit,
    wanted: list[Wanted],
    prepare: Callable[[Image.Image], torch.Tensor] | None,
    threads: int,
) -> Iterator[tuple[Wanted, Found | Lost, torch.Tensor | None]]:
    """Read the wanted images of a unit: the others' bytes are passed over.

    Args:
        unit: that should hold them.
        wanted: rows; several may have one key.
        prepare: what an encoder makes of an image, where some are to be embedded.
        threads: that decode.
    """
    rows: dict[str, list[Wanted]] = {}
    for row in wanted:
        rows.setdefault(join_key(row.key), []).append(row)
    bad = _Bad()
    by_sample = _tar_samples if unit.tar is not None else _file_samples
    batches = decoded_batches(
        by_sample(unit, rows, bad), prepare or _nothing, bad, batch=_BATCH, threads=threads
    )
    done: set[Wanted] = set()
    for batch in batches:
        for item in batch:
            for row in _rows_of(rows, item.sample.source_key):
                done.add(row)
                yield row, _found(row, item, unit), item.prepared if row.vector else None
    for key, problem in bad.problems.items():
        for row in _rows_of(rows, key):
            if row not in done:
                done.add(row)
                yield row, Lost(row.row, row.key, problem.reason, problem.detail), None
    for row in wanted:
        if row not in done:
            detail = f"{unit.name} should hold it, but does not"
            yield row, Lost(row.row, row.key, "image_not_found", detail), None


def _rows_of(rows: dict[str, list[Wanted]], key: str) -> list[Wanted]:
    """The rows that a sample is wanted for, from those of its join_key."""
    return [row for row in rows.get(join_key(key), ()) if ends_alike(key, row.key)]


def join_key(path: str) -> str:
    """What rows and images are joined by: the last part of a key or path."""
    return posixpath.basename(path)


def ends_alike(one: str, other: str) -> bool:
    """Two paths may be of one file: equal, or one is the other below some folder."""
    return one == other or one.endswith(f"/{other}") or other.endswith(f"/{one}")


def _found(row: Wanted, item: Decoded[Any], unit: Unit) -> Found:
    return Found(row.row, row.key, item.where(), item.sample.text, dict(item.sample.web), unit.name)


class _Bad(Tally):
    """Remembers what is wrong with which sample."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: dict[str, BadSample] = {}

    def drop(self, key: str, problem: BadSample) -> None:
        self.problems.setdefault(key, problem)


def _tar_samples(unit: Unit, rows: dict[str, list[Wanted]], bad: _Bad) -> Iterator[Sample]:
    assert unit.tar is not None
    place = places.join(unit.root, unit.tar)
    beside = read_beside(place, ignore)
    with RangeReader() as reader:
        for sample in read_unit_tar(
            unit, bad.drop, None, want=lambda ext: ext not in IMAGE_EXTENSIONS, beside=beside
        ):
            if _rows_of(rows, sample.source_key):
                yield replace(sample, image=reader.read(place, sample.offset, sample.size))


def _file_samples(unit: Unit, rows: dict[str, list[Wanted]], bad: _Bad) -> Iterator[Sample]:
    items = tuple(item for item in with_items(unit).items if _rows_of(rows, item.path))
    yield from read_list(replace(unit, items=items), bad.drop, labelled=False)


def _nothing(image: Image.Image) -> None:
    return None


def ignore(key: str, problem: BadSample) -> None:
    """What is wrong with a tar shows when its samples are read."""
