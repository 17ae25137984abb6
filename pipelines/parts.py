"""Parts: what a stage leaves for one unit of its input, and how a later run knows it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import UserError
from schemas.manifest import Counts
from schemas.record import canonical_json
from shards import places

_METADATA = b"anchorft"
_GROUP = 16_384


@dataclass(frozen=True)
class Part:
    """A finished part; small, so that lists of them pass between stages.

    Attributes:
        stage: which stage made it, e.g. ``caption`` or ``embed-pool``.
        number: of the unit it was made from.
        name: of that unit, relative to its source's root.
        rows: samples kept.
        fingerprint: of everything that its content follows from.
        input_fingerprint: of the unit's own content.
        counts: what was read, kept and dropped.
        model: name and digest of the model that made it, if one did.
        examples: the first few bad samples as (key, reason, detail), for messages.
        extra: what a stage wants to remember; ``options`` are those of the build that shaped it.
    """

    stage: str
    number: int
    name: str
    rows: int
    fingerprint: str
    input_fingerprint: str = ""
    counts: Counts = field(default_factory=Counts)
    model: dict[str, str] | None = None
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


def fingerprint(*values: Any) -> str:
    """Digest of values that JSON can hold."""
    return hashlib.sha256(canonical_json(list(values)).encode()).hexdigest()


def part_place(work: str, stage: str, number: int) -> str:
    """Where the parquet of a part lies in the work folder.

    Embeddings follow clip-retrieval's layout: ``metadata/metadata_N.parquet`` beside
    ``img_emb/img_emb_N.npy``.
    """
    if stage.startswith("embed-"):
        folder = places.join(work, "embeddings", stage.removeprefix("embed-"))
        return places.join(folder, "metadata", f"metadata_{number:05d}.parquet")
    return places.join(work, stage, f"{number:05d}.parquet")


def array_place(work: str, stage: str, number: int) -> str:
    """Where the .npy of an embed stage's part lies."""
    folder = places.join(work, "embeddings", stage.removeprefix("embed-"))
    return places.join(folder, "img_emb", f"img_emb_{number:05d}.npy")


def write_part(work: str, part: Part, table: pa.Table) -> Part:
    """Write a part's table, with the part itself in the file's metadata; atomic."""
    table = table.replace_schema_metadata({_METADATA: canonical_json(_body(part)).encode()})
    sink = pa.BufferOutputStream()
    # Groups of a size, so that a few rows of a large part can be read without the others.
    pq.write_table(table, sink, compression="zstd", row_group_size=_GROUP)
    place = part_place(work, part.stage, part.number)
    places.write_bytes(place, sink.getvalue().to_pybytes())
    return part


def read_part(work: str, stage: str, number: int) -> Part | None:
    """The finished part of a unit, or None if there is none that can be read."""
    place = part_place(work, stage, number)
    if not places.exists(place):
        return None
    try:
        with places.open_read(place) as file:
            metadata = pq.read_schema(file).metadata or {}
        return _part(json.loads(metadata[_METADATA]))
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError):
        return None  # not ours, or broken: it will be made again


def _body(part: Part) -> dict[str, Any]:
    """A part as JSON can hold it."""
    return asdict(part) | {"counts": part.counts.model_dump()}


def _part(body: dict[str, Any]) -> Part:
    body["counts"] = Counts.model_validate(body["counts"])
    body["examples"] = [tuple(example) for example in body["examples"]]
    return Part(**body)


def finished(work: str, stage: str, number: int, wanted: str) -> Part | None:
    """The part, if it was made from exactly what ``wanted`` is the fingerprint of."""
    part = read_part(work, stage, number)
    return part if part is not None and part.fingerprint == wanted else None


def read_table(work: str, part: Part, columns: list[str] | None = None) -> pa.Table:
    """The rows of a part, all columns or some."""
    return read_parquet(part_place(work, part.stage, part.number), columns)


def read_parquet(place: str, columns: list[str] | None = None) -> pa.Table:
    """A parquet of the work folder, in this thread.

    With pyarrow's own threads (as in ``pq.read_table``) one command in four ended in an abort:
    they let go of the Python file when the interpreter is already gone.
    """
    with places.open_read(place) as opened, pq.ParquetFile(opened) as file:
        return file.read(columns, use_threads=False)


_STEPS = {
    "locate": "select",
    "judge": "select",
    "score": "select",
    "index": "retrieve",
    "candidates": "assemble",
}
"""Steps that are no stage of --stages, by the stage that they are part of."""


def _run_by(stage: str) -> str:
    """The stage of --stages that leaves the parts of ``stage``."""
    first = stage.split("-")[0]
    return _STEPS.get(first, first)


def required_part(work: str, stage: str, number: int) -> Part:
    """A part that an earlier stage has left.

    Raises:
        UserError: it is missing.
    """
    part = read_part(work, stage, number)
    if part is None:
        raise UserError(
            f"{part_place(work, stage, number)!r} is missing or unreadable: run the "
            f"{_run_by(stage)} stage first."
        )
    return part


def write_listed(work: str, stage: str, parts: Sequence[Part]) -> str:
    """List parts in the work folder, for a graph that is to start from them; returns the place."""
    place = places.join(work, "units", f"{stage}-left.json")
    places.write_bytes(place, canonical_json([_body(part) for part in parts]).encode())
    return place


def read_listed(place: str) -> list[Part]:
    """The parts that write_listed has listed."""
    return [_part(body) for body in json.loads(places.read_bytes(place))]


def left_parts(
    work: str, stage: str, names: Sequence[str], options: Mapping[str, Any]
) -> list[Part]:
    """The parts of a stage that ran before, checked to be those that this build would make.

    Args:
        work: the work folder.
        stage: whose parts.
        names: of the units, in order.
        options: those that shape the parts; a mapping that JSON can hold.

    Raises:
        UserError: one is missing, of another input, made with other options or another model.
    """
    again = f"run the {_run_by(stage)} stage again."
    parts = [required_part(work, stage, number) for number, _ in enumerate(names)]
    for part, name in zip(parts, names, strict=True):
        place = part_place(work, stage, part.number)
        if part.name != name:
            raise UserError(f"{place!r} was made from {part.name!r}, not from {name!r}: {again}")
        made_with = part.extra.get("options", {})
        for option, value in options.items():
            if made_with.get(option) != value:
                raise UserError(f"{place!r} was made with another {option}: {again}")
    if len({part.model["weights_sha256"] for part in parts if part.model}) > 1:
        raise UserError(f"the {stage} parts in {work!r} are of different models: {again}")
    return parts
