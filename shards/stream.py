"""Streaming anchors: sets or bare shards one after the other, split over workers, resumable.

stream = AnchorStream.open("sets/a", "s3://bucket/b", seed=0, rank=rank, world=world)
reading = stream.read(epoch=3)
for record, image in reading:
    ...
reading.position  # give it to read(start=...) later, and the rest follows
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from schemas.errors import BadSample, UserError
from schemas.manifest import ShardEntry
from schemas.record import AnchorRecord, Kind
from shards import places
from shards.decoding import Tally
from shards.readahead import read_ahead
from shards.reader import AnchorSet, RangeReader, read_row
from shards.tars import TarSample, read_tar

_ROWS = 256

Anchor = tuple[AnchorRecord, bytes | None]
"""A record and its image's bytes; None in a set without images."""


class Position(NamedTuple):
    """How far a reading has come; plain values, so that a checkpoint can keep it.

    Attributes:
        shard: shards that are done, in the order of this epoch and worker.
        sample: samples of the next shard that are done, the bad ones included.
        name: of that next shard, so that a position of another stream is noticed.
    """

    shard: int = 0
    sample: int = 0
    name: str = ""


@dataclass(frozen=True)
class Shard:
    """One tar to read: of a set, whose parquet says where everything lies, or a bare one.

    Attributes:
        place: the tar.
        name: its path below the set; a bare tar's file name.
        anchors: the set, or None.
        entry: what the set's manifest says of it, or None.
    """

    place: str
    name: str
    anchors: AnchorSet | None = None
    entry: ShardEntry | None = None


@dataclass(frozen=True)
class AnchorStream:
    """Shards to read, and this worker's part in it.

    Attributes:
        shards: of all workers, in the order in which they were named.
        kind: of the anchors that are wanted; None for all.
        seed: of the shuffling of shards; None to keep the order.
        part: of ``parts``, which this reader reads.
        parts: readers that share the shards.
        strict: the first bad sample ends the reading; otherwise it is counted.
    """

    shards: tuple[Shard, ...]
    kind: Kind | None = None
    seed: int | None = None
    part: int = 0
    parts: int = 1
    strict: bool = True

    @classmethod
    def open(
        cls,
        *named: str,
        kind: Kind | None = None,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        worker: int = 0,
        workers: int = 1,
        strict: bool = True,
    ) -> AnchorStream:
        """Open anchor sets and bare shards.

        Args:
            named: folders of sets, and tars of ours without their set; local paths or fsspec
                URLs, with brace ranges and globs.
            kind: read only these anchors.
            seed: shuffle the shards by it and by the epoch; None keeps the order.
            rank: of this process, of ``world``.
            world: processes that share the shards.
            worker: of this process' loader, of ``workers``.
            workers: loaders in each process.
            strict: end at the first bad sample, rather than count it and go on.

        Raises:
            UserError: nothing there, something named twice, or a rank or worker out of range.
        """
        if not (0 <= rank < world and 0 <= worker < workers):
            raise UserError(
                f"rank {rank} of {world} and worker {worker} of {workers} is no part of a whole; "
                f"both count from 0."
            )
        found = [shard for place in named for one in places.expand(place) for shard in _open(one)]
        seen: set[str] = set()
        for shard in found:
            if shard.place in seen:
                raise UserError(f"{shard.place!r} is named twice; name each set or tar once.")
            seen.add(shard.place)
        chosen = [s for s in found if kind is None or s.entry is None or s.entry.kind == kind]
        part, parts = rank * workers + worker, world * workers
        return cls(tuple(chosen), kind, seed, part, parts, strict)

    def order(self, epoch: int) -> list[Shard]:
        """This worker's shards of an epoch.

        All workers shuffle alike, and each takes every ``parts``-th shard, so that together they
        read every shard once. The order hangs on the seed, the epoch and the shards' number
        alone, and is the same for ever: it is that of SHA-256.
        """
        numbers = list(range(len(self.shards)))
        if self.seed is not None:
            numbers.sort(key=lambda i: hashlib.sha256(f"{self.seed} {epoch} {i}".encode()).digest())
        return [self.shards[i] for i in numbers[self.part :: self.parts]]

    def read(self, epoch: int = 0, start: Sequence[int | str] = ()) -> Reading:
        """Read an epoch, from its start or from where another reading of it stood.

        Raises:
            UserError: ``start`` is not of this stream and epoch.
        """
        order = self.order(epoch)
        if not start:
            return Reading(order, Position(name=order[0].name if order else ""), self)
        position = Position(*start)  # type: ignore[arg-type]  # JSON made a list of it
        names = [shard.name for shard in order] or [""]
        inside = 0 <= position.shard < len(names) and position.sample >= 0
        if not inside or position.name != names[position.shard]:
            raise UserError(
                f"position {tuple(position)} is not one of this stream; give the sets, seed, epoch "
                f"and split with which it was taken."
            )
        return Reading(order, position, self)


class Reading(Iterator[Anchor]):
    """One pass over shards: iterate it for (record, image bytes).

    A thread reads and checks a few megabytes ahead. Every image is checked against its record's
    hash, so that what comes out is what was put in.

    Attributes:
        position: after the sample that was taken last.
        tally: samples kept, and dropped by reason.

    Raises:
        UserError: a shard or its parquet is missing or was changed; in strict mode also a bad
            sample, named with its file.
    """

    def __init__(self, order: Sequence[Shard], start: Position, stream: AnchorStream) -> None:
        self.position = start
        self.tally = Tally()
        self._order = order
        self._strict = stream.strict
        self._items = read_ahead(_items(order, start, stream.kind), _size)

    def __next__(self) -> Anchor:
        for position, key, anchor in self._items:
            self.position = position
            if not isinstance(anchor, BadSample):
                self.tally.kept += 1
                return anchor
            self.tally.drop(key, anchor)
            if self._strict:
                self.close()
                place = self._order[position.shard].place
                raise UserError(
                    f"{place!r} has a bad sample {key!r} ({anchor}); fetch the file again, or "
                    f"read leniently to leave such samples out."
                )
        raise StopIteration

    def close(self) -> None:
        """Stop reading ahead; a reading that ran to its end needs none of this."""
        self._items.close()  # type: ignore[attr-defined]  # it is a generator

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_Item = tuple[Position, str, Anchor | BadSample]


def _size(item: _Item) -> int:
    anchor = item[2]
    return 0 if isinstance(anchor, BadSample) else len(anchor[1] or b"")


def _open(place: str) -> list[Shard]:
    """The shards of a set, or a bare tar."""
    if place.endswith(".tar"):
        if not places.exists(place):
            raise UserError(f"{place!r} is not there; check the path.")
        return [Shard(place, places.parent_and_name(place)[1])]
    if not places.is_folder(place):
        raise UserError(f"{place!r} is neither an anchor set nor a .tar; check the path.")
    anchors = AnchorSet.open(place)
    return [Shard(anchors.place(e), e.path, anchors, e) for e in anchors.manifest.shards]


def _items(order: Sequence[Shard], start: Position, kind: Kind | None) -> Iterator[_Item]:
    """What the thread reads: every sample or what is wrong with it, and the position after it."""
    with RangeReader(keep=1) as reader:
        for number in range(start.shard, len(order)):
            shard = order[number]
            skip = start.sample if number == start.shard else 0
            samples = _of_set(shard, skip, reader) if shard.anchors else _of_tar(shard, skip)
            with closing(samples):
                for done, (key, anchor) in enumerate(samples, skip + 1):
                    if kind and not isinstance(anchor, BadSample) and anchor[0].kind != kind:
                        continue
                    yield Position(number, done, shard.name), key, anchor


_Samples = Generator[tuple[str, Anchor | BadSample], None, None]


def _of_set(shard: Shard, skip: int, reader: RangeReader) -> _Samples:
    assert shard.anchors is not None
    assert shard.entry is not None
    for batch in shard.anchors.table(shard.entry).slice(skip).to_batches(max_chunksize=_ROWS):
        for row in batch.to_pylist():
            try:
                yield str(row["key"]), read_row(reader, shard.place, row)
            except BadSample as problem:
                yield str(row["key"]), problem


def _of_tar(shard: Shard, skip: int) -> _Samples:
    """The tar's samples after the first ``skip``, of which only the headers are read."""
    done = 0
    told: list[tuple[str, Anchor | BadSample]] = []  # since the last one that was handed on
    samples = read_tar(
        shard.place,
        lambda key, problem: told.append((key, problem)),
        want=lambda _: done + len(told) >= skip,
    )
    for sample in itertools.chain(samples, [None]):
        if sample is not None:
            wanted = done + len(told) >= skip
            told.append((sample.key, _anchor(sample) if wanted else _SKIPPED))
        for item in told:
            done += 1
            if done > skip:
                yield item
        told.clear()


_SKIPPED = BadSample("skipped")


def _anchor(sample: TarSample) -> Anchor | BadSample:
    """A sample of a bare tar: its members must agree, since no parquet vouches for them."""
    if "json" not in sample.fields:
        return BadSample("no_record", "it has no json member")
    try:
        record = AnchorRecord.from_json(sample.fields["json"])
    except BadSample as problem:
        return problem
    if record.key != sample.key:
        return BadSample("wrong_key", f"its record has the key {record.key}")
    if sample.fields.get("txt") != record.text.encode():
        return BadSample("text_mismatch", "its txt member is not its record's text")
    image = sample.fields.get(record.image_ext)
    if image is not None and hashlib.sha256(image).hexdigest() != record.image_sha256:
        return BadSample("hash_mismatch", "its image is not that of its record")
    return record, image
