"""A run before it is begun: everything opened, a few real steps, nothing written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from models.clip import load_clip, resolve
from schemas.errors import UserError
from shards.decoding import Tally, decoded_batches
from trainer.averages import Average
from trainer.best import best_by
from trainer.config import TrainConfig, check
from trainer.data import load_batches
from trainer.data_sets import DataSet
from trainer.devices import choose_device, float32_products, make_scaler
from trainer.faults import in_words
from trainer.inputs import open_sets
from trainer.metrics import BadSamples, Pace
from trainer.objective.features import Towers
from trainer.optim import clamp_logit_scale, learning_rate, make_optimizer, set_learning_rate
from trainer.output import claim, output_folder
from trainer.parallel.processes import World, join_world
from trainer.parallel.wrapped import Wrapped
from trainer.plan import Leg
from trainer.prefetch import on_device
from trainer.prepare import (
    Prepared,
    make_averages,
    make_towers,
    open_measured,
    prepare,
    samples_per_epoch,
)
from trainer.step import train_step
from trainer.trackers import check_trackers

STEPS = 3
"""Of each phase; where there are more, the first, which warms things up, is not timed."""


@dataclass(frozen=True)
class Trial:
    """What the first steps of a phase came to.

    Attributes:
        losses: of the first step: the objective and its terms; empty if its images were all bad.
        seconds: a step.
        waited: share of that in which the loop waited for data.
        peak: memory in MiB, as metrics.jsonl has it.
    """

    losses: dict[str, float]
    seconds: float
    waited: float
    peak: float


def dry_run(config: TrainConfig, *, random_weights: bool = False) -> list[str]:
    """Do what a run would do up to its first steps, and say what it came to, in lines.

    Args:
        config: of the run.
        random_weights: build the model's architecture without its weights, which may be far away.

    Raises:
        UserError: all that a run raises before it writes; or a step does not fit into memory.
    """
    check(config)
    device = choose_device(config.run.device)
    with float32_products(device, config.run.tf32), join_world(device) as world:
        folder = output_folder(config.run.output)
        claim(config)
        resolve(config.run.model)
        measured = open_measured(config)
        if config.run.best is not None:
            best_by(config.run.best, measured)
        check_trackers(config.run.track)
        load = partial(load_clip, random_weights=random_weights)
        ready = prepare(config, open_sets(config), world, load)
        _read_one_of_each(measured, ready)
        towers = make_towers(ready, config, world)
        averages = make_averages(config, towers, ready.plan.total)
        optimizer = make_optimizer(towers, config.optim)
        with _memory_in_words(config, world.device):
            trials = [
                _try(leg, ready, config, towers, optimizer, world, list(averages.values()))
                for leg in ready.plan.legs
            ]
        lines = _describe(ready, trials, measured, world)
        copies = [average.towers for average in averages.values()]
        if towers.teacher is not None and "teacher" not in averages:
            copies.append(towers.teacher)
        lines += _describe_memory(towers, copies, optimizer, trials)
    return [*lines, f"dry run: nothing was written to {str(folder)!r}"]


def _read_one_of_each(measured: Sequence[DataSet], ready: Prepared) -> None:
    for data in measured:
        tally = Tally()
        samples = (
            sample for unit in data.source.units for sample in data.source.read(unit, tally.drop)
        )
        found = decoded_batches(samples, ready.clip.preprocess, tally, batch=1, threads=1)
        if not data.source.classes or next(iter(found), None) is None:
            raise UserError(
                f"{data.name}: {data.place!r} has no classes, or no image that can be used."
            )


def _try(
    leg: Leg,
    ready: Prepared,
    config: TrainConfig,
    towers: Towers,
    optimizer: torch.optim.Optimizer,
    world: World,
    averages: Sequence[Average],
) -> Trial:
    """The first steps of a phase, as the loop takes them."""
    plan, dataset, workers = ready.plan, ready.dataset, config.data.workers
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    bad = BadSamples(config.data.max_bad_fraction, samples_per_epoch(dataset))
    pin = world.device.type == "cuda"
    stop = min(leg.stop, leg.start + STEPS)
    loaded = load_batches(dataset, leg.start, stop, workers=workers, pin=pin)
    pace = Pace(on_device(loaded, world.device))
    model = Wrapped(towers, world)
    towers.train()
    clamp_logit_scale(towers.model)
    model.train_only(leg.trains)
    scaler = make_scaler(plan.precision, world.device)
    losses: dict[str, float] = {}
    timed = 0
    with in_words():
        for step, batch in enumerate(pace, leg.start):
            bad.add(batch.bad)
            rate = learning_rate(
                step - leg.start, peak=leg.lr, warmup=leg.warmup, total=leg.stop - leg.start
            )
            set_learning_rate(optimizer, rate)
            loss = train_step(model, optimizer, batch, leg, plan, step, world.rank, scaler)
            for average in averages:
                average.follow(towers, step + 1)
            timed += 1
            if step == leg.start:
                if loss is not None:
                    losses = {"loss": float(loss.total.detach())}
                    losses |= {k: float(v.detach()) for k, v in loss.terms.items() if v is not None}
                if stop - step > 1:
                    pace.start_lap()
                    timed = 0
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    seconds = pace.seconds() / timed
    measured = pace.lap(world.device)
    return Trial(losses, seconds, measured["data_wait"], measured["peak_memory_mib"])


@contextmanager
def _memory_in_words(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Say in a sentence that a step needs more memory than there is."""
    try:
        yield
    except RuntimeError as error:  # of a GPU it is a class of its own, of the CPU only a text
        of_cpu = "DefaultCPUAllocator" in str(error)
        if not of_cpu and not isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        now = config.run.chunk_size
        smaller = "a --chunk-size" if now is None else f"a --chunk-size below {now}"
        raise UserError(
            f"a step of {config.data.batch_size:,} finetune images does not fit into the memory of "
            f"{device}; give {smaller}, such as {max(1, (now or config.data.batch_size) // 4)}, "
            f"which computes the same step in pieces, or a smaller --batch-size."
        ) from error


def _describe(
    ready: Prepared, trials: Sequence[Trial], measured: Sequence[DataSet], world: World
) -> list[str]:
    dataset, plan = ready.dataset, ready.plan
    precision = str(plan.precision).removeprefix("torch.")
    processes = f", {world.size} processes" if world.size > 1 else ""
    lines = [
        f"method: {ready.method.name}, {ready.method.summary}",
        f"model: {ready.clip.name}, {precision} on {world.device}{processes}",
        f"finetune: {len(dataset.index):,} images of {len(dataset.index.classes):,} classes, "
        f"{plan.steps_per_epoch:,} steps an epoch of {dataset.order.batch:,} images, "
        f"{len(ready.templates)} templates",
    ]
    for number, share in enumerate(dataset.shares):
        captions = share.captions.matched() if share.captions is not None else 0
        pairs = len(share.pairs) if share.pairs is not None else 0
        size = dataset.pair_orders[number].batch if number in dataset.pair_orders else 0
        lines.append(
            f"anchors of {share.name}: {captions:,} images with captions, {pairs:,} pairs, "
            f"{size:,} a step"
        )
    lines += [f"measured on: {', '.join(data.name for data in measured) or 'nothing'}"]
    total = 0.0
    for number, (leg, trial) in enumerate(zip(plan.legs, trials, strict=True), 1):
        phase = f"phase {number}" if len(plan.legs) > 1 else "training"
        terms = ", ".join(f"{term.name} x {term.weight:g}" for term in leg.terms)
        losses = ", ".join(f"{name} {value:.4f}" for name, value in trial.losses.items())
        lines += [
            f"{phase}: {leg.stop - leg.start:,} steps of {terms}; lr {leg.lr:g} after "
            f"{leg.warmup:,} steps of warm-up; trains {', '.join(sorted(leg.trains))}",
            f"{phase}, first step: {losses or 'nothing to learn from'}",
            f"{phase}, time: {trial.seconds:.3g} s a step, {trial.waited:.0%} of it waiting for "
            f"data (of {min(STEPS, leg.stop - leg.start)} steps)",
        ]
        total += trial.seconds * (leg.stop - leg.start)
    return [*lines, f"whole run: {plan.total:,} steps, about {_time(total)} without measurements"]


def _describe_memory(
    towers: Towers,
    copies: Sequence[Towers],
    optimizer: torch.optim.Optimizer,
    trials: Sequence[Trial],
) -> list[str]:
    weights, held = (
        sum(p.numel() * p.element_size() for one in several for p in one.parameters()) / 2**20
        for several in ([towers], copies)
    )
    moments = [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    state = sum(t.numel() * t.element_size() for t in moments) / 2**20
    peak = max((trial.peak for trial in trials), default=weights)
    teacher = f"teacher and averages {held:,.1f} MiB, " if copies else ""
    return [
        f"memory: weights {weights:,.1f} MiB, {teacher}optimizer {state:,.1f} MiB, peak "
        f"{peak:,.1f} MiB"
    ]


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
