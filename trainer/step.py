"""One step of the optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from trainer.data import Batch
from trainer.devices import autocast
from trainer.draws import Stream, draw_seed
from trainer.faults import Statistics, gradient_norm, update_if
from trainer.objective.features import Features
from trainer.objective.terms import Loss, objective, wanted
from trainer.optim import clamp_logit_scale
from trainer.parallel import grad_cache
from trainer.parallel.gather import gather_rows
from trainer.parallel.wrapped import Wrapped
from trainer.plan import Leg, Plan
from trainer.teachers.features import teach


def train_step(
    model: Wrapped,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    leg: Leg,
    plan: Plan,
    step: int,
    rank: int = 0,
    scaler: torch.amp.GradScaler | None = None,
) -> Loss | None:
    """One step of the optimiser on one batch, which is on the model's device.

    Args:
        scaler: of the loss, for float16 (trainer.devices.make_scaler). A gradient that overflows
            moves nothing and halves the scale; that is its search for one, and no fault as long as
            the scale is above 1.

    Returns:
        The loss, or None where the batch has nothing to learn from; then nothing moves. Nor does
        anything where the loss or its gradient is no number: ``finite`` says so, the same in all
        processes, whose gradients are the same.
    """
    optimizer.zero_grad(set_to_none=True)
    statistics = Statistics(model.towers)
    device = batch.classes.device
    every = wanted(leg.terms, batch)
    inputs = {feature: rows for feature, rows in every.items() if not feature.teacher}
    with autocast(device, plan.precision):
        taught = teach(model.towers.teacher, every, plan.chunk)

    def value(features: Features) -> Loss | None:
        return objective(leg.terms, {**features, **taught}, batch, model.towers, gather_rows)

    if plan.chunk is None:
        with _seeded(draw_seed(plan.seed, Stream.FORWARD, step, rank), device):
            with autocast(device, plan.precision):
                features = model(inputs)
            loss = value(features)
            if loss is not None:
                total = loss.total if scaler is None else scaler.scale(loss.total)
                total.backward()  # type: ignore[no-untyped-call]
    else:

        def encode(some: grad_cache.Inputs) -> Features:
            with autocast(device, plan.precision):
                features: Features = model.towers(some)
            return features

        loss = grad_cache.backward(
            encode,
            inputs,
            value,
            chunk=plan.chunk,
            seeded=lambda number: _seeded(
                draw_seed(plan.seed, Stream.FORWARD, step, rank, number), device
            ),
            scaler=scaler,
        )
        if loss is not None:
            model.exchange()
    if loss is None:
        return None
    if scaler is not None:
        scaler.unscale_(optimizer)  # the norm and its limit are of the true gradient
    norm = gradient_norm(list(model.towers.parameters()), plan.clip_grad)
    sound = loss.total.detach().isfinite()
    finite = sound & norm.isfinite()
    update_if(optimizer, finite)
    statistics.restore_unless(finite)
    clamp_logit_scale(model.towers.model)
    if scaler is not None:
        scale = scaler.scale(torch.ones((), device=device))  # unlike get_scale, waits for no GPU
        finite = finite | (sound & (scale > 1))
        scaler.update()
    return replace(loss, grad_norm=norm, finite=finite)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What the towers draw depends on the step alone; the caller's generators are left alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
