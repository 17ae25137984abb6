"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from schemas.errors import UserError
from trainer.checkpoint import save_state
from trainer.data import Batch
from trainer.devices import autocast
from trainer.draws import Stream, draw_seed
from trainer.loss import Loss, Weights, encode, objective
from trainer.metrics import BadSamples, MetricsFile, Progress
from trainer.optim import clamp_logit_scale, learning_rate, set_learning_rate


@dataclass(frozen=True)
class Plan:
    """What the steps of a run have in common.

    Attributes:
        steps_per_epoch: steps of a pass over the finetune images.
        total: steps of the run.
        warmup: of these, steps of warm-up.
        lr: peak learning rate.
        weights: of the anchors' terms.
        multi_positive: see trainer.loss.
        clip_grad: largest norm of the gradient, or None.
        seed: of what the towers draw (dropout, dropped patches).
        precision: of the forward passes; weights, loss and optimiser are float32.
        log_every: steps between two lines of metrics.jsonl.
        checkpoint_every: steps between two checkpoints, or None for epochs only.
    """

    steps_per_epoch: int
    total: int
    warmup: int
    lr: float
    weights: Weights
    multi_positive: bool = False
    clip_grad: float | None = None
    seed: int = 0
    precision: torch.dtype = torch.float32
    log_every: int = 10
    checkpoint_every: int | None = None


def run_loop(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    plan: Plan,
    *,
    start: int,
    device: torch.device,
    folder: Path,
    bad: BadSamples,
) -> None:
    """Train from step ``start`` to the end of the plan.

    The model is in train mode throughout, as in FLYP's code: dropout is active and batch
    normalisation follows the batches.

    Args:
        model: open_clip's module, on ``device``.
        optimizer: over its parameters.
        batches: of steps ``start``, ``start`` + 1, ...
        plan: see Plan.
        start: steps done before.
        device: of the model.
        folder: of the run; metrics.jsonl and checkpoints go there.
        bad: counts the samples left out.

    Raises:
        UserError: too many bad samples, or a loss that is no number.
    """
    model.train()
    clamp_logit_scale(model)
    metrics, progress = MetricsFile(folder, start), Progress(start, plan.total)
    clock, images, text = time.monotonic(), 0, ""
    try:
        for step, batch in enumerate(batches, start):
            bad.add(batch.bad)
            rate = learning_rate(step, peak=plan.lr, warmup=plan.warmup, total=plan.total)
            set_learning_rate(optimizer, rate)
            loss = (
                train_step(model, optimizer, batch.to(device), plan, step) if len(batch) else None
            )
            images += len(batch) + len(batch.anchor_images)
            done = step + 1
            epoch_ends = done % plan.steps_per_epoch == 0
            if loss is not None and (done % plan.log_every == 0 or epoch_ends):
                values = _values(loss, done)
                seconds = max(time.monotonic() - clock, 1e-9)
                metrics.write(
                    {"step": done, "epoch": step // plan.steps_per_epoch}
                    | values
                    | {"logit_scale": float(model.logit_scale.detach().exp()), "lr": rate}  # type: ignore[operator, union-attr]
                    | {"images_per_second": round(images / seconds, 1), "bad": dict(bad.total)}
                )
                terms = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
                text = f"{terms}, {images / seconds:,.0f} images/s"
                clock, images = time.monotonic(), 0
            progress.update(done, text)
            if epoch_ends:
                bad.end_epoch()
            every = plan.checkpoint_every
            if epoch_ends or (every is not None and done % every == 0):
                save_state(folder, done, model, optimizer, {"bad": bad.state()})
    finally:
        metrics.close()
        progress.close()


def train_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    plan: Plan,
    step: int,
) -> Loss:
    """One step of the optimiser on one batch, which is on the model's device."""
    optimizer.zero_grad(set_to_none=True)
    device = batch.images.device
    with _seeded(draw_seed(plan.seed, Stream.FORWARD, step), device):
        with autocast(device, plan.precision):
            features = encode(model, batch, plan.weights)
        loss = objective(
            features,
            model.logit_scale,  # type: ignore[arg-type]
            batch,
            plan.weights,
            multi_positive=plan.multi_positive,
        )
        loss.total.backward()  # type: ignore[no-untyped-call]
    if plan.clip_grad is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip_grad)
    optimizer.step()
    clamp_logit_scale(model)
    return loss


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What the towers draw depends on the step alone; the caller's generators are left alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _values(loss: Loss, step: int) -> dict[str, float]:
    """The objective and its terms as numbers; reading them waits for the GPU."""
    terms = {"loss": loss.total, "class_text": loss.class_text, "tc": loss.tc, "itp": loss.itp}
    values = {name: float(term.detach()) for name, term in terms.items() if term is not None}
    if not math.isfinite(values["loss"]):
        raise UserError(
            f"the loss is {values['loss']} at step {step}; lower --lr, or set --clip-grad."
        )
    return values
