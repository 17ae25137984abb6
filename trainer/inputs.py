"""What a run reads, opened and checked: the finetune images, the anchors, their weights."""

from __future__ import annotations

import sys

from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, Kind
from shards.decoding import Tally
from shards.reader import AnchorSet
from shards.sources import open_labelled
from trainer.captions import Captions, join_captions
from trainer.config import TrainConfig
from trainer.index import Anchors, ImageIndex, index_anchors, index_images
from trainer.loss import Weights


def resolve_weights(config: TrainConfig, anchor_set: AnchorSet | None) -> Weights:
    """The lambdas: as given, else 1 for each kind that the set has, else 0.

    Raises:
        UserError: a lambda above 0, or a batch size, for a kind that the set lacks.
    """

    def resolve(kind: Kind, asked: float | None, name: str) -> float:
        has = anchor_set is not None and kind in anchor_set.manifest.kinds
        if asked and not has:
            where = "there is no anchor set" if anchor_set is None else repr(anchor_set.root)
            raise UserError(f"{name} {asked:g} needs {kind} anchors, but {where} has none.")
        return float(has) if asked is None else asked

    weights = Weights(
        tc=resolve(TEXT_COMPENSATED, config.loss.lambda_tc, "--lambda-tc"),
        itp=resolve(IMAGE_TEXT_PAIR, config.loss.lambda_itp, "--lambda-itp"),
    )
    if config.data.anchor_batch_size is not None and not weights.itp:
        raise UserError("--anchor-batch-size means nothing for a set without image-text pairs.")
    return weights


def open_finetune(config: TrainConfig) -> ImageIndex:
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
        say(f"{what}; {example}")
    say(f"finetune: {len(index):,} images of {len(index.classes):,} classes")
    return index


def open_anchors(
    anchor_set: AnchorSet | None, weights: Weights, index: ImageIndex
) -> tuple[Captions | None, Anchors | None]:
    """The text-compensated and the image-text-pair anchors; None for a term of weight 0.

    Raises:
        UserError: a broken table, no caption for any image, or pairs without images.
    """
    captions = anchors = None
    if anchor_set is not None and weights.tc:
        texts = index_anchors(anchor_set, TEXT_COMPENSATED)
        captions = join_captions(index, texts, where=anchor_set.root)
        found = f" ({captions.by_content:,} by content)" if captions.by_content else ""
        say(f"captions: {captions.matched():,} of {len(index):,} finetune images{found}")
    if anchor_set is not None and weights.itp:
        anchors = index_anchors(anchor_set, IMAGE_TEXT_PAIR)
        say(f"anchors: {len(anchors):,} image-text pairs")
    return captions, anchors


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)
