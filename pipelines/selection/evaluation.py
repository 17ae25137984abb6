"""Images of evaluation sets, made ready to find copies of them: embedded, mirrored too, and small.

Each place of ``--evaluation`` is a stage of its own, ``embed-evaluation-NNNNN``. For N images of a
unit it leaves a parquet of N rows, a .npy of 2N embeddings, those of the images and then those of
their mirror images, which most encoders tell apart, and a .npy of N thumbnails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import torch
from apache_beam.utils.shared import Shared
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipelines.config import Machine
from pipelines.embedding.embed import write_array
from pipelines.embedding.encoder import ImageEncoder
from pipelines.embedding.options import EmbedConfig
from pipelines.embedding.vectors import check_sha256
from pipelines.inference import leaves_cores
from pipelines.loading import load_once
from pipelines.parts import Part, array_place, fingerprint, finished, write_part
from pipelines.reading import publish, read_unit, unit_fingerprint
from pipelines.selection.copies import SIDE, Thumbnail, thumbnail
from pipelines.watching.timing import timed
from schemas.errors import BadSample, UserError
from schemas.tables import EMBEDDING_METADATA
from shards import places
from shards.decoding import Decoded, Tally, decoded_batches
from shards.sources import Unit

_FOLDER = "embed-evaluation-"


class Prepared(NamedTuple):
    """What is wanted of an image: what the encoder takes, of both ways, and the thumbnail."""

    image: torch.Tensor
    mirrored: torch.Tensor
    small: Thumbnail


def stage_name(number: int) -> str:
    """The stage of one place of ``--evaluation``."""
    return f"{_FOLDER}{number:05d}"


def is_evaluation(stage: str) -> bool:
    """True of what stage_name gives."""
    return stage.startswith(_FOLDER)


def thumbnails_place(work: str, part: Part) -> str:
    """Where the thumbnails of a part lie: uint8 [N, SIDE, SIDE, 3]."""
    folder = places.join(work, "embeddings", part.stage.removeprefix("embed-"), "thumbnails")
    return places.join(folder, f"thumbnails_{part.number:05d}.npy")


def evaluation_options(config: EmbedConfig) -> dict[str, Any]:
    """The options that shape a part."""
    return config.recorded() | {"thumbnail": SIDE}


class EmbedEvaluation(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Unit] -> PCollection[Part]``: what it takes to find copies of the images.

    Args:
        number: of the place.
        work: the work folder.
        config: the encoder, and how it is run.
        machine: where and how wide it runs.
        force: redo parts that are finished.
    """

    def __init__(
        self, number: int, *, work: str, config: EmbedConfig, machine: Machine, force: bool
    ) -> None:
        super().__init__()
        self._do = _EvaluationUnit(Shared(), stage_name(number), work, config, machine, force)

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[Part]:
        """See the class."""
        return units | beam.Reshuffle() | beam.ParDo(self._do)


class _EvaluationUnit(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self,
        shared: Shared,
        stage: str,
        work: str,
        config: EmbedConfig,
        machine: Machine,
        force: bool,
    ) -> None:
        self._shared = shared
        self._stage = stage
        self._work = work
        self._config = config
        self._machine = machine
        self._force = force

    def setup(self) -> None:
        """Load the encoder once per process; threads share it."""
        config = self._config
        self._encoder = load_once(
            self._shared,
            self._machine,
            config.precision,
            lambda device: ImageEncoder(config.encoder, device, config.precision),
        )

    def process(self, unit: Unit) -> Iterator[Part]:
        """Make one unit ready, unless that is done."""
        part = embed_unit(
            unit,
            self._stage,
            self._work,
            self._encoder,
            self._config,
            self._machine,
            force=self._force,
        )
        publish(self._stage, part.counts)
        yield part


def embed_unit(
    unit: Unit,
    stage: str,
    work: str,
    encoder: ImageEncoder,
    config: EmbedConfig,
    machine: Machine,
    *,
    force: bool = False,
) -> Part:
    """Make the images of one unit ready, unless that is done."""
    content = unit_fingerprint(unit)
    model = encoder.info.model_dump()
    options = evaluation_options(config)
    wanted = fingerprint(stage, content, model["weights_sha256"], options)
    part = None if force else finished(work, stage, unit.number, wanted)
    if part is not None and _is_whole(work, part):
        return part

    def make() -> Part:
        tally = Tally()
        rows, vectors, thumbnails = _read(unit, encoder, config, machine, tally)
        extra = {
            "npy_sha256": write_array(array_place(work, stage, unit.number), vectors),
            "dimension": int(vectors.shape[1]),
            "options": options,
        }
        about = (tally.counts(), model, tally.examples, extra)
        part = Part(stage, unit.number, unit.name, len(rows), wanted, content, *about)
        extra["thumbnails_sha256"] = write_array(thumbnails_place(work, part), thumbnails)
        # The parquet goes last: it is what marks the part as finished.
        return write_part(work, part, pa.Table.from_pylist(rows, schema=EMBEDDING_METADATA))

    return timed(work, make)


def _read(
    unit: Unit, encoder: ImageEncoder, config: EmbedConfig, machine: Machine, tally: Tally
) -> tuple[list[dict[str, Any]], NDArray[np.float16], NDArray[np.uint8]]:
    """Metadata of N images, their embeddings [2N, D] and thumbnails [N, SIDE, SIDE, 3]."""

    def prepare(image: Image.Image) -> Prepared:
        mirrored = encoder.prepare(ImageOps.mirror(image))
        return Prepared(encoder.prepare(image), mirrored, thumbnail(image))

    rows: list[dict[str, Any]] = []
    plain: list[NDArray[np.float16]] = []
    mirrored: list[NDArray[np.float16]] = []
    small: list[Thumbnail] = []
    batches = decoded_batches(
        read_unit(unit, tally, None),
        prepare,
        tally,
        batch=config.batch,
        threads=machine.decode_threads,
        overlap=leaves_cores(encoder.device),
    )
    for batch in batches:
        ways = (
            encoder.embed([item.prepared.image for item in batch]),
            encoder.embed([item.prepared.mirrored for item in batch]),
        )
        finite: NDArray[np.bool_] = np.logical_and.reduce(
            np.isfinite(np.concatenate(ways, axis=1)), axis=1
        )
        for item, good in zip(batch, finite, strict=True):
            if good:
                rows.append(_row(item))
                small.append(item.prepared.small)
            else:
                problem = BadSample("bad_embedding", "the encoder gave a value not finite")
                tally.drop(item.sample.source_key, problem)
        plain.append(ways[0][finite])
        mirrored.append(ways[1][finite])
    tally.kept = len(rows)
    if not rows:
        return rows, np.zeros((0, 0), np.float16), np.zeros((0, SIDE, SIDE, 3), np.uint8)
    return rows, np.concatenate([*plain, *mirrored]), np.stack(small)


def _row(item: Decoded[Prepared]) -> dict[str, Any]:
    path = f"{item.sample.source}#{item.sample.source_key}"
    return item.where() | {"image_path": path, "caption": None}


def _is_whole(work: str, part: Part) -> bool:
    try:
        check_sha256(array_place(work, part.stage, part.number), part.extra["npy_sha256"])
        check_sha256(thumbnails_place(work, part), part.extra["thumbnails_sha256"])
    except (UserError, OSError):
        return False
    return True
