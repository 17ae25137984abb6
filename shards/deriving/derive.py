"""Sets made from sets: what merge, subset, reshard, strip and join have in common.

A command makes a Recipe (from which sets, with what options) and a Plan (which records, in which
order). Here the plan is written, shard by shard: records from the parents' parquets, image bytes
from their tars by offset. Memory holds positions, a few tables and one image.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from tqdm import tqdm

from schemas.errors import BadSample, UserError
from schemas.manifest import Counts, InputInfo, Manifest, Provenance, ShardEntry, set_digest
from schemas.record import KINDS, AnchorRecord, Kind, first_error
from shards import places
from shards.completion import complete_set
from shards.decoding import Tally
from shards.deriving.picks import Picks, Rows
from shards.deriving.unfinished import Note, Unfinished, identity
from shards.reader import AnchorSet, RangeReader, read_image
from shards.writer import row_record, write_shard

PACKAGES = ("anchorft", "numpy", "pyarrow")
MAX_BAD_FRACTION = 0.01
"""Share of the planned anchors that may turn out corrupt before a command gives up."""

EXAMPLES = 5

Row = dict[str, Any]
Example = tuple[str, str, str]
T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """From what a set is made, and how.

    Attributes:
        command: which made it; the stage under which it is counted.
        parents: the sets, in the order given.
        options: resolved, as the manifest records them; all that the result follows from.
        shard_size: anchors per shard.
        name: of the new set.
        classes: of the new set, by class index.
        inputs: what was read beside the parents.
        revise: changes a row before it becomes a record; it is given the parent's number.
        image: finds the bytes of a row's image; it is given the row's own tar.
    """

    command: str
    parents: Sequence[AnchorSet]
    options: dict[str, Any]
    shard_size: int
    name: str
    classes: list[str]
    inputs: list[InputInfo] = field(default_factory=list)
    revise: Callable[[int, Row], Row] = lambda parent, row: row
    image: Callable[[RangeReader, str, Row], bytes | None] = read_image

    def provenance(self, counts: Counts | None = None) -> Provenance:
        """Parents by digest and in order, then everything that they were made from."""
        made = [parent.manifest.provenance for parent in self.parents]
        inputs = [
            InputInfo(role="parent", name=p.manifest.name, fingerprint=p.manifest.digest)
            for p in self.parents
        ]
        inputs += [*self.inputs, *itertools.chain.from_iterable(one.inputs for one in made)]
        return Provenance(
            captioner=_common([one.captioner for one in made]),
            encoder=_common([one.encoder for one in made]),
            index=_common([one.index or None for one in made]) or {},
            inputs=list({(i.role, i.name, i.fingerprint): i for i in inputs}.values()),
            counts={} if counts is None else {self.command: counts},
            config={
                "command": self.command,
                "options": self.options | {"shard_size": self.shard_size},
                "parents": [one.config for one in made],
            },
            packages={name: version(name) for name in PACKAGES},
            parents=[parent.manifest.digest for parent in self.parents],
        )


@dataclass(frozen=True)
class Plan:
    """Which records a set will hold, per kind and in order, and which it will not.

    ``dropped`` counts the others of the parents' records by reason.
    """

    picks: dict[Kind, Picks]
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.picks.values()))


@dataclass(frozen=True)
class Derived:
    """A derived set.

    Attributes:
        manifest: as it was written.
        new: False if the very set was there already.
        bad: some of the corrupt samples that were left out, as (key, reason, detail).
    """

    manifest: Manifest
    new: bool
    bad: list[Example]


def fullest_shard(sets: Sequence[AnchorSet]) -> int:
    """Anchors in the largest shard of some sets: the shard size that keeps theirs."""
    return max((shard.samples for one in sets for shard in one.manifest.shards), default=1) or 1


def derive(
    output: str, recipe: Recipe, plan: Callable[[], Plan], max_bad: float = MAX_BAD_FRACTION
) -> Derived:
    """Write a set; run again after an interruption, it goes on, and ends in the same bytes.

    Args:
        output: folder of the new set, which must be new, or hold what an interrupted run left.
        recipe: from what, and how.
        plan: makes the plan; not called if the set is there already.
        max_bad: share of the planned anchors that may be corrupt.

    Raises:
        UserError: the folder holds something else, a parent is damaged beyond ``max_bad``, or
            nothing is left to write.
    """
    for parent in recipe.parents:
        if _full(output).startswith(_full(parent.root) + "/"):
            raise UserError(
                f"{output!r} lies in the set {parent.root!r}, which must stay as it is; give "
                f"another --output."
            )
    work = Unfinished(output, identity(recipe.name, recipe.classes, recipe.provenance()))
    held = work.check()
    if held is not None:
        work.end()
        return Derived(held, False, [])
    planned = plan()
    if not len(planned):
        raise UserError(
            f"{recipe.command} would leave no anchor of {_sets(recipe.parents)} "
            f"({_reasons(planned.dropped) or 'there is none'}); nothing was written."
        )
    work.begin()
    writer = _Writer(work, recipe, max_bad * len(planned), len(planned))
    shards = writer.write(planned)
    if not shards:
        raise UserError(
            f"{recipe.command} found no anchor of {_sets(recipe.parents)} that can be used "
            f"({_reasons(writer.tally.dropped)}); fetch the set again."
        )
    counts = writer.tally.counts() + Counts(
        read=sum(planned.dropped.values()), dropped=planned.dropped
    )
    manifest = Manifest(
        name=recipe.name,
        digest=set_digest(shards),
        kinds=[kind for kind in KINDS if any(shard.kind == kind for shard in shards)],
        samples=sum(shard.samples for shard in shards),
        classes=recipe.classes,
        shards=shards,
        provenance=recipe.provenance(counts),
    )
    work.sweep(shards)
    manifest = complete_set(output, manifest)
    work.end()
    return Derived(manifest, True, writer.tally.examples)


class _Writer:
    """Writes a plan as shards that are all full but the last; bad samples leave no gap."""

    def __init__(self, work: Unfinished, recipe: Recipe, allowed: float, total: int) -> None:
        self.tally = Tally()
        self._work = work
        self._recipe = recipe
        self._allowed = allowed
        self._total = total
        self._rows = Rows(recipe.parents)
        # disable=None: shown on a terminal only
        self._bar = tqdm(total=total, desc=recipe.command, unit="anchor", leave=False, disable=None)

    def write(self, plan: Plan) -> list[ShardEntry]:
        """All shards, in order; those that an earlier run finished are kept."""
        shards: list[ShardEntry] = []
        with RangeReader() as reader, self._bar:
            for kind in KINDS:
                picks, start = plan.picks.get(kind, Picks.concatenate([])), 0
                for number in itertools.count():
                    note = self._work.note(kind, number, start)
                    if note is None:
                        note = self._shard(reader, kind, number, picks, start)
                    else:
                        self._bar.update(note.taken)
                        self._count(note.entry.samples, note.dropped, note.examples)
                    if note is None:
                        break
                    shards.append(note.entry)
                    start += note.taken
        return shards

    def _shard(
        self, reader: RangeReader, kind: Kind, number: int, picks: Picks, start: int
    ) -> Note | None:
        """Write the shard that begins at a pick; None if no good sample is left."""
        tally = Tally()
        samples = self._samples(reader, picks, start, tally)
        first = next(samples, None)
        note = None
        if first is not None:
            rest = itertools.islice(samples, self._recipe.shard_size - 1)
            entry = write_shard(self._work.output, kind, number, itertools.chain([first], rest))
            taken = tally.kept + sum(tally.dropped.values())
            note = Note(entry, start, taken, dict(tally.dropped), tally.examples)
            self._work.keep(number, note)
        self._count(tally.kept, tally.dropped, tally.examples)
        return note

    def _samples(
        self, reader: RangeReader, picks: Picks, start: int, tally: Tally
    ) -> Iterator[tuple[AnchorRecord, bytes | None]]:
        for parent, shard, row in self._rows.at(picks, start):
            anchors = self._recipe.parents[parent]
            place = anchors.place(anchors.manifest.shards[shard])
            self._bar.update()
            try:
                record = _record(self._recipe.revise(parent, row))
                image = self._recipe.image(reader, place, row)
            except BadSample as problem:
                tally.drop(str(row["key"]), problem)
                self._check_ceiling(self.tally.dropped + tally.dropped, problem)
                continue
            tally.kept += 1
            yield record, image

    def _check_ceiling(self, dropped: Counter[str], last: BadSample) -> None:
        number = sum(dropped.values())
        if number > self._allowed:
            raise UserError(
                f"{number:,} of {self._total:,} anchors of {_sets(self._recipe.parents)} cannot be "
                f"used ({_reasons(dropped)}; the last is {last.detail}), which is more than "
                f"--max-bad-fraction allows; fetch the set again, or allow more."
            )

    def _count(self, kept: int, dropped: Mapping[str, int], examples: Sequence[Example]) -> None:
        self.tally.kept += kept
        self.tally.dropped.update(dropped)
        self.tally.examples = [*self.tally.examples, *examples][:EXAMPLES]


def _full(place: str) -> str:
    local = places.is_local(place)
    return str(Path(places.local_path(place)).resolve()) if local else place.rstrip("/")


def _record(row: Row) -> AnchorRecord:
    try:
        return row_record(row)
    except ValidationError as error:
        raise BadSample("bad_record", f"{row['key']}: {first_error(error)}") from None
    except (ValueError, TypeError, RecursionError) as error:  # of the column of unknown fields
        raise BadSample("bad_record", f"{row['key']}: {error}") from None


def _common(values: Sequence[T | None]) -> T | None:
    """What all that have a value agree on, else None."""
    given = [value for value in values if value is not None]
    return given[0] if given and all(value == given[0] for value in given) else None


def _sets(parents: Sequence[AnchorSet]) -> str:
    shown = ", ".join(repr(parent.root) for parent in parents[:3])
    return shown + (f" and {len(parents) - 3:,} more" if len(parents) > 3 else "")


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in sorted(dropped.items()))
