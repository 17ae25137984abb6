"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from schemas.errors import UserError
from trainer.averages import Average
from trainer.best import Measuring
from trainer.checkpoint import Stateful, save_state
from trainer.data import Batch
from trainer.faults import NonFinite, in_words
from trainer.metrics import BadSamples, MetricsFile, Pace, Progress
from trainer.objective.terms import Loss
from trainer.optim import clamp_logit_scale, learning_rate, set_learning_rate
from trainer.parallel.processes import World
from trainer.parallel.wrapped import Wrapped
from trainer.plan import Leg, Plan
from trainer.signals import Stopped, StopSignals
from trainer.step import train_step


def run_loop(
    model: Wrapped,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    plan: Plan,
    *,
    start: int,
    world: World,
    folder: Path,
    bad: BadSamples,
    parts: Mapping[str, Stateful] | None = None,
    nonfinite: NonFinite | None = None,
    measuring: Measuring | None = None,
    track: Sequence[str] = (),
    averages: Sequence[Average] = (),
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Train from step ``start`` to the end of the plan.

    The model is in train mode throughout, as in FLYP's code: dropout is active and batch
    normalisation follows the batches.

    Args:
        model: the towers, on the world's device.
        optimizer: over their parameters.
        batches: of steps ``start``, ``start`` + 1, ..., on the world's device; this process's
            share of each.
        plan: see Plan.
        start: steps done before.
        world: the processes that train together; the first writes and speaks.
        folder: of the run; metrics.jsonl and checkpoints go there.
        bad: counts the samples left out.
        parts: that checkpoints keep (default: towers and optimizer).
        nonfinite: counts the steps that were skipped (default: at most 10).
        measuring: measures every ``plan.eval_every`` epochs, in the first process.
        track: names of trackers, see trainer.trackers.
        averages: of the weights, which follow every step; ``parts`` should hold them too.
        scaler: of the loss, for float16; ``parts`` should hold it too.

    Raises:
        UserError: too many bad samples or skipped steps, a dead worker, a full disk.
        Stopped: a signal came; the state is saved.
    """
    model.towers.train()
    clamp_logit_scale(model.towers.model)
    parts = parts or {"model": model.towers, "optimizer": optimizer}
    nonfinite = nonfinite or NonFinite(folder, start, most=10, world=world)
    metrics = _open_metrics(folder, start, track, world)
    progress = Progress(start, plan.total, quiet=not world.first)

    def save(done: int) -> None:
        nonfinite.settle()
        if world.first:
            best = measuring.best if measuring is not None else None
            scalars = {"bad": bad.state(), "nonfinite": nonfinite.skipped}
            scalars |= {"best": best and best.state()}
            save_state(folder, done, parts, scalars, keep=plan.keep_last)

    pace, text, saved, finished = Pace(batches), "", start, False
    leg: Leg | None = None
    try:
        with in_words(), StopSignals() as stop:
            for step, batch in enumerate(pace, start):
                notices = world.all_of([(stop.asked, batch.bad)])
                if any(asked for asked, _ in notices):  # of all processes, so all stop here
                    if step > saved:
                        save(step)
                    raise Stopped(step)
                bad.add([one for _, found in notices for one in found])
                if leg is None or step >= leg.stop:
                    leg = plan.leg(step)
                    model.train_only(leg.trains)
                rate = learning_rate(
                    step - leg.start, peak=leg.lr, warmup=leg.warmup, total=leg.stop - leg.start
                )
                set_learning_rate(optimizer, rate)
                loss = train_step(model, optimizer, batch, leg, plan, step, world.rank, scaler)
                pace.images += batch.samples() * world.size
                done = step + 1
                for average in averages:
                    average.follow(model.towers, done)
                epoch_ends = done % plan.steps_per_epoch == 0 or done == leg.stop
                if loss is not None:
                    nonfinite.note(done, loss, batch.keys)
                    if done % plan.log_every == 0 or epoch_ends:
                        values = _values(loss)
                        measured = pace.lap(world.device)  # after the values, which wait for a GPU
                        scale = float(model.towers.model.logit_scale.detach().exp())
                        metrics.write(
                            {"step": done, "epoch": step // plan.steps_per_epoch}
                            | values
                            | {"grad_norm": _number(loss.grad_norm)}
                            | {"logit_scale": scale, "lr": rate}
                            | measured
                            | {"bad": dict(bad.total), "nonfinite": nonfinite.skipped}
                        )
                        text = _text(values, measured["images_per_second"])
                progress.update(done, text)
                if epoch_ends:
                    bad.end_epoch()
                    if measuring is not None and _is_due(done, plan):
                        if world.first:
                            epoch = {"step": done, "epoch": step // plan.steps_per_epoch}
                            metrics.write(epoch | {"eval": measuring(done)})
                        world.wait()
                        pace.start_lap()
                every = plan.checkpoint_every
                if epoch_ends or (every is not None and done % every == 0):
                    save(done)
                    saved = done
            if any(world.all_of([stop.asked])):
                raise Stopped(plan.total)
            finished = True
    finally:
        metrics.close(finished=finished)
        progress.close()


def _open_metrics(folder: Path, start: int, track: Sequence[str], world: World) -> MetricsFile:
    """The first process's file and trackers; if they cannot be opened, all processes end."""
    metrics = problem = None
    try:
        metrics = MetricsFile(folder, start, quiet=not world.first, track=track)
    except UserError as error:
        problem = str(error)
    for sentence in world.all_of([problem]):
        if sentence is not None:
            raise UserError(sentence)
    assert metrics is not None
    return metrics


def _is_due(done: int, plan: Plan) -> bool:
    """True after every so many epochs, and at the end."""
    every = plan.eval_every
    epoch, over = divmod(done, plan.steps_per_epoch)
    return every is not None and (done == plan.total or (not over and epoch % every == 0))


def _number(value: torch.Tensor | None) -> float | None:
    """As JSON has it, which knows no NaN; reading it waits for the GPU."""
    number = math.nan if value is None else float(value.detach())
    return number if math.isfinite(number) else None


def _values(loss: Loss) -> dict[str, float | None]:
    """The objective and its terms."""
    terms = {name: _number(term) for name, term in loss.terms.items()}
    return {"loss": _number(loss.total)} | terms


def _text(values: Mapping[str, float | None], pace: float) -> str:
    losses = [f"{name} {math.nan if v is None else v:.4f}" for name, v in values.items()]
    return f"{', '.join(losses)}, {pace:,.0f} images/s"
