"""``merge``: the union of sets, every anchor once.

Two records with the same key are the same anchor. If they are equal they collapse into one; if
they differ that is an error, unless the caller says whose record counts.

**Classes.** The class lists are united: first those of the first set, then what the second has
beyond them in its own order, and so on. A name that a set has twice (two classes of one name) is
two classes in the union. ``class_index`` of every record is renumbered from its own set's list to
the united one; ``class_name`` stays. So an anchor that two sets number differently is still
equal, and the first set's numbers never change.

**Laws.** Anchors stand in the order in which the sets first have them, so merging in any grouping
gives the same records in the same order, and merging a set with itself or with a part of it
gives that set. The shard size is by default that of the fullest shard read, which makes the
digests equal too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.errors import BadSample, UserError
from schemas.record import KINDS
from shards.deriving.derive import MAX_BAD_FRACTION, Derived, Plan, Recipe, derive, fullest_shard
from shards.deriving.identities import Identities, Row, identify, record_fields
from shards.deriving.picks import Rows
from shards.reader import AnchorSet

OnConflict = Literal["error", "first", "last"]
ON_CONFLICT: tuple[OnConflict, ...] = ("error", "first", "last")


def merge(
    places: Sequence[str],
    output: str,
    *,
    on_conflict: OnConflict = "error",
    shard_size: int | None = None,
    name: str | None = None,
    max_bad: float = MAX_BAD_FRACTION,
) -> Derived:
    """Write the union of sets; see above.

    Args:
        places: the sets, in order.
        output: folder of the new set.
        on_conflict: whose record counts where two of one key differ: the ``first`` or the
            ``last`` set's, or neither (``error``).
        shard_size: anchors per shard; default: as in the fullest shard of the sets.
        name: of the new set; default: that of the first.
        max_bad: share of the anchors that may be corrupt.

    Raises:
        UserError: two records of one key differ; or see derive.
    """
    sets = [AnchorSet.open(place) for place in places]
    classes, numbers = unite_classes([anchors.manifest.classes for anchors in sets])

    def revise(parent: int, row: Row) -> Row:
        old = row["class_index"]
        if old is None:
            return row
        if not 0 <= old < len(numbers[parent]):
            raise BadSample("unknown_class", f"{row['key']}: class {old} of {len(numbers[parent])}")
        return row | {"class_index": numbers[parent][old]}

    recipe = Recipe(
        command="merge",
        parents=sets,
        options={"on_conflict": on_conflict},
        shard_size=shard_size or fullest_shard(sets),
        name=name or sets[0].manifest.name,
        classes=classes,
        revise=revise,
    )
    return derive(
        output, recipe, lambda: _plan(sets, identify(sets, revise, "merging"), on_conflict), max_bad
    )


def unite_classes(lists: Sequence[Sequence[str]]) -> tuple[list[str], list[list[int]]]:
    """One class list, and per list the new index of each of its classes.

    A class is a name and how often the list had it before: the second "crane" of one list is the
    second "crane" of every other.
    """
    united: dict[tuple[str, int], int] = {}
    numbers: list[list[int]] = []
    for classes in lists:
        seen: Counter[str] = Counter()
        numbers.append([])
        for name in classes:
            numbers[-1].append(united.setdefault((name, seen[name]), len(united)))
            seen[name] += 1
    return [name for name, _ in united], numbers


def _plan(sets: Sequence[AnchorSet], records: Identities, on_conflict: OnConflict) -> Plan:
    """Which record stands for each key, in the order in which the keys first come."""
    _, first, group = np.unique(records.key, return_index=True, return_inverse=True)
    differs = records.content != records.content[first][group]
    if on_conflict == "error" and differs.any():
        raise _conflict(sets, records, int(np.flatnonzero(differs)[0]), first, group)
    chosen = first
    if on_conflict == "last":
        chosen = np.zeros_like(first)
        chosen[group] = np.arange(len(group))  # later ones overwrite
    equal = records.content == records.content[chosen][group]
    # Of equal records the first that has its image: one of the sets may have been stripped.
    best = np.lexsort((~records.image, ~equal, group))
    winner = best[np.unique(group[best], return_index=True)[1]]
    winner = winner[np.argsort(first, kind="stable")]
    picks = records.picks.take(winner)
    kinds = [[KINDS.index(s.kind) for s in anchors.manifest.shards] for anchors in sets]
    kind = np.array(
        [kinds[p][s] for p, s in zip(picks.parent.tolist(), picks.shard.tolist(), strict=True)],
        np.int8,
    )
    dropped = {
        "equal_record": int(equal.sum()) - len(winner),
        "conflicting_record": int((~equal).sum()),
    }
    return Plan(
        {name: picks.take(kind == number) for number, name in enumerate(KINDS)},
        {reason: number for reason, number in dropped.items() if number},
    )


def _conflict(
    sets: Sequence[AnchorSet],
    records: Identities,
    second: int,
    first: NDArray[Any],
    group: NDArray[Any],
) -> UserError:
    pair = records.picks.take(np.array([first[group[second]], second]))
    (one, _, left), (other, _, right) = Rows(sets).at(pair)
    a, b = record_fields(left), record_fields(right)
    fields = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    return UserError(
        f"anchor {left['key']!r} differs between {sets[one].root!r} and {sets[other].root!r} "
        f"(in {', '.join(fields)}); say with --on-conflict first or last which one counts."
    )
