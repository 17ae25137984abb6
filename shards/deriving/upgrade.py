"""``upgrade``: a set of an older format version, written anew in the current one.

Each older version has one step (see upgrade_steps), which takes its manifest and its records to the
next; a set goes through all that lie between. The old set is only read, and named as the parent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from pydantic import ValidationError

from schemas.errors import BadSample, UserError
from schemas.manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    MANIFEST_NAME,
    Counts,
    InputInfo,
    Manifest,
    Provenance,
    ShardEntry,
    safe_relative_path,
    set_digest,
)
from schemas.record import KINDS, TEXT_COMPENSATED, AnchorRecord, Kind, first_error
from shards import places
from shards.completion import complete_set
from shards.deriving.unfinished import Note, Unfinished, identity
from shards.deriving.upgrade_steps import STEPS, Body, Step
from shards.guards import MAX_MANIFEST_BYTES, check_inside
from shards.tars import TarSample, read_tar
from shards.writer import write_shard

PACKAGES = ("anchorft", "pyarrow")


@dataclass(frozen=True)
class Upgraded:
    """What became of a set.

    Attributes:
        version: that it had.
        manifest: of the new set; of the old one if that is current.
        new: whether anything was written.
    """

    version: str
    manifest: Manifest
    new: bool


def upgrade(
    root: str,
    output: str,
    *,
    steps: Sequence[Step] = STEPS,
    on_anchor: Callable[[int], None] = lambda total: None,
) -> Upgraded:
    """Write a set of an older version anew; one that is current is left as it is.

    Run again after an interruption it goes on, and ends in the same bytes.

    Args:
        root: folder of the old set.
        output: folder of the new one, which must be new, or hold what an interrupted run left.
        steps: the known steps.
        on_anchor: called once an anchor, with the number of all.

    Raises:
        UserError: no set is there, its version is unknown, it is damaged, or the output is taken.
    """
    place = places.join(root, MANIFEST_NAME)
    data = places.read_limited(place, MAX_MANIFEST_BYTES)
    body = _body(data, place)
    held = str(body.get("format_version"))
    if held.partition(".")[0] == FORMAT_VERSION.partition(".")[0]:
        manifest = Manifest.from_json(data, place)  # with its seal and digest checked
        if held not in {step.source for step in steps}:
            return Upgraded(held, manifest, False)
    chain = _chain(held, steps, place)
    try:
        for step in chain:
            body = step.manifest(body)
        shards = [_OldShard.of(shard) for shard in body["shards"]]
        made = _provenance(body, held)
        name, classes, parent = str(body["name"]), list(body["classes"]), str(body["digest"])
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise UserError(
            f"{place} does not follow format {held} ({_why(error)}); fetch the set again."
        ) from None
    if places.is_local(root):
        check_inside(places.local_path(root), [shard.path for shard in shards])
    made = made.model_copy(update={"parents": [parent]})
    work = Unfinished(output, identity(name, classes, made))
    there = work.check()
    if there is not None:
        work.end()
        return Upgraded(held, there, False)
    work.begin()
    total = sum(shard.samples for shard in shards)
    written = _write(root, output, shards, chain, work, lambda: on_anchor(total))
    counts = made.counts | {"upgrade": Counts(read=total, kept=total)}
    manifest = Manifest(
        name=name,
        digest=set_digest(written),
        kinds=[kind for kind in KINDS if any(shard.kind == kind for shard in written)],
        samples=total,
        classes=classes,
        shards=written,
        provenance=made.model_copy(update={"counts": counts}),
    )
    work.sweep(written)
    manifest = complete_set(output, manifest)
    work.end()
    return Upgraded(held, manifest, True)


@dataclass(frozen=True)
class _OldShard:
    path: str
    sha256: str
    kind: Kind
    samples: int

    @classmethod
    def of(cls, body: Body) -> _OldShard:
        if body["kind"] not in KINDS:
            raise ValueError(f"{body['kind']!r} is no kind of anchor")
        path = safe_relative_path(str(body["path"]))
        return cls(path, str(body["sha256"]), body["kind"], int(body["samples"]))


def _body(data: bytes, place: str) -> Body:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place} is not valid JSON ({error}); fetch the anchor set again."
        ) from None
    if not isinstance(body, dict) or body.get("format") != FORMAT_NAME:
        raise UserError(f"{place} is not the manifest of an anchor set.")
    return body


def _chain(held: str, steps: Sequence[Step], place: str) -> list[Step]:
    """The steps from a version to the current one."""
    known = {step.source: step for step in steps}
    chain: list[Step] = []
    at = held
    while at != FORMAT_VERSION:
        if at not in known or len(chain) > len(steps):
            raise UserError(
                f"{place} has format version {held}, which this anchorft cannot upgrade: it knows "
                f"{', '.join(sorted(known))} and {FORMAT_VERSION}."
            )
        chain.append(known[at])
        at = known[at].target
    return chain


def _provenance(body: Body, held: str) -> Provenance:
    """That of the old set, and what was done now."""
    old = Provenance.model_validate(body["provenance"])
    parent = InputInfo(role="parent", name=str(body["name"]), fingerprint=str(body["digest"]))
    return old.model_copy(
        update={
            "inputs": [parent, *old.inputs],
            "config": {
                "command": "upgrade",
                "options": {"from": held, "to": FORMAT_VERSION},
                "parents": [old.config],
            },
            "packages": {name: version(name) for name in PACKAGES},
        }
    )


def _write(
    root: str,
    output: str,
    shards: list[_OldShard],
    chain: list[Step],
    work: Unfinished,
    on_anchor: Callable[[], None],
) -> list[ShardEntry]:
    """All shards, by kind and in their order; those that an earlier run finished are kept."""
    written: list[ShardEntry] = []
    for kind in KINDS:
        start = 0
        for number, shard in enumerate(one for one in shards if one.kind == kind):
            note = work.note(kind, number, start)
            if note is None:
                entry = write_shard(output, kind, number, _samples(root, shard, chain, on_anchor))
                if entry.samples != shard.samples:
                    raise UserError(
                        f"{places.join(root, shard.path)!r} has {entry.samples:,} samples, not the "
                        f"manifest's {shard.samples:,}; fetch it again."
                    )
                note = Note(entry, start, entry.samples)
                work.keep(number, note)
            written.append(note.entry)
            start += note.taken
    return written


def _samples(
    root: str, shard: _OldShard, chain: list[Step], on_anchor: Callable[[], None]
) -> Iterator[tuple[AnchorRecord, bytes | None]]:
    place = places.join(root, shard.path)
    if places.sha256_file(place)[0] != shard.sha256:
        raise UserError(f"{place!r} is not the file that the manifest names; fetch it again.")

    def refuse(key: str, problem: BadSample) -> None:
        raise UserError(f"{key} in {place!r} cannot be used ({problem}); the set is broken.")

    for sample in read_tar(place, refuse):
        try:
            record = _record(sample, chain)
            image = _image(sample.fields, record)
        except BadSample as problem:
            refuse(sample.key, problem)
        if record.kind != shard.kind:
            refuse(sample.key, BadSample("kind_differs", f"it is {record.kind}"))
        on_anchor()
        yield record, image


def _record(sample: TarSample, chain: list[Step]) -> AnchorRecord:
    try:
        body = json.loads(sample.fields["json"])
        for step in chain:
            body = step.record(body, sample)
        return AnchorRecord.model_validate(body)
    except ValidationError as error:
        raise BadSample("bad_record", first_error(error)) from None
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        StopIteration,
        RecursionError,
    ) as error:
        raise BadSample("bad_record", _why(error)) from None


def _image(fields: Mapping[str, bytes], record: AnchorRecord) -> bytes | None:
    image = fields.get(record.image_ext)
    if image is not None and hashlib.sha256(image).hexdigest() != record.image_sha256:
        raise BadSample("hash_mismatch", "its image is not the one of the record")
    if image is None and record.kind != TEXT_COMPENSATED:
        raise BadSample("incomplete_sample", f"it has no {record.image_ext}")
    return image


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return first_error(error)
    return f"it has no {error}" if isinstance(error, KeyError) else str(error) or "it is odd"
