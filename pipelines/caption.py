"""Stage 1, caption: every finetune image gets the captioner's texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import apache_beam as beam
import pyarrow as pa
import torch
from apache_beam.utils.shared import Shared

from pipelines.captioner import BlipCaptioner, Captioner, Decoding
from pipelines.encoder import choose_device
from pipelines.parts import Part, fingerprint, finished, write_part
from pipelines.reading import publish, read_unit, unit_fingerprint
from schemas.errors import BadSample
from schemas.tables import CAPTIONS
from shards.decoding import Tally, decoded_batches
from shards.sources import Unit

STAGE = "caption"


class Caption(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Unit] -> PCollection[Part]``: one parquet of captions per unit.

    Args:
        work: the work folder.
        classes: class names by index.
        captioner: Hub id or folder.
        decoding: how to decode.
        batch: images per forward pass.
        device, model_threads, decode_threads: where and how wide it runs.
        force: redo parts that are finished.
    """

    def __init__(
        self,
        *,
        work: str,
        classes: list[str],
        captioner: str,
        decoding: Decoding,
        batch: int,
        device: str,
        model_threads: int,
        decode_threads: int,
        force: bool,
    ) -> None:
        super().__init__()
        self._arguments: dict[str, Any] = {
            "work": work,
            "classes": classes,
            "captioner": captioner,
            "decoding": decoding,
            "batch": batch,
            "device": device,
            "model_threads": model_threads,
            "decode_threads": decode_threads,
            "force": force,
        }

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[Part]:
        """See the class."""
        # Reshuffle lets a runner spread the units; they are references, so it moves no images.
        return units | beam.Reshuffle() | beam.ParDo(_CaptionUnit(Shared(), **self._arguments))


def caption_options(decoding: Decoding, batch: int, classes: list[str]) -> dict[str, Any]:
    """The options that shape a part of captions."""
    return {"decoding": asdict(decoding), "caption_batch": batch, "classes": fingerprint(*classes)}


class _CaptionUnit(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self,
        shared: Shared,
        *,
        work: str,
        classes: list[str],
        captioner: str,
        decoding: Decoding,
        batch: int,
        device: str,
        model_threads: int,
        decode_threads: int,
        force: bool,
    ) -> None:
        self._shared = shared
        self._work = work
        self._classes = classes
        self._spec = captioner
        self._decoding = decoding
        self._batch = batch
        self._device = device
        self._model_threads = model_threads
        self._decode_threads = decode_threads
        self._force = force

    def setup(self) -> None:
        """Load the captioner once per process; threads share it."""
        if self._model_threads:
            torch.set_num_threads(self._model_threads)
        device = choose_device(self._device)
        self._captioner: Captioner = self._shared.acquire(
            lambda: BlipCaptioner(self._spec, self._decoding, device)
        )

    def process(self, unit: Unit) -> Iterator[Part]:
        """Caption one unit, unless that is done."""
        content = unit_fingerprint(unit)
        model = self._captioner.info.model_dump()
        options = caption_options(self._decoding, self._batch, self._classes)
        wanted = fingerprint(STAGE, content, model["weights_sha256"], options)
        part = None if self._force else finished(self._work, STAGE, unit.number, wanted)
        if part is None:
            part = self._caption(unit, wanted, content, model, options)
        publish(STAGE, part.counts)
        yield part

    def _caption(
        self,
        unit: Unit,
        wanted: str,
        content: str,
        model: dict[str, str],
        options: dict[str, Any],
    ) -> Part:
        tally = Tally()
        rows: list[dict[str, Any]] = []
        samples = read_unit(unit, tally, len(self._classes))
        batches = decoded_batches(
            samples,
            self._captioner.prepare,
            tally,
            batch=self._batch,
            threads=self._decode_threads,
        )
        for number, batch in enumerate(batches):
            seed = int(fingerprint(self._decoding.seed, unit.number, number)[:8], 16)
            texts = self._captioner.caption([item.prepared for item in batch], seed)
            for item, captions in zip(batch, texts, strict=True):
                kept = list(dict.fromkeys(text for text in captions if text))
                if not kept:
                    key = item.sample.source_key
                    tally.drop(key, BadSample("empty_caption", "the captioner wrote nothing"))
                    continue
                index = item.sample.class_index
                assert index is not None
                name = self._classes[index]
                rows.append(
                    item.where() | {"class_index": index, "class_name": name, "texts": kept}
                )
        tally.kept = len(rows)
        part = Part(
            STAGE,
            unit.number,
            unit.name,
            len(rows),
            wanted,
            content,
            tally.counts(),
            model,
            tally.examples,
            {"options": options},
        )
        return write_part(self._work, part, pa.Table.from_pylist(rows, schema=CAPTIONS))
