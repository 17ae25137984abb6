"""Captions against their images: each is scored by the encoder, and those that fit too little go.

Two steps, so that another floor asks the encoder nothing. ``score-captions`` leaves the cosine of
every caption; ``select-captions`` puts an image's captions best first and drops those below the
floor. An image none of whose captions is left is no anchor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared

from pipelines.config import Machine
from pipelines.embedding.encoder import TextEncoder
from pipelines.embedding.options import EmbedConfig
from pipelines.embedding.vectors import Vectors
from pipelines.loading import load_once
from pipelines.parts import Part, fingerprint, finished, read_table, write_part
from pipelines.reading import publish
from pipelines.selection.caption_options import CaptionScoreConfig
from pipelines.selection.fit import text_scores
from pipelines.selection.rejected import rejected_place, rejected_row, write_rejected
from pipelines.watching.timing import timed
from schemas.errors import BadSample, UserError
from schemas.manifest import Counts
from schemas.tables import SCORED_CAPTIONS, SELECTED_CAPTIONS
from shards import places
from shards.decoding import Tally

SCORES = "score-captions"
STAGE = "select-captions"
WITHOUT = "images_without_caption"
"""What a part of STAGE notes: images that have lost all of their captions."""


class SelectCaptions(beam.PTransform):  # type: ignore[misc]
    """``(captions, finetune embeddings) -> PCollection[Part]`` of captions that stay.

    Both inputs are PCollections of parts that were made from the same units.

    Args:
        work: the work folder.
        config: which captions stay.
        embedding: the encoder.
        machine: where it runs.
        force: redo parts that are finished.
    """

    def __init__(
        self,
        *,
        work: str,
        config: CaptionScoreConfig,
        embedding: EmbedConfig,
        machine: Machine,
        force: bool,
    ) -> None:
        super().__init__()
        self._work = work
        self._config = config
        self._force = force
        self._score = _ScoreCaptions(Shared(), work, embedding, machine, force)

    def expand(
        self, inputs: tuple[beam.PCollection[Part], beam.PCollection[Part]]
    ) -> beam.PCollection[Part]:
        """See the class."""
        captions, images = inputs
        return (
            {
                "captions": captions | "CaptionsByUnit" >> beam.Map(_by_unit),
                "images": images | "ImagesByUnit" >> beam.Map(_by_unit),
            }
            | "Meet" >> beam.CoGroupByKey()
            | "Score" >> beam.ParDo(self._score)
            | "Floor" >> beam.Map(select_captions, self._work, self._config, self._force)
        )


def caption_select_options(config: CaptionScoreConfig) -> dict[str, Any]:
    """The options that shape a part of captions that stay."""
    return {"min_caption_score": None} | config.recorded()


def _by_unit(part: Part) -> tuple[int, Part]:
    return part.number, part


class _ScoreCaptions(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self, shared: Shared, work: str, embedding: EmbedConfig, machine: Machine, force: bool
    ) -> None:
        self._shared = shared
        self._work = work
        self._embedding = embedding
        self._machine = machine
        self._force = force

    def process(self, group: tuple[int, dict[str, Iterable[Part]]]) -> Iterator[Part]:
        """Score the captions of one unit, unless that is done."""
        number, found = group
        (captions,), (images,) = found["captions"], found["images"]
        if captions.input_fingerprint != images.input_fingerprint:
            raise UserError(
                f"{captions.name} was captioned and embedded in different states: the finetune "
                f"images changed in between; run the caption and embed stages again."
            )
        rows = read_table(self._work, captions).to_pylist()
        wanted = fingerprint(SCORES, images.fingerprint, images.extra["npy_sha256"], rows)
        part = None if self._force else finished(self._work, SCORES, number, wanted)
        yield part or timed(self._work, lambda: self._score(captions, images, rows, wanted))

    def _score(self, captions: Part, images: Part, rows: list[dict[str, Any]], wanted: str) -> Part:
        held = self._rows_of_images(images)
        known = [row for row in rows if _place_of(row) in held]
        texts = [text for row in known for text in row["texts"]]
        scores: list[float] = []
        if texts:
            lines = np.array([held[_place_of(row)] for row in known for _ in row["texts"]])
            numbers, where = np.unique(lines, return_inverse=True)
            vectors = Vectors(self._work, images).take(numbers)[where]
            scores = text_scores(self._encoder(images), texts, vectors)
        left = iter(scores)
        for row in rows:  # an image that the encoder could not embed has no scores
            embedded = _place_of(row) in held
            row["clip_scores"] = [next(left) for _ in row["texts"]] if embedded else None
        number = sum(len(row["texts"]) for row in rows)
        part = Part(
            SCORES,
            captions.number,
            captions.name,
            len(rows),
            wanted,
            captions.input_fingerprint,
            Counts(read=number, kept=number),
            images.model,
        )
        return write_part(self._work, part, pa.Table.from_pylist(rows, schema=SCORED_CAPTIONS))

    def _rows_of_images(self, images: Part) -> dict[tuple[str, str], int]:
        """Place of each embedded image to the row of its embedding."""
        table = read_table(self._work, images, ["source", "source_key"])
        return {_place_of(row): number for number, row in enumerate(table.to_pylist())}

    def _encoder(self, images: Part) -> TextEncoder:
        """The text tower, loaded for the first unit that is not scored yet.

        Raises:
            UserError: it is not of the model that embedded the images.
        """
        config = self._embedding
        encoder = load_once(
            self._shared,
            self._machine,
            config.precision,
            lambda device: TextEncoder(config.encoder, device, config.precision),
        )
        if images.model != encoder.info.model_dump():
            raise UserError(
                f"the finetune images were embedded by another model than --encoder "
                f"{encoder.info.name}; run the embed stage again."
            )
        return encoder


def _place_of(row: dict[str, Any]) -> tuple[str, str]:
    return row["source"], row["source_key"]


def select_captions(scored: Part, work: str, config: CaptionScoreConfig, force: bool) -> Part:
    """Choose among the captions of one unit, unless that is done."""
    options = caption_select_options(config)
    wanted = fingerprint(STAGE, scored.fingerprint, options)
    part = None if force else finished(work, STAGE, scored.number, wanted)
    if part is None or not places.exists(rejected_place(work, STAGE, scored.number)):
        part = timed(work, lambda: _select(scored, work, config, wanted, options))
    publish(STAGE, part.counts)
    return part


def _select(
    scored: Part, work: str, config: CaptionScoreConfig, wanted: str, options: dict[str, Any]
) -> Part:
    tally = Tally()
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    table = read_table(work, scored)
    for row in table.to_pylist():
        kept: list[tuple[float, str]] = []
        for score, text in _best_first(row):
            problem = _problem(score, config)
            if score is not None and problem is None:
                kept.append((score, text))
                continue
            assert problem is not None
            tally.drop(row["source_key"], problem)
            rejected.append(rejected_row(STAGE, row | {"caption": text}, problem))
        tally.kept += len(kept)
        if kept:
            rows.append(row | {"texts": [text for _, text in kept], "clip_score": kept[0][0]})
    write_rejected(work, STAGE, scored.number, rejected)
    lost = table.num_rows - len(rows)
    part = Part(
        STAGE,
        scored.number,
        scored.name,
        len(rows),
        wanted,
        scored.input_fingerprint,
        tally.counts(),
        scored.model,
        tally.examples,
        {"options": options} | ({"noted": {WITHOUT: lost}} if lost else {}),
    )
    return write_part(work, part, pa.Table.from_pylist(rows, schema=SELECTED_CAPTIONS))


def _best_first(row: dict[str, Any]) -> list[tuple[float | None, str]]:
    """Scores and texts of an image; of equal scores the one that was written first."""
    if row["clip_scores"] is None:
        return [(None, text) for text in row["texts"]]
    both = zip(row["clip_scores"], row["texts"], strict=True)
    return sorted(both, key=lambda one: -one[0])


def _problem(score: float | None, config: CaptionScoreConfig) -> BadSample | None:
    if score is None:
        return BadSample("bad_embedding", "its image could not be embedded")
    if config.minimum is not None and score < config.minimum:
        return BadSample("low_caption_score", f"{score:.4f}")
    return None
