"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from schemas.errors import UserError
from trainer.checkpoint import Stateful, save_state
from trainer.data import Batch
from trainer.metrics import BadSamples, MetricsFile, Progress
from trainer.objective.terms import Loss
from trainer.optim import clamp_logit_scale, learning_rate, set_learning_rate
from trainer.parallel.processes import World
from trainer.parallel.wrapped import Wrapped
from trainer.plan import Leg, Plan
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
) -> None:
    """Train from step ``start`` to the end of the plan.

    The model is in train mode throughout, as in FLYP's code: dropout is active and batch
    normalisation follows the batches.

    Args:
        model: the towers, on the world's device.
        optimizer: over their parameters.
        batches: of steps ``start``, ``start`` + 1, ...; this process's share of each.
        plan: see Plan.
        start: steps done before.
        world: the processes that train together; the first writes and speaks.
        folder: of the run; metrics.jsonl and checkpoints go there.
        bad: counts the samples left out.

    Raises:
        UserError: too many bad samples, or a loss that is no number.
    """
    model.towers.train()
    clamp_logit_scale(model.towers.model)
    metrics, progress = (
        MetricsFile(folder, start, quiet=not world.first),
        Progress(start, plan.total, quiet=not world.first),
    )
    clock, images, text = time.monotonic(), 0, ""
    leg: Leg | None = None
    try:
        for step, batch in enumerate(batches, start):
            bad.add(world.all_of(batch.bad))
            if leg is None or step >= leg.stop:
                leg = plan.leg(step)
                model.train_only(leg.trains)
            rate = learning_rate(
                step - leg.start, peak=leg.lr, warmup=leg.warmup, total=leg.stop - leg.start
            )
            set_learning_rate(optimizer, rate)
            loss = train_step(model, optimizer, batch.to(world.device), leg, plan, step, world.rank)
            images += batch.samples() * world.size
            done = step + 1
            epoch_ends = done % plan.steps_per_epoch == 0 or done == leg.stop
            if loss is not None and (done % plan.log_every == 0 or epoch_ends):
                values = _values(loss, done)
                seconds = max(time.monotonic() - clock, 1e-9)
                scale = float(model.towers.model.logit_scale.detach().exp())
                metrics.write(
                    {"step": done, "epoch": step // plan.steps_per_epoch}
                    | values
                    | {"logit_scale": scale, "lr": rate}
                    | {"images_per_second": round(images / seconds, 1), "bad": dict(bad.total)}
                )
                terms = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
                text = f"{terms}, {images / seconds:,.0f} images/s"
                clock, images = time.monotonic(), 0
            progress.update(done, text)
            if epoch_ends:
                bad.end_epoch()
            every = plan.checkpoint_every
            if (epoch_ends or (every is not None and done % every == 0)) and world.first:
                parts: dict[str, Stateful] = {"model": model.towers, "optimizer": optimizer}
                save_state(folder, done, parts, {"bad": bad.state()})
    finally:
        metrics.close()
        progress.close()


def _values(loss: Loss, step: int) -> dict[str, float]:
    """The objective and its terms as numbers; reading them waits for the GPU."""
    values = {"loss": float(loss.total.detach())}
    values |= {name: float(term.detach()) for name, term in loss.terms.items()}
    if not math.isfinite(values["loss"]):
        raise UserError(
            f"the loss is {values['loss']} at step {step}; lower --lr, or set --clip-grad."
        )
    return values
