"""``subset``: those anchors of a set that pass a selection.

Every criterion is a question to one record; a record is dropped under the first that it fails, in
the order in which they stand in Selection, and counted under its name. The class list and every
``class_index`` stay as they are, so that a subset fits beside the set that it is of.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR, KINDS, Kind
from shards.deriving.derive import MAX_BAD_FRACTION, Derived, Plan, Recipe, derive, fullest_shard
from shards.deriving.picks import Picks
from shards.reader import AnchorSet

Missing = Literal["keep", "drop", "drop-pairs"]
MISSING: tuple[Missing, ...] = ("keep", "drop", "drop-pairs")
UNKNOWN = "unknown"
"""Stands for a licence that the source did not state (LAION writes ``?``)."""

_UNSTATED = ("", "?", "unknown")
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """What a subset holds; None asks nothing.

    Attributes:
        kinds: of these kinds.
        classes: of these classes: a pair if one of them retrieved it.
        min_score: pairs only, inclusive; the others have no score and are not asked.
        max_score: likewise.
        licenses: one of these, without regard to case; UNKNOWN is a licence not stated.
        max_punsafe: inclusive.
        max_pwatermark: inclusive.
        nsfw: one of these values, without regard to case.
        missing: what becomes of a record that lacks a column asked for by max_punsafe,
            max_pwatermark or nsfw. ``drop-pairs`` drops pairs and keeps the others, whose images
            are finetune images and have no such columns. None: to meet one is an error.
        fraction: about this share of the rest, decided per key: neither order nor sharding nor
            the other records matter, and of one seed a smaller share is part of a larger one.
        limit_per_class: at most so many of a kind and class, those whose keys hash lowest; a
            pair counts for the first of its classes that was asked for, one without any is kept.
        seed: of both hashes.
    """

    kinds: tuple[Kind, ...] | None = None
    classes: tuple[str, ...] | None = None
    min_score: float | None = None
    max_score: float | None = None
    licenses: tuple[str, ...] | None = None
    max_punsafe: float | None = None
    max_pwatermark: float | None = None
    nsfw: tuple[str, ...] | None = None
    missing: Missing | None = None
    fraction: float | None = None
    limit_per_class: int | None = None
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """What was asked, for the manifest."""
        asked = {name: value for name, value in asdict(self).items() if value is not None}
        if self.fraction is None and self.limit_per_class is None:
            del asked["seed"]
        return {n: list(v) if isinstance(v, tuple) else v for n, v in asked.items()}


def subset(
    place: str,
    output: str,
    selection: Selection,
    *,
    shard_size: int | None = None,
    name: str | None = None,
    max_bad: float = MAX_BAD_FRACTION,
) -> Derived:
    """Write the anchors of a set that pass a selection, in their order.

    Raises:
        UserError: a class that the set does not have, a column missing that was asked for, or
            nothing left; or see derive.
    """
    anchors = AnchorSet.open(place)
    recipe = Recipe(
        command="subset",
        parents=[anchors],
        options=selection.options(),
        shard_size=shard_size or fullest_shard([anchors]),
        name=name or anchors.manifest.name,
        classes=anchors.manifest.classes,
    )
    return derive(output, recipe, lambda: _plan(anchors, selection), max_bad)


def _plan(anchors: AnchorSet, selection: Selection) -> Plan:
    dropped: Counter[str] = Counter()
    seen: set[str] = set(anchors.manifest.classes)
    picks: dict[Kind, list[Picks]] = {kind: [] for kind in KINDS}
    hashes: dict[Kind, list[NDArray[np.uint64]]] = {kind: [] for kind in KINDS}
    groups: dict[Kind, list[str | None]] = {kind: [] for kind in KINDS}
    for number, shard in enumerate(anchors.manifest.shards):
        table = anchors.table(shard)
        alive = np.ones(table.num_rows, bool)
        for reason, passes in criteria(table, alive, shard.kind, selection, anchors.root):
            dropped[reason] += int((alive & ~passes).sum())
            alive &= passes
        if selection.classes is not None:
            seen.update(pc.unique(table.column("class_name")).to_pylist())
            seen.update(pc.unique(pc.list_flatten(table.column("query_classes"))).to_pylist())
        picks[shard.kind].append(Picks.of_shard(0, number, np.flatnonzero(alive)))
        if selection.limit_per_class is not None:
            left = table.filter(pa.array(alive))
            hashes[shard.kind].append(key_hashes(left.column("key").to_pylist(), selection.seed, 1))
            groups[shard.kind] += _groups(left, selection.classes)
    absent = sorted(set(selection.classes or ()) - seen)
    if absent:
        raise UserError(f"{anchors.root!r} has no class {absent[0]!r}; look with inspect --json.")
    chosen = {kind: Picks.concatenate(parts) for kind, parts in picks.items()}
    if selection.limit_per_class is not None:
        for kind in KINDS:
            among = np.concatenate([np.zeros(0, np.uint64), *hashes[kind]])
            passes = lowest_per_group(among, groups[kind], selection.limit_per_class)
            dropped["limit_per_class"] += int((~passes).sum())
            chosen[kind] = chosen[kind].take(passes)
    return Plan(chosen, {reason: n for reason, n in dropped.items() if n})


def criteria(
    table: pa.Table, alive: Mask, kind: Kind, selection: Selection, where: str
) -> Iterator[tuple[str, Mask]]:
    """Per criterion asked for: its name, and which rows of a shard's table pass it.

    ``alive`` are the rows that passed those before; the caller narrows it as they come.

    Raises:
        UserError: such a row lacks a column, and the selection does not say what becomes of it.
    """
    s = selection
    if s.kinds is not None:
        yield "kind", np.full(table.num_rows, kind in s.kinds)
    if s.classes is not None:
        yield "class", _of_classes(table, s.classes)
    scores = table.column("score")
    if s.min_score is not None:
        yield "min_score", _mask(pc.greater_equal(scores, s.min_score), absent=True)
    if s.max_score is not None:
        yield "max_score", _mask(pc.less_equal(scores, s.max_score), absent=True)
    if s.licenses is not None:
        yield "license", _licensed(table.column("license"), s.licenses)
    for reason, column, most in (
        ("max_punsafe", "punsafe", s.max_punsafe),
        ("max_pwatermark", "pwatermark", s.max_pwatermark),
    ):
        if most is not None:
            keep = _keeps_absent(table, alive, column, kind, s.missing, where)
            yield reason, _mask(pc.less_equal(table.column(column), most), absent=keep)
    if s.nsfw is not None:
        keep = _keeps_absent(table, alive, "nsfw", kind, s.missing, where)
        wanted = pa.array([value.casefold() for value in s.nsfw], pa.string())
        yield "nsfw", _mask(_is_in(pc.utf8_lower(table.column("nsfw")), wanted), absent=keep)
    if s.fraction is not None:
        # 53 bits, which a float holds exactly
        drawn = key_hashes(table.column("key").to_pylist(), s.seed, 0) >> np.uint64(11)
        yield "fraction", drawn.astype(np.float64) / 2.0**53 < s.fraction


def key_hashes(keys: Sequence[str], seed: int, use: int) -> NDArray[np.uint64]:
    """64 bits a key, from SHA-256 of use, seed and key; another use is an independent draw."""
    prefix = f"{use}\0{seed}\0".encode()
    digests = b"".join(hashlib.sha256(prefix + key.encode()).digest()[:8] for key in keys)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def lowest_per_group(hashes: NDArray[np.uint64], groups: Sequence[str | None], limit: int) -> Mask:
    """Which items are among the ``limit`` lowest of their group; those of no group all are."""
    names = sorted({group for group in groups if group is not None})
    number = {name: i for i, name in enumerate(names)}
    code = np.array([-1 if g is None else number[g] for g in groups], np.int64)
    order = np.lexsort((hashes, code))
    ordered = code[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    passes = np.zeros(len(code), bool)
    passes[order] = (np.arange(len(code)) - starts < limit) | (ordered < 0)
    return passes


def _groups(table: pa.Table, wanted: tuple[str, ...] | None) -> list[str | None]:
    names = table.column("class_name").to_pylist()
    asked = table.column("query_classes").to_pylist()
    among = None if wanted is None else set(wanted)
    return [
        name or next((c for c in classes or [] if among is None or c in among), None)
        for name, classes in zip(names, asked, strict=True)
    ]


def _of_classes(table: pa.Table, classes: tuple[str, ...]) -> Mask:
    wanted = pa.array(classes, pa.string())
    passes = _mask(_is_in(table.column("class_name"), wanted), absent=False)
    asked = table.column("query_classes").combine_chunks()
    hit = _mask(_is_in(pc.list_flatten(asked), wanted), absent=False)
    passes[pc.list_parent_indices(asked).to_numpy()[hit]] = True
    return passes


def _licensed(column: pa.ChunkedArray, licenses: tuple[str, ...]) -> Mask:
    wanted = {license.strip().casefold() for license in licenses}
    if UNKNOWN in wanted:
        wanted.update(_UNSTATED)
    stated = pc.utf8_trim_whitespace(pc.fill_null(column, "?"))
    values = [value.casefold() for value in stated.to_pylist()]
    return np.array([value in wanted for value in values], bool)


def _keeps_absent(
    table: pa.Table, alive: Mask, column: str, kind: Kind, missing: Missing | None, where: str
) -> bool:
    lacking = np.flatnonzero(alive & table.column(column).is_null().to_numpy())
    if len(lacking) and missing is None:
        raise UserError(
            f"{where!r} has {kind} anchors that say nothing of {column} "
            f"({table.column('key')[int(lacking[0])].as_py()} is one); say with --missing "
            f"{', '.join(MISSING[:-1])} or {MISSING[-1]} what becomes of them."
        )
    return missing == "keep" or (missing == "drop-pairs" and kind != IMAGE_TEXT_PAIR)


def _is_in(column: Any, wanted: pa.Array) -> Any:
    """Like pc.is_in, but null where the column is."""
    return pc.if_else(pc.is_valid(column), pc.is_in(column, value_set=wanted), None)


def _mask(passes: Any, *, absent: bool) -> Mask:
    mask: Mask = np.array(pc.fill_null(passes, absent).to_numpy(zero_copy_only=False), bool)
    return mask
