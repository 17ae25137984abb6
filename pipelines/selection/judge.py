"""The first step of select: what can be told of a pool part's retrieved pairs without the others.

Minimum score, copies of evaluation images, near-duplicates of finetune images, and whether image
and text fit. It leaves a part per pool part, so that the costly looks are not repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared

from pipelines.config import Machine
from pipelines.embedding import embed
from pipelines.embedding.encoder import TextEncoder
from pipelines.embedding.metadata import pool_rows, rows_fingerprint
from pipelines.embedding.options import EmbedConfig
from pipelines.embedding.vectors import Vectors
from pipelines.loading import load_once
from pipelines.parts import Part, fingerprint, finished, read_table, required_part, write_part
from pipelines.selection.contamination import EvaluationImages
from pipelines.selection.copies import thumbnail
from pipelines.selection.fit import text_scores
from pipelines.selection.options import SelectConfig
from pipelines.selection.texts import clean_text
from pipelines.selection.union import Retrieved, Union, united
from pipelines.selection.verdicts import Entry
from pipelines.watching.timing import timed
from schemas.errors import BadSample, UserError
from schemas.manifest import Counts
from schemas.tables import JUDGED
from shards import places
from shards.images import decode_image
from shards.reader import RangeReader

STAGE = "judge"


@dataclass(frozen=True)
class JudgeSetup:
    """What judging takes, as workers get it.

    Attributes:
        work: the work folder.
        root: of the pool's sources.
        config: what is kept.
        embedding: the encoder.
        machine: where it runs.
        force: redo parts that are finished.
    """

    work: str
    root: str
    config: SelectConfig
    embedding: EmbedConfig
    machine: Machine
    force: bool


class Judge(beam.DoFn):  # type: ignore[misc]
    """``(number of a pool part, its unions) -> Part``; the side input lists evaluation parts."""

    def __init__(self, setup: JudgeSetup) -> None:
        self._setup = setup
        self._shared_texts = Shared()
        self._shared_images = Shared()

    def setup(self) -> None:
        """Load the text tower, if texts are looked at, once per process."""
        embedding = self._setup.embedding
        self._texts: TextEncoder | None = None
        if self._setup.config.min_clip_score > -1:
            self._texts = load_once(
                self._shared_texts,
                self._setup.machine,
                embedding.precision,
                lambda device: TextEncoder(embedding.encoder, device, embedding.precision),
            )

    def process(self, group: tuple[int, Iterable[Union]], evaluation: list[Part]) -> Iterator[Part]:
        """Judge one pool part, unless that is done."""
        number, unions = group
        work, config = self._setup.work, self._setup.config
        pool = required_part(work, embed.POOL, number)
        _check_encoders(pool, evaluation)
        kept, low = united(unions, config.min_score)
        # Not the quota, which comes later and may change without looking at images again.
        options = {name: v for name, v in config.recorded().items() if name != "max_per_class"}
        texts = self._texts.info.weights_sha256 if self._texts else None
        known = [part.fingerprint for part in evaluation]
        wanted = fingerprint(STAGE, rows_fingerprint(work, pool), options, known, texts)
        wanted = fingerprint(wanted, _digest(kept), _digest(low))
        part = None if self._setup.force else finished(work, STAGE, number, wanted)
        if part is None:
            images = None
            if evaluation:
                images = self._shared_images.acquire(
                    lambda: EvaluationImages(work, evaluation), tag=fingerprint(known)
                )
            part = timed(work, lambda: self._judge(pool, kept, low, images, wanted))
        yield part

    def _judge(
        self,
        pool: Part,
        kept: list[Retrieved],
        low: list[Retrieved],
        images: EvaluationImages | None,
        wanted: str,
    ) -> Part:
        work, config = self._setup.work, self._setup.config
        problems = {found.row: BadSample("low_score", f"{found.score:.4f}") for found in low}
        every = {found.row: found for found in kept + low}
        pairs = pool_rows(work, pool, sorted(every)).to_pylist()
        rows = [_row(pair, every[pair["row"]]) for pair in pairs]
        if images is not None:
            problems |= self._copies(pool, [r for r in rows if r["row"] not in problems], images)
        if config.near_duplicates is not None:
            for row in rows:
                if row["row"] not in problems and row["score"] >= config.near_duplicates:
                    detail = f"cosine {row['score']:.4f} with a finetune image"
                    problems[row["row"]] = BadSample("finetune_near_duplicate", detail)
        if self._texts is not None:
            left = [row for row in rows if row["row"] not in problems]
            problems |= self._unfitting(pool, left, self._texts)
        for row in rows:
            problem = problems.get(row["row"])
            row |= {
                "reason": problem.reason if problem else None,
                "detail": problem.detail if problem else None,
            }
        counts = Counts(read=len(rows), kept=len(rows))
        content = pool.input_fingerprint
        part = Part(STAGE, pool.number, pool.name, len(rows), wanted, content, counts)
        return write_part(work, part, pa.Table.from_pylist(rows, schema=JUDGED))

    def _copies(
        self, pool: Part, rows: list[dict[str, Any]], images: EvaluationImages
    ) -> dict[int, BadSample]:
        """Rows that are copies of evaluation images."""
        found: dict[int, BadSample] = {}
        for row in rows:
            if (match := images.same_file(row["image_sha256"])) is not None:
                found[row["row"]] = BadSample("evaluation_copy", f"is {match.name}")
        rows = [row for row in rows if row["row"] not in found]
        if not rows:
            return found
        numbers = np.array([row["row"] for row in rows], np.int64)
        proposals = images.proposals(Vectors(self._setup.work, pool).take(numbers))
        with RangeReader() as reader:
            for row, proposed in zip(rows, proposals, strict=True):
                if not proposed:
                    continue
                place = places.join(self._setup.root, row["source"])
                try:
                    image, _ = decode_image(reader.read(place, row["offset"], row["size"]))
                except BadSample as problem:
                    raise UserError(
                        f"{row['source_key']} in {row['source']!r} changed while the set was "
                        f"built ({problem.reason}); run the build again."
                    ) from None
                if match := images.copy_among(proposed, thumbnail(image)):
                    detail = f"like {match.name} ({match.likeness:.4f})"
                    found[row["row"]] = BadSample("evaluation_copy", detail)
        return found

    def _unfitting(
        self, pool: Part, rows: list[dict[str, Any]], encoder: TextEncoder
    ) -> dict[int, BadSample]:
        """Give rows their clip_score; those whose text fits too little."""
        if not rows:
            return {}
        numbers = np.array([row["row"] for row in rows], np.int64)
        vectors = Vectors(self._setup.work, pool).take(numbers)
        scores = text_scores(encoder, [row["texts"][0] for row in rows], vectors)
        found: dict[int, BadSample] = {}
        for row, cosine in zip(rows, scores, strict=True):
            row["clip_score"] = cosine
            if row["clip_score"] < self._setup.config.min_clip_score:
                found[row["row"]] = BadSample("low_clip_score", f"{row['clip_score']:.4f}")
        return found


def _row(pair: dict[str, Any], found: Retrieved) -> dict[str, Any]:
    """A row of schemas.tables.JUDGED, not judged yet."""
    return pair | {
        "texts": [clean_text(pair["caption"])],
        "score": found.score,
        "rank": found.rank,
        "query_count": found.query_count,
        "query_classes": [name for name, _ in found.class_scores],
        "class_scores": [score for _, score in found.class_scores],
        "clip_score": None,
    }


def _digest(found: list[Retrieved]) -> str:
    digest = hashlib.sha256()
    for one in found:
        digest.update(repr((one.row, one.score, one.rank, one.query_count)).encode())
        digest.update(repr(one.class_scores).encode())
    return digest.hexdigest()


def _check_encoders(pool: Part, evaluation: list[Part]) -> None:
    for part in evaluation:
        both = part.rows and pool.rows
        other = pool.model and part.model and pool.model != part.model
        if both and (other or pool.extra["dimension"] != part.extra["dimension"]):
            raise UserError(
                "the embeddings of pool and evaluation images are of different encoders; run the "
                "embed stage again for both with one --encoder."
            )


def entries(part: Part, work: str) -> Iterator[Entry]:
    """The candidates that a judged part still holds."""
    table = read_table(work, part)
    about = ("row", "score", "image_sha256", "source", "source_key", "reason")
    for row in table.select([*about, "query_classes", "class_scores"]).to_pylist():
        if row["reason"] is None:
            scores = tuple(zip(row["query_classes"], row["class_scores"], strict=True))
            name = f"{row['source']} {row['source_key']}"
            yield Entry(part.number, row["row"], row["score"], row["image_sha256"], name, scores)
