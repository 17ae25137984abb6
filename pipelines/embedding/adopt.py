"""Embeddings of the pool that exist already, in place of embedding it.

A part of the pool is then a pair of files as clip-retrieval writes them. The .npy is not copied:
the part says where it lies, and pipelines.embedding.vectors reads it. What its parquet says is
taken over; where the images lie is not known until pipelines.embedding.locate looks for those
that were retrieved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared
from PIL import Image

from pipelines.config import Machine
from pipelines.embedding.embed import POOL
from pipelines.embedding.encoder import ImageEncoder
from pipelines.embedding.options import EmbedConfig
from pipelines.inference import choose_device
from pipelines.parts import Part, fingerprint, finished, write_part
from pipelines.reading import publish, unit_fingerprint
from pipelines.units import with_items
from pipelines.watching.timing import timed
from schemas.errors import BadSample, UserError
from schemas.tables import EXISTING_METADATA
from shards import places
from shards.decoding import Tally
from shards.parquet import MAX_FILE_BYTES, check_claims, read_batches
from shards.sources import Unit
from shards.sources.embeddings import read_npy_header
from shards.sources.web import caption_of, known_columns, lower_case, web_of

DECLARED = (
    "the embeddings of the pool are taken to be those of {}: which model made them is not in the "
    "files; some are compared with embeddings of ours when their images have been found."
)
"""What people are told; the place is that of the encoder's name."""

METADATA_TIMES = 16
"""A file of a million rows has this many times the size that other parquets may have."""

_BLOCK = 16_384  # rows that are read at once
_OTHERS = ("image_path", "source", "source_key", "width", "height")


class Adopt(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Unit] of embedding files -> PCollection[Part] of the pool``.

    Args:
        work: the work folder.
        config: the encoder that is said to have made them.
        machine: where it runs.
        force: redo parts that are finished.
    """

    def __init__(self, *, work: str, config: EmbedConfig, machine: Machine, force: bool) -> None:
        super().__init__()
        self._do = _AdoptUnit(Shared(), work=work, config=config, machine=machine, force=force)

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[Part]:
        """See the class."""
        return units | beam.Reshuffle() | beam.ParDo(self._do)


def adopt_options() -> dict[str, Any]:
    """The options that shape a part."""
    return {"pool_embeddings": "existing"}


class _AdoptUnit(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self, shared: Shared, *, work: str, config: EmbedConfig, machine: Machine, force: bool
    ) -> None:
        self._shared = shared
        self._work = work
        self._config = config
        self._machine = machine
        self._force = force

    def setup(self) -> None:
        """Load the encoder once per process: for its digest and its dimension."""
        device = choose_device(self._machine.device)
        encoder = self._shared.acquire(lambda: ImageEncoder(self._config.encoder, device))
        self._model: dict[str, str] = encoder.info.model_dump()
        self._dimension = dimension_of(encoder)

    def process(self, unit: Unit) -> Iterator[Part]:
        """Check and take over one pair of files, unless that is done."""
        unit = with_items(unit)
        content = unit_fingerprint(unit)
        wanted = fingerprint(POOL, content, self._model["weights_sha256"], adopt_options())
        npy, metadata = (places.join(unit.root, item.path) for item in unit.items)
        part = None if self._force else finished(self._work, POOL, unit.number, wanted)
        if part is None or part.extra["npy"] != npy:
            part = timed(self._work, lambda: self._adopt(unit, npy, metadata, wanted, content))
        publish(POOL, part.counts)
        yield part

    def _adopt(self, unit: Unit, npy: str, metadata: str, wanted: str, content: str) -> Part:
        rows, digest, unusable = check_array(npy, self._dimension, self._model["name"])
        table = read_metadata(metadata)
        if table.num_rows != rows:
            raise UserError(
                f"{npy!r} has {rows:,} rows, but {metadata!r} has {table.num_rows:,}; row i of one "
                f"must be row i of the other: fetch both again."
            )
        tally = Tally(kept=rows - len(unusable))
        for row in unusable:
            key = table.column("image_path")[row].as_py()
            tally.drop(key, BadSample("bad_embedding", f"row {row} has no direction"))
        part = Part(
            POOL,
            unit.number,
            unit.name,
            rows,
            wanted,
            content,
            tally.counts(),
            self._model,
            tally.examples,
            {
                "npy": npy,
                "npy_sha256": digest,
                "dimension": self._dimension,
                "unusable": unusable,
                "options": adopt_options(),
            },
        )
        return write_part(self._work, part, table)


def dimension_of(encoder: ImageEncoder) -> int:
    """The length of an encoder's embeddings."""
    return int(encoder.embed([encoder.prepare(Image.new("RGB", (64, 64)))]).shape[1])


def check_array(place: str, dimension: int, model: str) -> tuple[int, str, list[int]]:
    """Read a .npy of embeddings from end to end, once.

    Args:
        place: of the file.
        dimension: that it must have.
        model: name of the encoder that has it, for the error.

    Returns:
        The number of rows, the file's SHA-256, and the rows that are not finite or of length 0.

    Raises:
        UserError: it is no table of float16 or float32 rows, of another dimension, or cut short.
    """
    with places.open_read(place) as file:
        rows, found, kind = read_npy_header(file, place)
        if found != dimension:
            raise UserError(
                f"{place!r} has embeddings of {found} dimensions, but those of --encoder {model} "
                f"have {dimension}; name the model that made them."
            )
        start = file.tell()
        file.seek(0)
        digest = hashlib.sha256(file.read(start))
        unusable: list[int] = []
        for first in range(0, rows, _BLOCK):
            wanted = min(_BLOCK, rows - first) * dimension * kind.itemsize
            data = file.read(wanted)
            if len(data) < wanted:
                raise UserError(f"{place!r} ends before its {rows:,} rows do; fetch it again.")
            digest.update(data)
            block = np.frombuffer(data, kind).reshape(-1, dimension).astype(np.float64)
            length = np.einsum("nd,nd->n", block, block)
            usable = np.isfinite(length) & (length > 0)
            unusable += (first + np.flatnonzero(~usable)).tolist()
        if file.read(1):
            raise UserError(f"{place!r} goes on after its {rows:,} rows; fetch it again.")
    return rows, digest.hexdigest(), unusable


def read_metadata(place: str) -> pa.Table:
    """The parquet beside a .npy, as a table of schemas.tables.EXISTING_METADATA.

    ``image_path`` is the key of a sample in a tar, or the path of a file; in files of our own it
    is both, with the tar and the key in columns of their own.

    Raises:
        UserError: it has no ``image_path``, one is empty, or it does not read.
    """
    data = places.read_limited(place, METADATA_TIMES * MAX_FILE_BYTES)
    names = known_columns(check_claims(data, place, times=METADATA_TIMES), *_OTHERS)
    if "image_path" not in [name.lower() for name in names]:
        raise UserError(
            f"{place!r} has no image_path, so its images cannot be found; compute the embeddings "
            f"with their metadata."
        )
    tables = [
        pa.Table.from_pylist(
            [_row(lower_case(row), place) for row in batch.to_pylist()], schema=EXISTING_METADATA
        )
        for batch in read_batches(data, place, names, _BLOCK)
    ]
    return pa.concat_tables(tables) if tables else EXISTING_METADATA.empty_table()


def _row(about: dict[str, Any], place: str) -> dict[str, Any]:
    path = about.get("image_path")
    if not path:
        raise UserError(f"{place!r} has a row without image_path; fetch it again.")
    return web_of(about) | {
        "image_path": str(path),
        "caption": caption_of(about),
        "source": about.get("source"),
        "source_key": str(about.get("source_key", path)),
        "width": _pixels(about.get("width")),
        "height": _pixels(about.get("height")),
    }


def _pixels(value: Any) -> int | None:
    sound = isinstance(value, int | float) and 0 < value < 1 << 31
    return int(value) if sound else None
