"""``strip``: a set without the bytes of its finetune images, to share where they may not be.

The records stay as they are: they name each image by its SHA-256, by which ``join`` and the
trainer find it again in the receiver's own copy of the data.
"""

from __future__ import annotations

from typing import Literal

from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED
from shards.deriving.derive import (
    MAX_BAD_FRACTION,
    Derived,
    Plan,
    Recipe,
    Row,
    derive,
    fullest_shard,
)
from shards.deriving.picks import Picks
from shards.deriving.reshard import everything
from shards.reader import AnchorSet, RangeReader, read_image

Pairs = Literal["keep", "drop"]
PAIRS: tuple[Pairs, ...] = ("keep", "drop")


def strip(
    place: str,
    output: str,
    *,
    pairs: Pairs | None = None,
    shard_size: int | None = None,
    name: str | None = None,
    max_bad: float = MAX_BAD_FRACTION,
) -> Derived:
    """Write a set whose text-compensated anchors have no image bytes.

    Args:
        place: the set.
        output: folder of the new set.
        pairs: image-text pairs mean nothing without their images: ``keep`` them whole, or
            ``drop`` them. A set that has some must be told which, lest images be shared that
            were not meant to be.
        shard_size: anchors per shard; default: as in the fullest shard of the set.
        name: of the new set; default: that of the set.
        max_bad: share of the anchors that may be corrupt.

    Raises:
        UserError: nothing to strip, or pairs and nothing said of them; or see derive.
    """
    anchors = AnchorSet.open(place)
    if not any(shard.samples for shard in anchors.shards(TEXT_COMPENSATED)):
        raise UserError(f"{place!r} holds no {TEXT_COMPENSATED} anchors, whose images strip drops.")
    if pairs is None and any(shard.samples for shard in anchors.shards(IMAGE_TEXT_PAIR)):
        raise UserError(
            f"{place!r} also holds {IMAGE_TEXT_PAIR} anchors, which are nothing without their "
            f"images: say --pairs keep to share those images, or --pairs drop to leave them out."
        )
    recipe = Recipe(
        command="strip",
        parents=[anchors],
        options={} if pairs is None else {"pairs": pairs},
        shard_size=shard_size or fullest_shard([anchors]),
        name=name or anchors.manifest.name,
        classes=anchors.manifest.classes,
        image=_image,
    )
    return derive(output, recipe, lambda: _plan(anchors, pairs), max_bad)


def _plan(anchors: AnchorSet, pairs: Pairs | None) -> Plan:
    plan = everything(anchors)
    dropped = plan.picks[IMAGE_TEXT_PAIR]
    if pairs != "drop" or not len(dropped):
        return plan
    picks = plan.picks | {IMAGE_TEXT_PAIR: Picks.concatenate([])}
    return Plan(picks, {"image_text_pair": len(dropped)})


def _image(reader: RangeReader, place: str, row: Row) -> bytes | None:
    return None if row["kind"] == TEXT_COMPENSATED else read_image(reader, place, row)
