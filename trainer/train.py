"""A whole run: open the data, load the model, train, save, measure."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.clip import Clip, load_clip, save_clip
from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, Kind
from shards import places
from shards.decoding import Tally
from shards.reader import AnchorSet
from shards.sources import open_labelled
from trainer.captions import join_captions
from trainer.checkpoint import drop_state, load_state
from trainer.config import LossConfig, TrainConfig, check
from trainer.data import TrainingBatches, load_batches, train_transform
from trainer.data_sets import DataSet, open_data_sets
from trainer.devices import choose_device, choose_precision
from trainer.evaluate import evaluate_all
from trainer.index import ImageIndex, index_anchors, index_images
from trainer.loop import Plan, run_loop
from trainer.loss import Weights
from trainer.metrics import BadSamples, plot_losses
from trainer.optim import make_optimizer, warmup_steps
from trainer.output import (
    RESULTS_NAME,
    check_inputs,
    claim,
    clear,
    describe_run,
    output_folder,
)
from trainer.templates import templates_for


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        output: the run's folder, a model folder now.
        steps: of the whole run; 0 if it had been finished before.
        bad: samples left out, ``images/reason`` to number.
        results: what results.json holds, if measuring was asked for.
    """

    output: Path
    steps: int
    bad: dict[str, int]
    results: dict[str, Any] | None


def train(config: TrainConfig) -> TrainResult:
    """Train, or go on with a run that was interrupted; the same config comes to the same bits.

    Raises:
        UserError: an option, the data, the model or the output folder must be mended first.
    """
    check(config)
    folder = output_folder(config.run.output)
    finished = claim(config)
    device = choose_device(config.run.device)
    measured = open_data_sets(
        {
            "id": config.run.eval_id,
            "shift": config.run.eval_shift,
            "zero_shot": config.run.eval_zero_shot,
        }
    )
    anchor_set = None if config.data.anchors is None else AnchorSet.open(config.data.anchors)
    about_anchors = None
    if anchor_set is not None:
        about_anchors = {"name": anchor_set.manifest.name, "digest": anchor_set.manifest.digest}
    if finished:
        check_inputs(folder, {"anchor_set": about_anchors})
        return TrainResult(folder, 0, {}, measure_again(config, folder, measured, device))
    weights = resolve_weights(config.loss, anchor_set)
    if config.data.anchor_batch_size is not None and not weights.itp:
        raise UserError("--anchor-batch-size means nothing for a set without image-text pairs.")
    templates = templates_for(config.data.finetune, config.data.templates)
    index = open_finetune(config)
    captions = anchors = None
    if anchor_set is not None and weights.tc:
        captions = join_captions(
            index, index_anchors(anchor_set, TEXT_COMPENSATED), where=anchor_set.root
        )
        found = f" ({captions.by_content:,} by content)" if captions.by_content else ""
        say(f"captions: {captions.matched():,} of {len(index):,} finetune images{found}")
    if anchor_set is not None and weights.itp:
        anchors = index_anchors(anchor_set, IMAGE_TEXT_PAIR)
        say(f"anchors: {len(anchors):,} image-text pairs")

    clip = load_clip(config.run.model)
    dataset = TrainingBatches(
        index,
        templates=templates,
        transform=train_transform(clip.preprocess_cfg, config.data.crop_min),
        tokenizer=clip.tokenizer,
        seed=config.run.seed,
        batch_size=config.data.batch_size,
        captions=captions,
        anchors=anchors,
        anchor_batch_size=config.data.anchor_batch_size or config.data.batch_size,
    )
    order, anchor_order = dataset.order, dataset.anchor_order
    total = config.optim.epochs * order.steps_per_epoch
    plan = Plan(
        steps_per_epoch=order.steps_per_epoch,
        total=total,
        warmup=warmup_steps(config.optim.warmup, total),
        lr=config.optim.lr,
        weights=weights,
        multi_positive=config.loss.multi_positive,
        clip_grad=config.optim.clip_grad,
        seed=config.run.seed,
        precision=choose_precision(config.run.precision, device),
        log_every=config.run.log_every,
        checkpoint_every=config.run.checkpoint_every,
    )
    folder.mkdir(parents=True, exist_ok=True)
    if config.run.force:
        clear(folder)  # not before everything that the run needs is there
    describe_run(
        folder,
        config,
        resolved={
            "lambda_tc": weights.tc,
            "lambda_itp": weights.itp,
            "batch_size": order.batch,
            "anchor_batch_size": anchor_order.batch if anchor_order else None,
            "steps_per_epoch": plan.steps_per_epoch,
            "steps": total,
            "warmup": plan.warmup,
            "precision": str(plan.precision).removeprefix("torch."),
            "classes": index.classes,
            "templates": list(templates),
        },
        inputs={
            "start_model": {"name": clip.name, "weights_sha256": clip.weights_sha256()},
            "finetune_data": {"images": len(index), "sha256": index.digest()},
            "anchor_set": about_anchors,
            "templates": list(templates),
        },
    )

    model = clip.model.to(device)
    optimizer = make_optimizer(model, config.optim)
    per_epoch = {"finetune": plan.steps_per_epoch * order.batch}
    if anchor_order is not None:
        per_epoch["anchors"] = plan.steps_per_epoch * anchor_order.batch
    bad = BadSamples(config.data.max_bad_fraction, per_epoch)
    state = load_state(folder, model, optimizer)
    start = 0 if state is None else int(state["step"])
    if state is not None:
        bad.restore(state["bad"])
        say(f"going on after step {start:,} of {total:,}")
    say(
        f"training: {total:,} steps of {order.batch:,} images, {plan.warmup:,} of warm-up, "
        f"lambda-tc {weights.tc:g}, lambda-itp {weights.itp:g}, {device}"
    )
    workers = config.data.workers
    if workers is None:
        workers = min(8, os.cpu_count() or 1)
    if start < total:
        batches = load_batches(dataset, start, total, workers=workers, pin=device.type == "cuda")
        run_loop(
            model, optimizer, batches, plan, start=start, device=device, folder=folder, bad=bad
        )
    if bad.total:
        say(f"left out: {bad.describe()}")
        for example in bad.examples:
            say(f"  {example}")

    clip.model.eval()
    save_clip(clip, folder)
    plot_losses(folder)
    results = measure(config, folder, clip, measured, device) if measured else None
    drop_state(folder)  # last: a folder without it, and with a model, is a finished run
    return TrainResult(folder, total, dict(bad.total), results)


def resolve_weights(config: LossConfig, anchor_set: AnchorSet | None) -> Weights:
    """The lambdas: as given, else 1 for each kind that the set has, else 0.

    Raises:
        UserError: a lambda above 0 for a kind that the set lacks.
    """

    def resolve(kind: Kind, asked: float | None, name: str) -> float:
        has = anchor_set is not None and kind in anchor_set.manifest.kinds
        if asked and not has:
            where = "there is no anchor set" if anchor_set is None else repr(anchor_set.root)
            raise UserError(f"{name} {asked:g} needs {kind} anchors, but {where} has none.")
        return float(has) if asked is None else asked

    return Weights(
        tc=resolve(TEXT_COMPENSATED, config.lambda_tc, "--lambda-tc"),
        itp=resolve(IMAGE_TEXT_PAIR, config.lambda_itp, "--lambda-itp"),
    )


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


def measure(
    config: TrainConfig,
    folder: Path,
    clip: Clip,
    data_sets: Sequence[DataSet],
    device: torch.device,
) -> dict[str, Any]:
    """Evaluate the finished model and write results.json; returns what it holds.

    Raises:
        UserError: a data set has no images, or too many bad ones.
    """
    results = evaluate_all(
        clip, data_sets, device=device, max_bad_fraction=config.data.max_bad_fraction
    )
    places.write_bytes(str(folder / RESULTS_NAME), (json.dumps(results, indent=2) + "\n").encode())
    return results


def measure_again(
    config: TrainConfig, folder: Path, data_sets: Sequence[DataSet], device: torch.device
) -> dict[str, Any] | None:
    """The results of a finished run; measured now if other data sets are asked for than then."""
    path = folder / RESULTS_NAME
    held: dict[str, Any] | None = json.loads(path.read_bytes()) if path.exists() else None
    known = set() if held is None else set(held["datasets"])
    if {data.name for data in data_sets} <= known:
        return held
    return measure(config, folder, load_clip(str(folder), device=device), data_sets, device)


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)
