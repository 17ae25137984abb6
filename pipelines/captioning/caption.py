"""Stage 1, caption: every finetune image gets the captioner's texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import torch
from apache_beam.utils.shared import Shared

from pipelines.captioning.buckets import bucketed
from pipelines.captioning.captioner import Captioner, TransformersCaptioner
from pipelines.captioning.options import CaptionConfig
from pipelines.config import Machine
from pipelines.inference import leaves_cores
from pipelines.loading import load_once
from pipelines.parts import Part, fingerprint, finished, write_part
from pipelines.reading import publish, read_unit, unit_fingerprint
from pipelines.watching.timing import timed
from schemas.errors import BadSample
from schemas.tables import CAPTIONS
from shards.decoding import Decoded, Tally, decoded_batches
from shards.sources import Unit

STAGE = "caption"
_HELD = 8
"""Batches of images that wait, at most, for others whose prompts are as long as theirs."""


class Caption(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Unit] -> PCollection[Part]``: one parquet of captions per unit.

    Args:
        work: the work folder.
        classes: class names by index.
        config: what writes the captions, and how.
        machine: where and how wide it runs.
        force: redo parts that are finished.
    """

    def __init__(
        self,
        *,
        work: str,
        classes: list[str],
        config: CaptionConfig,
        machine: Machine,
        force: bool,
    ) -> None:
        super().__init__()
        self._do = _CaptionUnit(
            Shared(), work=work, classes=classes, config=config, machine=machine, force=force
        )

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[Part]:
        """See the class."""
        # Reshuffle lets a runner spread the units; they are references, so it moves no images.
        return units | beam.Reshuffle() | beam.ParDo(self._do)


def caption_options(config: CaptionConfig, classes: list[str]) -> dict[str, Any]:
    """The options that shape a part of captions."""
    return config.recorded() | {"classes": fingerprint(*classes)}


class _CaptionUnit(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self,
        shared: Shared,
        *,
        work: str,
        classes: list[str],
        config: CaptionConfig,
        machine: Machine,
        force: bool,
    ) -> None:
        self._shared = shared
        self._work = work
        self._classes = classes
        self._config = config
        self._machine = machine
        self._force = force

    def setup(self) -> None:
        """Load the captioner once per process; threads share it."""
        config, decoding = self._config, self._config.decoding
        self._captioner: Captioner = load_once(
            self._shared,
            self._machine,
            config.precision,
            lambda device: TransformersCaptioner(
                config.captioner, decoding, device, config.precision
            ),
        )
        self._starts = [self._captioner.start(decoding.prompt_for(name)) for name in self._classes]

    def process(self, unit: Unit) -> Iterator[Part]:
        """Caption one unit, unless that is done."""
        content = unit_fingerprint(unit)
        model = self._captioner.info.model_dump()
        options = caption_options(self._config, self._classes)
        wanted = fingerprint(STAGE, content, model["weights_sha256"], options)
        part = None if self._force else finished(self._work, STAGE, unit.number, wanted)
        if part is None:
            part = timed(self._work, lambda: self._caption(unit, wanted, content, model, options))
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
        rows: list[tuple[int, dict[str, Any]]] = []
        samples = read_unit(unit, tally, len(self._classes))
        batches = decoded_batches(
            samples,
            self._captioner.prepare,
            tally,
            batch=self._config.batch,
            threads=self._machine.decode_threads,
            overlap=leaves_cores(self._captioner.device),
        )
        numbered = enumerate(item for batch in batches for item in batch)
        # Prompts that name the class are of several lengths; each batch is of one.
        size = self._config.batch
        for batch in bucketed(numbered, self._start_length, batch=size, hold=_HELD * size):
            items = [item for _, item in batch]
            texts = self._captioner.caption(
                [item.prepared for item in items],
                [self._starts[_class_of(item)] for item in items],
                [self._draw(item) for item in items],
            )
            for (number, item), captions in zip(batch, texts, strict=True):
                kept = list(dict.fromkeys(text for text in captions if text))
                if not kept:
                    key = item.sample.source_key
                    tally.drop(key, BadSample("empty_caption", "the captioner wrote nothing"))
                    continue
                index = _class_of(item)
                about = {"class_index": index, "class_name": self._classes[index], "texts": kept}
                rows.append((number, item.where() | about))
        rows.sort(key=lambda row: row[0])
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
        table = pa.Table.from_pylist([row for _, row in rows], schema=CAPTIONS)
        return write_part(self._work, part, table)

    def _start_length(self, numbered: tuple[int, Decoded[torch.Tensor]]) -> int:
        return len(self._starts[_class_of(numbered[1])])

    def _draw(self, item: Decoded[torch.Tensor]) -> int:
        """Of the seed and the image, so that what is drawn depends on no other image."""
        sample = item.sample
        text = fingerprint(self._config.decoding.seed, sample.source, sample.source_key)
        return int(text[:16], 16)


def _class_of(item: Decoded[torch.Tensor]) -> int:
    index = item.sample.class_index
    assert index is not None  # read_unit counts the classes of a labelled source
    return index
