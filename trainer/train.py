"""A whole run: open the data, load the model, train, save, measure."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.clip import Clip, load_clip, resolve, save_clip
from shards import places
from shards.reader import AnchorSet
from trainer.checkpoint import drop_state, load_state
from trainer.config import TrainConfig, check
from trainer.data import TrainingBatches, load_batches, train_transform
from trainer.data_sets import DataSet, open_data_sets
from trainer.devices import choose_device, choose_precision
from trainer.evaluate import evaluate_all
from trainer.inputs import open_anchors, open_finetune, resolve_weights, say
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
    resolve(config.run.model)  # a wrong name is known before the data is walked
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
    weights = resolve_weights(config, anchor_set)
    templates = templates_for(config.data.finetune, config.data.templates)
    index = open_finetune(config)
    captions, anchors = open_anchors(anchor_set, weights, index)
    with torch.random.fork_rng(devices=[]):  # a model is built with random weights first
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
    plan = make_plan(config, dataset.order.steps_per_epoch, weights, device)
    inputs = {
        "start_model": {"name": clip.name, "weights_sha256": clip.weights_sha256()},
        "finetune_data": {"images": len(index), "sha256": index.digest()},
        "anchor_set": about_anchors,
        "templates": list(templates),
    }
    folder.mkdir(parents=True, exist_ok=True)
    if config.run.force:
        clear(folder)  # not before everything that the run needs is there
    describe_run(folder, config, resolved=describe_plan(plan, dataset), inputs=inputs)

    model = clip.model.to(device)
    optimizer = make_optimizer(model, config.optim)
    bad = BadSamples(config.data.max_bad_fraction, samples_per_epoch(dataset))
    state = load_state(folder, model, optimizer)
    start = 0
    if state is not None:
        start = int(state["step"])
        bad.restore(state["bad"])
        say(f"going on after step {start:,} of {plan.total:,}")
    say(
        f"training: {plan.total:,} steps of {dataset.order.batch:,} images, {plan.warmup:,} of "
        f"warm-up, lambda-tc {weights.tc:g}, lambda-itp {weights.itp:g}, {device}"
    )
    if start < plan.total:
        workers = config.data.workers
        workers = min(8, os.cpu_count() or 1) if workers is None else workers
        pin = device.type == "cuda"
        batches = load_batches(dataset, start, plan.total, workers=workers, pin=pin)
        run_loop(
            model, optimizer, batches, plan, start=start, device=device, folder=folder, bad=bad
        )
    if bad.total:
        say(f"left out: {bad.describe()}; for example {'; '.join(bad.examples)}")

    model.eval()
    save_clip(clip, folder)
    plot_losses(folder)
    results = measure(config, folder, clip, measured, device) if measured else None
    drop_state(folder)  # last: a folder without it, and with a model, is a finished run
    return TrainResult(folder, plan.total, dict(bad.total), results)


def make_plan(
    config: TrainConfig, steps_per_epoch: int, weights: Weights, device: torch.device
) -> Plan:
    """What the options come to for a data set of so many steps an epoch.

    Raises:
        UserError: the warm-up is longer than the run.
    """
    total = config.optim.epochs * steps_per_epoch
    return Plan(
        steps_per_epoch=steps_per_epoch,
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


def describe_plan(plan: Plan, dataset: TrainingBatches) -> dict[str, Any]:
    """What defaults came to, for config.json."""
    return {
        "lambda_tc": plan.weights.tc,
        "lambda_itp": plan.weights.itp,
        "batch_size": dataset.order.batch,
        "anchor_batch_size": dataset.anchor_order.batch if dataset.anchor_order else None,
        "steps_per_epoch": plan.steps_per_epoch,
        "steps": plan.total,
        "warmup": plan.warmup,
        "precision": str(plan.precision).removeprefix("torch."),
        "classes": dataset.index.classes,
    }


def samples_per_epoch(dataset: TrainingBatches) -> dict[str, int]:
    """Samples that an epoch of finetune images asks for, by kind of images."""
    steps = dataset.order.steps_per_epoch
    anchors = dataset.anchor_order
    return {"finetune": steps * dataset.order.batch} | (
        {"anchors": steps * anchors.batch} if anchors else {}
    )


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
