"""Finding the images of embeddings that existed already: only of the rows that were retrieved.

Their metadata gives a key (of a sample in a tar) or a path (of a file), not a place. Rows and the
pool's units are joined by it (pipelines.embedding.keys). Each tar with a retrieved row is then read
once; the image's place, hash and size go into a part per pool part, which the select stage
looks rows up in (pipelines.embedding.metadata).

Some of the images are embedded again and compared with the rows that are said to be theirs: the
only way to tell whether --encoder made the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared
from numpy.typing import NDArray

from pipelines.config import Machine
from pipelines.embedding.embed import POOL
from pipelines.embedding.encoder import ImageEncoder
from pipelines.embedding.images import Found, Lost, Wanted, wanted_images
from pipelines.embedding.keys import (
    Asked,
    hashes_of_rows,
    keys_of_rows,
    keys_of_unit,
    match,
    one_array,
)
from pipelines.embedding.metadata import LOCATE, take_rows
from pipelines.embedding.options import EmbedConfig
from pipelines.inference import choose_device
from pipelines.parts import Part, fingerprint, finished, part_place, read_table, write_part
from pipelines.reading import publish, unit_fingerprint
from pipelines.selection.rejected import rejected_row, write_rejected
from pipelines.units import read_units
from schemas.errors import BadSample, UserError
from schemas.tables import POOL_ROWS, WEB_FIELDS
from shards.decoding import Tally
from shards.sources import Unit

SAME_ENCODER = 0.8
"""Least median cosine similarity of probes and rows. The same model gives 0.95 and more, even over
images that were fetched again and resized; another one gives next to 0."""


@dataclass(frozen=True)
class Search:
    """What every step of the search is told."""

    work: str
    images: str
    config: EmbedConfig
    machine: Machine
    force: bool


class Locate(beam.PTransform):  # type: ignore[misc]
    """``(neighbours, pool) -> PCollection[Part]``: where the retrieved images of each part lie.

    The inputs are PCollections of parts; every pool part gets a part, if only an empty one.

    Args:
        work: the work folder.
        images: list of the units (pipelines.units) that hold the images.
        config: the encoder that the embeddings are said to be of.
        machine: where it runs.
        force: redo parts that are finished.
    """

    def __init__(
        self, *, work: str, images: str, config: EmbedConfig, machine: Machine, force: bool
    ) -> None:
        super().__init__()
        self._search = Search(work, images, config, machine, force)

    def expand(
        self, inputs: tuple[beam.PCollection[Part], beam.PCollection[Part]]
    ) -> beam.PCollection[Part]:
        """See the class."""
        neighbours, pool = inputs
        search = self._search
        rows = neighbours | "RowsByPart" >> beam.FlatMap(retrieved_rows, search.work)
        every = pool | "EveryPart" >> beam.Map(lambda part: (part.number, part))
        asked = (
            {"rows": rows, "part": every}
            | "Rows" >> beam.CoGroupByKey()
            | "Ask" >> beam.ParDo(_Ask(search)).with_outputs("finished", main="asked")
        )
        keys = asked.asked | "Keys" >> beam.FlatMap(keys_of_rows, search.work)
        hashes = (
            asked.asked
            | "HashesOfPart" >> beam.Map(hashes_of_rows, search.work)
            | "ListHashes" >> beam.combiners.ToList()
            | "Hashes" >> beam.Map(one_array)
        )
        held = (
            pool.pipeline
            | "Images" >> beam.Create([search.images])
            | "Units" >> beam.FlatMap(read_units)
            | beam.Reshuffle()
            | "KeysOfUnits" >> beam.FlatMap(keys_of_unit, beam.pvalue.AsSingleton(hashes))
        )
        joined = (
            {"wanted": keys, "units": held}
            | "ByKey" >> beam.CoGroupByKey()
            | "Match" >> beam.FlatMap(match).with_outputs("lost", main="matched")
        )
        looked = (
            joined.matched
            | "ByUnit" >> beam.GroupByKey()
            | "Look" >> beam.ParDo(_Look(Shared(), search)).with_outputs("cosines", main="found")
        )
        checked = (
            looked.cosines
            | "Cosines" >> beam.combiners.ToList()
            | "SameEncoder" >> beam.Map(check_encoder, search.config)
        )
        made = (
            {
                "asked": asked.asked | "AskedPart" >> beam.Map(lambda a: (a.part.number, a)),
                "found": (looked.found, joined.lost) | "Answers" >> beam.Flatten(),
            }
            | "ByPart" >> beam.CoGroupByKey()
            # Nothing is written before the encoder is known to be the right one.
            | "Write" >> beam.Map(write_located, search, beam.pvalue.AsSingleton(checked))
        )
        return (made, asked.finished) | "Parts" >> beam.Flatten() | "Count" >> beam.Map(_published)


def retrieved_rows(part: Part, work: str) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """The rows of each pool part that a table of neighbours names, each once."""
    table = read_table(work, part)
    pool_part, row = (table.column(name).to_numpy() for name in ("pool_part", "pool_row"))
    for number in np.unique(pool_part):
        yield int(number), np.unique(row[pool_part == number]).astype(np.int32)


class _Ask(beam.DoFn):  # type: ignore[misc]
    """What is to be found of each pool part; a part that is finished goes to ``finished``.

    Finished is what was made of these rows and these units, found every row, and read units that
    have not changed since. Each of these is hashed once by a worker, however many parts name it.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        self._units: dict[str, Unit] = {}
        self._contents: dict[str, str] = {}

    def process(self, group: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[Any]:
        """An Asked, or the finished part."""
        number, values = group
        (part,) = values["part"]
        lists = list(values["rows"])
        rows = np.unique(np.concatenate(lists)).tolist() if lists else []
        if not self._units:
            self._units = {unit.name: unit for unit in read_units(self._search.images)}
        wanted = fingerprint(LOCATE, part.fingerprint, rows, list(self._units))
        search = self._search
        made = None if search.force else finished(search.work, LOCATE, number, wanted)
        if made is not None and self._is_current(made):
            yield beam.pvalue.TaggedOutput("finished", made)
        else:
            yield Asked(part, rows, wanted)

    def _is_current(self, made: Part) -> bool:
        if made.counts.dropped:
            return False  # what was not found may be there now
        for name, was in made.extra["inputs"].items():
            if name not in self._contents:
                self._contents[name] = unit_fingerprint(self._units[name])
            if self._contents[name] != was:
                return False
        return True


class _Look(beam.DoFn):  # type: ignore[misc]
    """Reads the wanted images of a unit, once; embeds those that carry a vector."""

    def __init__(self, shared: Shared, search: Search) -> None:
        self._shared = shared
        self._search = search
        self._units: list[Unit] = []

    def process(self, group: tuple[int, Iterable[Wanted]]) -> Iterator[Any]:
        """Found and Lost of each row by pool part; cosines of probes go to ``cosines``."""
        number, wanted = group
        self._units = self._units or list(read_units(self._search.images))
        unit = self._units[number]
        rows = sorted(wanted, key=lambda row: (row.part, row.row))
        prepare = self._encoder().prepare if any(row.vector for row in rows) else None
        content = unit_fingerprint(unit)
        probes = []
        for row, answer, prepared in wanted_images(
            unit, rows, prepare, self._search.machine.decode_threads
        ):
            yield row.part, answer if isinstance(answer, Lost) else replace(answer, input=content)
            if row.vector and prepared is not None:
                probes.append((np.frombuffer(row.vector, np.float16), prepared))
        if probes:
            ours = self._encoder().embed([prepared for _, prepared in probes])
            theirs = np.stack([vector for vector, _ in probes])
            cosines = np.einsum("nd,nd->n", ours.astype(np.float64), theirs.astype(np.float64))
            for cosine in cosines:
                yield beam.pvalue.TaggedOutput("cosines", float(cosine))

    def _encoder(self) -> ImageEncoder:
        search = self._search
        device = choose_device(search.machine.device, search.config.precision)
        encoder: ImageEncoder = self._shared.acquire(
            lambda: ImageEncoder(search.config.encoder, device, search.config.precision)
        )
        return encoder


def check_encoder(cosines: list[float], config: EmbedConfig) -> bool:
    """Compare probes of ours with the rows that are said to be theirs.

    Raises:
        UserError: they are clearly not of one model.
    """
    median = float(np.median(cosines)) if cosines else 1.0
    if median < SAME_ENCODER:
        raise UserError(
            f"the embeddings in {config.existing!r} are not those of --encoder {config.encoder}: "
            f"{len(cosines)} images of the pool, embedded again, have a median cosine of "
            f"{median:.2f} with theirs; name the model that made them."
        )
    return True


def write_located(
    group: tuple[int, dict[str, Iterable[Any]]], search: Search, checked: bool
) -> Part:
    """Write where the retrieved images of one pool part lie; what was not found is counted."""
    assert checked
    number, values = group
    (asked,) = values["asked"]
    answers: dict[int, list[Found | Lost]] = {}
    for answer in values["found"]:
        answers.setdefault(answer.row, []).append(answer)
    table = take_rows(part_place(search.work, POOL, number), asked.rows, POOL_ROWS.names)
    tally = Tally()
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    inputs: dict[str, str] = {}
    for row in table.to_pylist():
        answer = choose(answers.get(row["row"], []), row["caption"], row["url"])
        if isinstance(answer, Lost):
            problem = BadSample(answer.reason, answer.detail)
            tally.drop(row["source_key"], problem)
            rejected.append(rejected_row(LOCATE, row, problem))
            continue
        inputs[answer.unit] = answer.input
        web = {field.name: row[field.name] for field in WEB_FIELDS}
        known = {name: value for name, value in web.items() if value is not None}
        caption = row["caption"] if row["caption"] is not None else answer.caption
        rows.append(row | answer.web | known | answer.where | {"caption": caption})
    tally.kept = len(rows)
    write_rejected(search.work, LOCATE, number, rejected)
    part = Part(
        LOCATE,
        number,
        asked.part.name,
        len(rows),
        asked.wanted,
        asked.part.input_fingerprint,
        tally.counts(),
        None,
        tally.examples,
        {"inputs": dict(sorted(inputs.items())), "content": fingerprint(rows)},
    )
    return write_part(search.work, part, pa.Table.from_pylist(rows, schema=POOL_ROWS))


def choose(answers: list[Found | Lost], caption: str | None, url: str | None) -> Found | Lost:
    """The image of a row: of several with its key, that of its URL, or else of its caption."""
    found = sorted(
        (answer for answer in answers if isinstance(answer, Found)),
        key=lambda answer: (answer.where["source"], answer.where["source_key"]),
    )
    found = [answer for answer in found if url and answer.web.get("url") == url] or found
    if len({answer.where["image_sha256"] for answer in found}) > 1 and caption is not None:
        found = [answer for answer in found if answer.caption == caption]
    if not found:
        lost = [answer for answer in answers if isinstance(answer, Lost)]
        return min(lost) if lost else Lost(-1, "?", "image_not_found", "its tar lacks it")
    if len({answer.where["image_sha256"] for answer in found}) > 1:
        one = found[0]
        return Lost(one.row, one.key, "ambiguous_key", "several images of the pool have its key")
    return found[0]


def _published(part: Part) -> Part:
    publish(LOCATE, part.counts)
    return part
