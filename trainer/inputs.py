"""What a run reads, opened and checked: the finetune images, the anchors, their weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, Kind
from shards.decoding import Tally
from shards.reader import AnchorSet
from shards.sources import open_labelled
from trainer.captions import join_captions
from trainer.config import TrainConfig
from trainer.data import Share
from trainer.index import ImageIndex, index_anchors, index_images
from trainer.methods.method import AnchorWeights, Method
from trainer.parallel.processes import World

T = TypeVar("T")


def open_sets(config: TrainConfig) -> list[AnchorSet]:
    """The anchor sets that are asked for.

    Raises:
        UserError: no set is there, or it cannot be read.
    """
    return [AnchorSet.open(place) for place in config.data.anchors]


def set_names(sets: Sequence[AnchorSet]) -> list[str]:
    """A name for each set, for metrics: its own, with a number where two have the same."""
    names: list[str] = []
    for one in sets:
        name, number = one.manifest.name, 2
        while name in names:
            name, number = f"{one.manifest.name}-{number}", number + 1
        names.append(name)
    return names


def resolve_weights(
    config: TrainConfig, method: Method, sets: Sequence[AnchorSet]
) -> tuple[AnchorWeights, ...]:
    """The lambdas of each set: as given, else 1 for each kind that set and method have, else 0.

    Raises:
        UserError: the method takes no anchors, or lacks them; a lambda or a batch size for a kind
            that a set lacks; a list of values that is not one for each set.
    """
    if sets and not method.anchors:
        raise UserError(f"--method {method.name} takes no anchors; leave --anchors out.")
    if method.anchors and not sets:
        raise UserError(f"--method {method.name} needs anchors; give --anchors.")
    found: list[AnchorWeights] = []
    for number, (name, one) in enumerate(zip(set_names(sets), sets, strict=True)):
        lambdas = [
            _lambda(_given(given, flag, number, len(sets)), flag, kind, method, one)
            for kind, given, flag in (
                (TEXT_COMPENSATED, config.loss.lambda_tc, "--lambda-tc"),
                (IMAGE_TEXT_PAIR, config.loss.lambda_itp, "--lambda-itp"),
            )
        ]
        found.append(AnchorWeights(name, *lambdas))
    if config.data.anchor_batch_size and not any(one.itp for one in found):
        raise UserError("--anchor-batch-size means nothing without image-text pairs; leave it out.")
    return tuple(found)


def _given(values: tuple[T, ...], flag: str, number: int, sets: int) -> T | None:
    """The value for a set of what may be given once for all, or once for each."""
    if len(values) not in (0, 1, sets):
        raise UserError(f"{flag} has {len(values)} values for {sets} anchor sets; give one each.")
    return values[number if len(values) > 1 else 0] if values else None


def _lambda(
    asked: float | None, flag: str, kind: Kind, method: Method, anchors: AnchorSet
) -> float:
    has = kind in anchors.manifest.kinds
    if asked and kind not in method.anchors:
        raise UserError(f"{flag} {asked:g} means nothing for --method {method.name}; leave it out.")
    if asked and not has:
        raise UserError(f"{flag} {asked:g} needs {kind} anchors, but {anchors.root!r} has none.")
    return float(has and kind in method.anchors) if asked is None else asked


def open_finetune(config: TrainConfig, world: World) -> ImageIndex:
    """Index the finetune images, and say how many there are.

    Raises:
        UserError: nothing there, or too many samples that cannot be used.
    """
    source = open_labelled(config.data.finetune, config.data.classnames, "train")
    tally = Tally()
    index = index_images(source, tally)
    bad = sum(tally.dropped.values())
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(tally.dropped.items()))
    if bad:
        key, reason, detail = tally.examples[0]
        what = f"{bad:,} of {bad + len(index):,} samples of {source.place!r} are bad ({reasons})"
        example = f"for example {key}: {reason} ({detail})"
        if bad > config.data.max_bad_fraction * (bad + len(index)):
            limit = f"--max-bad-fraction {config.data.max_bad_fraction:g}"
            raise UserError(f"{what}, more than {limit}; {example}.")
        say(f"{what}; {example}", world)
    say(f"finetune: {len(index):,} images of {len(index.classes):,} classes", world)
    return index


def open_shares(
    config: TrainConfig,
    sets: Sequence[AnchorSet],
    weights: Sequence[AnchorWeights],
    index: ImageIndex,
    world: World,
) -> list[Share]:
    """What each set gives to the batches; what has weight 0 is not even read.

    Raises:
        UserError: a broken table, no caption for any image, or pairs without images.
    """
    shares: list[Share] = []
    for number, (one, weight) in enumerate(zip(sets, weights, strict=True)):
        captions = pairs = None
        if weight.tc:
            texts = index_anchors(one, TEXT_COMPENSATED)
            captions = join_captions(index, texts, where=one.root)
            found = f" ({captions.by_content:,} by content)" if captions.by_content else ""
            say(
                f"captions of {weight.name}: {captions.matched():,} of {len(index):,} finetune "
                f"images{found}",
                world,
            )
        if weight.itp:
            pairs = index_anchors(one, IMAGE_TEXT_PAIR)
            say(f"anchors of {weight.name}: {len(pairs):,} image-text pairs", world)
        size = _given(config.data.anchor_batch_size, "--anchor-batch-size", number, len(sets))
        shares.append(Share(weight.name, captions, pairs, size or config.data.batch_size))
    return shares


def say(text: str, world: World | None = None) -> None:
    """A line for the person at the terminal; of several processes the first one speaks."""
    if world is None or world.first:
        print(text, file=sys.stderr, flush=True)
