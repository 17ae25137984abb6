"""Some shards of a set, as a set of their own."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.errors import UserError
from schemas.manifest import Counts, Manifest, ShardEntry, set_digest
from schemas.record import KINDS, Kind
from shards.deriving.derive import Recipe, fullest_shard
from shards.reader import AnchorSet


def choose(manifest: Manifest, kinds: Sequence[Kind], shards: Sequence[str]) -> list[ShardEntry]:
    """The shards of some kinds that are named by path or by number.

    Numbers count from 0 within each kind, as the file names do: ``3``, ``0-3``.

    Raises:
        UserError: a path or a number that the set does not have.
    """
    absent = [kind for kind in kinds if kind not in manifest.kinds]
    if absent:
        raise UserError(f"the set holds {', '.join(manifest.kinds)}, but no {absent[0]}.")
    of_kinds = [shard for shard in manifest.shards if not kinds or shard.kind in kinds]
    if not shards:
        return of_kinds
    wanted: set[str] = set()
    for name in shards:
        found = {shard.path for shard in of_kinds if name in (shard.path, shard.index.path)}
        first, dash, last = name.partition("-")
        if first.isdecimal() and (last.isdecimal() or not dash) and len(name) < 20:
            numbers = range(int(first), int(last or first) + 1)
            for kind in KINDS:
                paths = [shard.path for shard in of_kinds if shard.kind == kind]
                found.update(paths[numbers.start : numbers.stop])
        if not found:
            raise UserError(f"the set has no shard {name!r}; name one by path or by number.")
        wanted |= found
    return [shard for shard in of_kinds if shard.path in wanted]


def subset_manifest(anchors: AnchorSet, shards: list[ShardEntry]) -> Manifest:
    """The manifest of some shards of a set: a set of its own, whose parent is the whole."""
    whole = anchors.manifest
    samples = sum(shard.samples for shard in shards)
    counts = Counts(read=whole.samples, kept=samples)
    if samples < whole.samples:
        counts = counts.model_copy(update={"dropped": {"not_pulled": whole.samples - samples}})
    made = Recipe(
        command="pull",
        parents=[anchors],
        options={"shards": [shard.path for shard in shards]},
        shard_size=fullest_shard([anchors]),
        name=whole.name,
        classes=whole.classes,
    )
    return Manifest(
        name=whole.name,
        digest=set_digest(shards),
        kinds=[kind for kind in whole.kinds if any(shard.kind == kind for shard in shards)],
        samples=samples,
        classes=whole.classes,
        shards=shards,
        provenance=made.provenance(counts),
    )
