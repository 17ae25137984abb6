"""Stage 2, embed: finetune images and pool images get the frozen CLIP's image embeddings."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import torch
from apache_beam.utils.shared import Shared
from numpy.typing import NDArray

from pipelines.config import Machine
from pipelines.embedding.encoder import ImageEncoder
from pipelines.embedding.options import EmbedConfig
from pipelines.inference import leaves_cores
from pipelines.loading import load_once
from pipelines.parts import Part, array_place, fingerprint, finished, write_part
from pipelines.reading import publish, read_unit, unit_fingerprint
from pipelines.watching.timing import timed
from schemas.errors import BadSample
from schemas.tables import EMBEDDING_METADATA
from shards import places
from shards.decoding import Decoded, Tally, decoded_batches
from shards.sources import Unit

FINETUNE = "embed-finetune"
POOL = "embed-pool"


class Embed(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Unit] -> PCollection[Part]``: one .npy and one parquet per unit.

    Rows of the .npy are float16 [N, D] of unit length; row i of the parquet describes row i.

    Args:
        stage: FINETUNE or POOL.
        work: the work folder.
        classes: class names by index of a labelled source, else None.
        config: the encoder, and how it is run.
        machine: where and how wide it runs.
        force: redo parts that are finished.
    """

    def __init__(
        self,
        stage: str,
        *,
        work: str,
        classes: list[str] | None,
        config: EmbedConfig,
        machine: Machine,
        force: bool,
    ) -> None:
        super().__init__()
        self._do = _EmbedUnit(
            Shared(),
            stage=stage,
            work=work,
            classes=classes,
            config=config,
            machine=machine,
            force=force,
        )

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[Part]:
        """See the class."""
        return units | beam.Reshuffle() | beam.ParDo(self._do)


def embed_options(config: EmbedConfig, classes: list[str] | None) -> dict[str, Any]:
    """The options that shape a part of embeddings."""
    return config.recorded() | {"classes": fingerprint(*(classes or []))}


class _EmbedUnit(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self,
        shared: Shared,
        *,
        stage: str,
        work: str,
        classes: list[str] | None,
        config: EmbedConfig,
        machine: Machine,
        force: bool,
    ) -> None:
        self._shared = shared
        self._stage = stage
        self._work = work
        self._classes = classes
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
        """Embed one unit, unless that is done."""
        content = unit_fingerprint(unit)
        model = self._encoder.info.model_dump()
        options = embed_options(self._config, self._classes)
        wanted = fingerprint(self._stage, content, model["weights_sha256"], options)
        part = None if self._force else finished(self._work, self._stage, unit.number, wanted)
        if part is not None and part.extra["npy_sha256"] != _npy_sha256(
            self._work, self._stage, unit.number
        ):
            part = None
        if part is None:
            part = timed(self._work, lambda: self._embed(unit, wanted, content, model, options))
        publish(self._stage, part.counts)
        yield part

    def _embed(
        self,
        unit: Unit,
        wanted: str,
        content: str,
        model: dict[str, str],
        options: dict[str, Any],
    ) -> Part:
        tally = Tally()
        rows: list[dict[str, Any]] = []
        blocks: list[NDArray[np.float16]] = []
        samples = read_unit(unit, tally, None if self._classes is None else len(self._classes))
        batches = decoded_batches(
            samples,
            self._encoder.prepare,
            tally,
            batch=self._config.batch,
            threads=self._machine.decode_threads,
            overlap=leaves_cores(self._encoder.device),
        )
        for batch in batches:
            embeddings = self._encoder.embed([item.prepared for item in batch])
            finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(embeddings), axis=1)
            for item, good in zip(batch, finite, strict=True):
                if good:
                    rows.append(self._row(item))
                else:
                    problem = BadSample("bad_embedding", "the encoder gave a value not finite")
                    tally.drop(item.sample.source_key, problem)
            blocks.append(embeddings[finite])
        matrix = np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float16)
        digest = write_array(array_place(self._work, self._stage, unit.number), matrix)
        tally.kept = len(rows)
        part = Part(
            self._stage,
            unit.number,
            unit.name,
            len(rows),
            wanted,
            content,
            tally.counts(),
            model,
            tally.examples,
            {"npy_sha256": digest, "dimension": int(matrix.shape[1]), "options": options}
            | {"noted": dict(tally.noted)},
        )
        table = pa.Table.from_pylist(rows, schema=EMBEDDING_METADATA)
        # The parquet goes last: it is what marks the pair as finished.
        return write_part(self._work, part, table)

    def _row(self, item: Decoded[torch.Tensor]) -> dict[str, Any]:
        sample = item.sample
        index = sample.class_index
        return (
            item.where()
            | sample.web
            | {
                "image_path": f"{sample.source}#{sample.source_key}",
                "caption": sample.text,
                "class_index": index,
                "class_name": None if index is None or not self._classes else self._classes[index],
            }
        )


def write_array(place: str, matrix: NDArray[Any]) -> str:
    """Write a .npy atomically; returns its SHA-256."""
    buffer = io.BytesIO()
    np.save(buffer, matrix, allow_pickle=False)
    data = buffer.getvalue()
    places.write_bytes(place, data)
    return hashlib.sha256(data).hexdigest()


def _npy_sha256(work: str, stage: str, number: int) -> str | None:
    place = array_place(work, stage, number)
    return places.sha256_file(place)[0] if places.exists(place) else None
