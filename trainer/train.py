"""A whole run: open the data, load the model, train, save, measure."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models.clip import Clip, load_clip, resolve
from trainer.best import Measuring, best_by, save_model
from trainer.card import write_card
from trainer.checkpoint import Stateful, drop_state, load_state
from trainer.classifier import (
    Classifier,
    Trained,
    load_classifier,
)
from trainer.config import TrainConfig, check
from trainer.data import TrainingBatches, load_batches
from trainer.data_sets import DataSet
from trainer.devices import choose_device, float32_products, make_scaler
from trainer.draws import Order
from trainer.evaluate import evaluate_all
from trainer.faults import NONFINITE_NAME, NonFinite
from trainer.inputs import open_sets, say, set_names
from trainer.loop import run_loop
from trainer.methods.method import AnchorWeights, Method
from trainer.metrics import BadSamples, plot_losses
from trainer.optim import make_optimizer
from trainer.output import (
    check_inputs,
    claim,
    clear,
    describe_run,
    output_folder,
)
from trainer.parallel.processes import World, join_world
from trainer.parallel.wrapped import Wrapped
from trainer.plan import Plan
from trainer.prefetch import on_device
from trainer.prepare import (
    augmentation,
    make_averages,
    make_towers,
    open_measured,
    prepare,
    samples_per_epoch,
)
from trainer.run_file import RESULTS_NAME, write_json
from trainer.teachers.teacher import describe_teacher
from trainer.trackers import check_trackers


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
    device = choose_device(config.run.device)
    with float32_products(device, config.run.tf32), join_world(device) as world:
        return _train(config, world)


def _train(config: TrainConfig, world: World) -> TrainResult:
    folder = output_folder(config.run.output)
    finished = claim(config)
    resolve(config.run.model)  # a wrong name is known before the data is walked
    measured = open_measured(config)
    best = best_by(config.run.best, measured) if config.run.best is not None else None
    check_trackers(config.run.track)
    steps = augmentation(config)
    sets = open_sets(config)
    about_sets = [
        {"name": name, "digest": one.manifest.digest}
        for name, one in zip(set_names(sets), sets, strict=True)
    ]
    if finished:
        check_inputs(folder, {"anchor_sets": about_sets, "augmentation": steps})
        again = measure_again(config, folder, measured, world.device) if world.first else None
        return TrainResult(folder, 0, {}, again)
    ready = prepare(config, sets, world)
    method, plan, dataset, clip = ready.method, ready.plan, ready.dataset, ready.clip
    index, templates, weights = dataset.index, ready.templates, ready.weights
    inputs = {
        "start_model": {"name": clip.name, "weights_sha256": clip.weights_sha256()},
        "finetune_data": {"images": len(index), "sha256": index.digest()},
        "anchor_sets": about_sets,
        "templates": list(templates),
        "augmentation": steps,
    }
    if world.first:
        folder.mkdir(parents=True, exist_ok=True)
        if config.run.force:
            clear(folder)  # not before everything that the run needs is there
        resolved = describe_plan(method, plan, dataset, weights)
        resolved |= describe_averages(config)
        describe_run(folder, config, resolved=resolved, inputs=inputs)
    world.wait()

    towers = make_towers(ready, config, world)
    model = Wrapped(towers, world)
    optimizer = make_optimizer(towers, config.optim)
    bad = BadSamples(config.data.max_bad_fraction, samples_per_epoch(dataset))
    parts: dict[str, Stateful] = {"model": towers, "optimizer": optimizer}
    averages = make_averages(config, towers, plan.total)
    parts |= averages
    scaler = make_scaler(plan.precision, world.device)
    if scaler is not None:
        parts["scaler"] = scaler
    state = load_state(folder, parts, quiet=not world.first)
    start = 0
    if state is not None:
        start = int(state["step"])
        bad.restore(state["bad"])
        if best is not None:
            best.restore(state["best"])
        say(f"going on after step {start:,} of {plan.total:,}", world)
    skipped = 0 if state is None else int(state["nonfinite"])
    most = config.run.max_nonfinite
    nonfinite = NonFinite(folder, start, most=most, world=world, skipped=skipped)
    kept = averages["ema"].towers if "ema" in averages else towers
    clip = replace(clip, model=kept.model)  # what is measured and left
    head = None
    if isinstance(kept.head, Classifier):
        head = Trained(kept.head, tuple(index.classes))
    bad_share = config.data.max_bad_fraction
    measuring = Measuring(clip, head, measured, folder, world.device, bad_share, best)
    say(f"training: {describe(method, plan, dataset, world)}", world)
    if start < plan.total:
        workers = config.data.workers
        workers = min(8, os.cpu_count() or 1) if workers is None else workers
        pin = world.device.type == "cuda"
        loaded = load_batches(dataset, start, plan.total, workers=workers, pin=pin)
        batches = on_device(loaded, world.device)
        run_loop(
            model,
            optimizer,
            batches,
            plan,
            start=start,
            world=world,
            folder=folder,
            bad=bad,
            parts=parts,
            nonfinite=nonfinite,
            measuring=measuring if plan.eval_every is not None else None,
            track=config.run.track,
            averages=list(averages.values()),
            scaler=scaler,
        )
    if bad.total:
        say(f"left out: {bad.describe()}; for example {'; '.join(bad.examples)}", world)
    if nonfinite.skipped:
        say(f"skipped: {nonfinite.skipped:,} steps, see {NONFINITE_NAME}", world)
    results = None
    if world.first:
        clip.model.eval()
        save_model(clip, head, folder)
        plot_losses(folder)
        if measured:
            last, held = measuring.last or (0, None)
            results = measure(
                config, folder, clip, measured, world.device, held if last == plan.total else None
            )
            if best is not None:
                results = write_results(folder, results | {"best": best.state()})
        write_card(folder)
        drop_state(folder)  # last: a folder without it, and with a model, is a finished run
    return TrainResult(folder, plan.total, dict(bad.total), results)


def describe_averages(config: TrainConfig) -> dict[str, Any]:
    """Whose weights the run measures and leaves, and the teacher, for config.json."""
    weights: dict[str, Any] = {"kind": "last"}
    if config.optim.ema is not None:
        weights = {"kind": "ema", "decay": config.optim.ema}
    return {"weights": weights, "teacher": describe_teacher(config.teacher)}


def describe(method: Method, plan: Plan, dataset: TrainingBatches, world: World) -> str:
    """The run in a line, for people."""
    terms = [term for leg in plan.legs[-1:] for term in leg.terms]
    weights = ", ".join(f"{term.name} x {term.weight:g}" for term in terms) or "no training"
    processes = f", {world.size} processes" if world.size > 1 else ""
    return (
        f"{method.name} ({weights}), {plan.total:,} steps of {_sizes(dataset.order)} images, "
        f"{world.device}{processes}"
    )


def _sizes(order: Order) -> str:
    most = -(-order.size // order.steps_per_epoch)
    return f"{most:,}" if order.size % order.steps_per_epoch == 0 else f"{most - 1:,} or {most:,}"


def describe_plan(
    method: Method, plan: Plan, dataset: TrainingBatches, weights: Sequence[AnchorWeights]
) -> dict[str, Any]:
    """What defaults came to, for config.json."""
    return {
        "method": method.name,
        "phases": [
            {
                "steps": leg.stop - leg.start,
                "warmup": leg.warmup,
                "lr": leg.lr,
                "terms": {term.name: term.weight for term in leg.terms},
                "trains": sorted(leg.trains),
            }
            for leg in plan.legs
        ],
        "lambdas": {one.name: {"tc": one.tc, "itp": one.itp} for one in weights},
        "batch_size": dataset.order.batch,
        "anchor_batch_sizes": {
            dataset.shares[number].name: order.batch
            for number, order in dataset.pair_orders.items()
        },
        "steps_per_epoch": plan.steps_per_epoch,
        "steps": plan.total,
        "precision": str(plan.precision).removeprefix("torch."),
        "classes": dataset.index.classes,
    }


def measure(
    config: TrainConfig,
    folder: Path,
    clip: Clip,
    data_sets: Sequence[DataSet],
    device: torch.device,
    known: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate the finished model, unless its results are known, and write results.json.

    A classifier that the run trained is used where it knows the classes; see trainer.evaluate.

    Raises:
        UserError: a data set has no images, or too many bad ones.
    """
    results = known or evaluate_all(
        clip,
        data_sets,
        device=device,
        max_bad_fraction=config.data.max_bad_fraction,
        classifier=load_classifier(folder),
    )
    return write_results(folder, results)


def write_results(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Write results.json; returns what it holds."""
    write_json(folder / RESULTS_NAME, results)
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
    results = measure(config, folder, load_clip(str(folder), device=device), data_sets, device)
    if held is not None and "best" in held:
        results = write_results(folder, results | {"best": held["best"]})
    write_card(folder)
    return results
