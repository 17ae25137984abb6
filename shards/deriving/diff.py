"""``diff``: what one set has that another has not, and how their records and manifests differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.manifest import Manifest
from schemas.record import KINDS, Kind
from shards.deriving.identities import Row, identify, record_fields
from shards.deriving.picks import Picks, Rows
from shards.reader import AnchorSet

IMAGE = "image bytes"
"""Named like a field: whether the set holds the image of a record."""

_SIDES = ("only_a", "only_b", "changed")
_PRESENT, _ABSENT = "present", "absent"


@dataclass(frozen=True)
class Changed:
    """Two records of one key; ``fields`` are (in A, in B), None where it has no such field."""

    key: str
    fields: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Difference:
    """How B differs from A.

    Attributes:
        only_a: keys of the records that B has not, in A's order.
        only_b: keys of the records that A has not, in B's order.
        changed: records of both that differ, in A's order.
        equal: how many records are the same in both.
        kinds: only_a, only_b, changed: anchors by kind.
        classes: likewise by kind and class; a pair counts for every class that retrieved it, and
            a changed record for what A says.
        manifest: fields of the manifest that differ, (in A, in B).
    """

    only_a: list[str]
    only_b: list[str]
    changed: list[Changed]
    equal: int
    kinds: dict[str, dict[Kind, int]]
    classes: dict[str, dict[Kind, dict[str, int]]]
    manifest: dict[str, tuple[Any, Any]]

    @property
    def same_records(self) -> bool:
        """True if both have the same anchors."""
        return not (self.only_a or self.only_b or self.changed)

    def as_json(self) -> dict[str, Any]:
        """Plain values, all lists complete."""
        return {
            "only_a": self.only_a,
            "only_b": self.only_b,
            "changed": {
                one.key: {name: list(pair) for name, pair in one.fields.items()}
                for one in self.changed
            },
            "equal": self.equal,
            "kinds": self.kinds,
            "classes": self.classes,
            "manifest": {name: list(pair) for name, pair in self.manifest.items()},
        }


def diff(a: str, b: str) -> Difference:
    """Compare two sets: records by key, whatever their shards and order; then the manifests.

    Image bytes are not read: a record names its image by hash, and ``verify`` holds it to that.

    Raises:
        UserError: no set there, or a parquet is missing or was changed.
    """
    sets = [AnchorSet.open(a), AnchorSet.open(b)]
    of_a, of_b = (identify([one]) for one in sets)
    only_a = of_a.picks.take(np.flatnonzero(~np.isin(of_a.key, of_b.key)))
    only_b = of_b.picks.take(np.flatnonzero(~np.isin(of_b.key, of_a.key)))
    _, in_a, in_b = np.intersect1d(of_a.key, of_b.key, return_indices=True)
    differs = (of_a.content[in_a] != of_b.content[in_b]) | (of_a.image[in_a] != of_b.image[in_b])
    order = np.argsort(in_a[differs])
    changed_a, changed_b = in_a[differs][order], in_b[differs][order]
    counts = {side: _Counts() for side in _SIDES}
    changed = [
        Changed(str(left["key"]), _fields(left, right))
        for left, right in zip(
            counts["changed"].counting(_rows(sets[0], of_a.picks.take(changed_a))),
            _rows(sets[1], of_b.picks.take(changed_b)),
            strict=True,
        )
    ]
    return Difference(
        only_a=[str(r["key"]) for r in counts["only_a"].counting(_rows(sets[0], only_a))],
        only_b=[str(r["key"]) for r in counts["only_b"].counting(_rows(sets[1], only_b))],
        changed=changed,
        equal=len(in_a) - len(changed),
        kinds={side: counts[side].kinds() for side in _SIDES},
        classes={side: counts[side].classes() for side in _SIDES},
        manifest=_manifests(*(one.manifest for one in sets)),
    )


def _rows(anchors: AnchorSet, picks: Picks) -> Iterator[Row]:
    return (row for _, _, row in Rows([anchors]).at(picks))


def _fields(left: Row, right: Row) -> dict[str, tuple[Any, Any]]:
    a, b = record_fields(left), record_fields(right)
    for fields, row in ((a, left), (b, right)):
        fields[IMAGE] = _ABSENT if row["image_offset"] is None else _PRESENT
    return {n: (a.get(n), b.get(n)) for n in sorted(a.keys() | b.keys()) if a.get(n) != b.get(n)}


class _Counts:
    """Counts rows by kind and class as they pass."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._classes: Counter[tuple[str, str]] = Counter()

    def counting(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            kind = row["kind"]
            self._kinds[kind] += 1
            names = [row["class_name"]] if row["class_name"] else row["query_classes"] or []
            self._classes.update((kind, name) for name in names)
            yield row

    def kinds(self) -> dict[Kind, int]:
        return {kind: self._kinds[kind] for kind in KINDS if self._kinds[kind]}

    def classes(self) -> dict[Kind, dict[str, int]]:
        found = sorted(self._classes.items())
        return {
            kind: {name: number for (of, name), number in found if of == kind}
            for kind in KINDS
            if any(of == kind for (of, _), _ in found)
        }


def _manifests(a: Manifest, b: Manifest) -> dict[str, tuple[Any, Any]]:
    """Top-level fields and those of the provenance; shards as their sizes, files not at all.

    The other files follow from the rest, and each shard's bytes from the records.
    """
    left, right = (_flat(manifest) for manifest in (a, b))
    return {
        name: (left.get(name), right.get(name))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    }


def _flat(manifest: Manifest) -> dict[str, Any]:
    body = manifest.model_dump(exclude_none=True, exclude={"shards", "files", "provenance"})
    shards = {k: [s.samples for s in manifest.shards if s.kind == k] for k in manifest.kinds}
    made = manifest.provenance.model_dump(exclude_none=True)
    return body | {"shards": shards} | {f"provenance.{name}": value for name, value in made.items()}
