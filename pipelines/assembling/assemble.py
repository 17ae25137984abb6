"""Stage 6, assemble: candidates of both kinds, cut into shards, and the manifest last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from pipelines.candidates import CANDIDATE_STAGE, candidate_table
from pipelines.parts import Part, fingerprint, finished, read_table, required_part, write_part
from pipelines.reading import publish
from pipelines.watching.timing import stopwatch
from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME, Counts, ShardEntry
from schemas.record import TEXT_COMPENSATED, AnchorRecord, Kind, anchor_key
from schemas.tables import WEB_FIELDS
from shards import places
from shards.reader import RangeReader
from shards.writer import write_shard


class TextCompensated(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Part] of captions -> PCollection[Part] of candidates``.

    Args:
        work: the work folder.
        force: redo parts that are finished.
    """

    def __init__(self, *, work: str, force: bool) -> None:
        super().__init__()
        self._work = work
        self._force = force

    def expand(self, captions: beam.PCollection[Part]) -> beam.PCollection[Part]:
        """See the class."""
        return captions | beam.Map(caption_candidates, self._work, self._force)


def caption_candidates(part: Part, work: str, force: bool) -> Part:
    """Every captioned image is a candidate; nothing is written where that is done."""
    table = read_table(work, part)
    stage = CANDIDATE_STAGE[TEXT_COMPENSATED]
    counts = Counts(read=table.num_rows, kept=table.num_rows)
    publish(stage, counts)
    rows = table.to_pylist()
    content = fingerprint(stage, part.fingerprint, rows)
    made = Part(stage, part.number, part.name, len(rows), content, part.input_fingerprint, counts)
    known = None if force else finished(work, stage, part.number, content)
    return known if known == made else write_part(work, made, candidate_table(rows))


@dataclass(frozen=True)
class ShardPlan:
    """What goes into one shard: row ranges [start, stop) of candidate parts, in order."""

    kind: Kind
    number: int
    slices: tuple[tuple[int, int, int], ...]
    fingerprint: str


def plan_shards(kind: Kind, parts: list[Part], shard_size: int) -> list[ShardPlan]:
    """Cut the candidates of a kind, in the order of parts and rows, into shards of equal size."""
    plans: list[ShardPlan] = []
    current: list[tuple[int, int, int]] = []
    made_of: list[Any] = []
    room = shard_size

    def close() -> None:
        nonlocal current, made_of, room
        if current:
            wanted = fingerprint(kind, len(plans), made_of)
            plans.append(ShardPlan(kind, len(plans), tuple(current), wanted))
        current, made_of, room = [], [], shard_size

    for part in sorted(parts, key=lambda part: part.number):
        start = 0
        while start < part.rows:
            stop = min(part.rows, start + room)
            current.append((part.number, start, stop))
            made_of.append([part.fingerprint, start, stop])
            room -= stop - start
            start = stop
            if room == 0:
                close()
    close()
    return plans


class WriteShards(beam.PTransform):  # type: ignore[misc]
    """``PCollection[ShardPlan] -> PCollection[ShardEntry]``: tar and parquet of each.

    Args:
        work: the work folder.
        output: the set's folder.
        roots: per kind, the root that its sources' paths are relative to.
        complete: the output already is a set; a shard that would differ is an error.
        force: it is not, but replaces the set.
    """

    def __init__(
        self, *, work: str, output: str, roots: dict[str, str], complete: bool, force: bool
    ) -> None:
        super().__init__()
        self._writer = ShardWriter(work, output, roots, complete, force)

    def expand(self, plans: beam.PCollection[ShardPlan]) -> beam.PCollection[ShardEntry]:
        """See the class."""
        return plans | beam.Reshuffle() | beam.Map(self._writer.write)


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shard of a plan, unless an earlier run has."""

    work: str
    output: str
    roots: dict[str, str]
    complete: bool
    force: bool

    def write(self, plan: ShardPlan) -> ShardEntry:
        """Write one shard; see WriteShards.

        Raises:
            UserError: an image is not what it was when the earlier stages read it, or the
                output is a finished set of other anchors.
        """
        note = places.join(self.work, "shards", f"{plan.kind}-{plan.number:05d}.json")
        known = None if self.force else self._known(note, plan)
        entry = known if known is not None and self._is_whole(known) else None
        if entry is None:
            if self.complete and known is None and not self.force:
                raise UserError(
                    f"{self.output!r} already holds a set made from other inputs; give another "
                    f"--output, or --force to replace it."
                )
            if self.complete:  # while a shard changes the folder must not look like a set
                places.remove(places.join(self.output, MANIFEST_NAME))
            with stopwatch(self.work, f"assemble-{plan.kind}", plan.number):
                entry = write_shard(self.output, plan.kind, plan.number, self._samples(plan))
            text = json.dumps({"plan": plan.fingerprint, "entry": entry.model_dump()})
            places.write_bytes(note, text.encode())
        publish("assemble", Counts(read=entry.samples, kept=entry.samples))
        return entry

    def _known(self, note: str, plan: ShardPlan) -> ShardEntry | None:
        """The entry of the shard if an earlier run wrote it from this very plan."""
        if not places.exists(note):
            return None
        try:
            body = json.loads(places.read_bytes(note))
            entry = ShardEntry.model_validate(body["entry"])
        except (ValueError, KeyError, TypeError):
            return None  # broken: the shard will be written again
        return entry if body.get("plan") == plan.fingerprint else None

    def _is_whole(self, entry: ShardEntry) -> bool:
        for file in (entry, entry.index):
            place = places.join(self.output, file.path)
            if not places.exists(place) or places.sha256_file(place)[0] != file.sha256:
                return False
        return True

    def _samples(self, plan: ShardPlan) -> Iterator[tuple[AnchorRecord, bytes]]:
        root = self.roots[plan.kind]
        stage = CANDIDATE_STAGE[plan.kind]
        with RangeReader() as reader:
            for number, start, stop in plan.slices:
                part = required_part(self.work, stage, number)
                for row in read_table(self.work, part).slice(start, stop - start).to_pylist():
                    image = reader.read(
                        places.join(root, row["source"]), row["offset"], row["size"]
                    )
                    if hashlib.sha256(image).hexdigest() != row["image_sha256"]:
                        raise UserError(
                            f"{row['source_key']} in {row['source']!r} changed while the set was "
                            f"built; run the build again."
                        )
                    yield candidate_record(plan.kind, row), image


def candidate_record(kind: Kind, row: dict[str, Any]) -> AnchorRecord:
    """The anchor's record from a row of schemas.tables.CANDIDATES."""
    texts = row["texts"]
    fields = {
        name: row[name]
        for name in (
            "image_sha256",
            "image_ext",
            "width",
            "height",
            "source",
            "source_key",
            "class_index",
            "class_name",
            "score",
            "rank",
            "query_count",
            "clip_score",
            *[field.name for field in WEB_FIELDS],
        )
        if row[name] is not None
    }
    return AnchorRecord(
        key=anchor_key(kind, row["image_sha256"], row["source"], row["source_key"]),
        kind=kind,
        text=texts[0],
        texts=texts if len(texts) > 1 else [],
        query_classes=row["query_classes"] or [],
        **fields,
    )
