"""``reshard``: the same anchors in the same order, cut into shards of another size."""

from __future__ import annotations

import numpy as np

from schemas.record import KINDS
from shards.deriving.derive import MAX_BAD_FRACTION, Derived, Plan, Recipe, derive
from shards.deriving.picks import Picks
from shards.reader import AnchorSet


def reshard(
    place: str,
    output: str,
    *,
    shard_size: int,
    name: str | None = None,
    max_bad: float = MAX_BAD_FRACTION,
) -> Derived:
    """Write a set again with ``shard_size`` anchors a shard.

    Only the shard size counts: resharding to 7 and then to 5 gives the digest of resharding to 5.

    Raises:
        UserError: see derive.
    """
    anchors = AnchorSet.open(place)
    recipe = Recipe(
        command="reshard",
        parents=[anchors],
        options={},
        shard_size=shard_size,
        name=name or anchors.manifest.name,
        classes=anchors.manifest.classes,
    )
    return derive(output, recipe, lambda: everything(anchors), max_bad)


def everything(anchors: AnchorSet) -> Plan:
    """All records of one set, in order."""
    shards = list(enumerate(anchors.manifest.shards))
    return Plan(
        {
            kind: Picks.concatenate(
                [
                    Picks.of_shard(0, number, np.arange(shard.samples))
                    for number, shard in shards
                    if shard.kind == kind
                ]
            )
            for kind in KINDS
        }
    )
