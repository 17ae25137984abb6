"""What the steps of a run are: one leg for each phase of the method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.methods.method import Part
from trainer.objective.terms import Term


@dataclass(frozen=True)
class Leg:
    """A stretch of steps with one objective and one schedule.

    Attributes:
        start, stop: steps [start, stop).
        warmup: of these, steps of warm-up.
        lr: peak learning rate.
        terms: of the objective.
        trains: which parts of the model move.
    """

    start: int
    stop: int
    warmup: int
    lr: float
    terms: tuple[Term, ...]
    trains: frozenset[Part]


@dataclass(frozen=True)
class Plan:
    """What the steps of a run have in common.

    Attributes:
        steps_per_epoch: steps of a pass over the finetune images.
        legs: one after the other, from step 0 on.
        clip_grad: largest norm of the gradient, or None.
        seed: of what the towers draw (dropout, dropped patches).
        precision: of the forward passes; weights, loss and optimiser are float32.
        chunk: images or texts that are encoded at once (GradCache), or None for all.
        log_every: steps between two lines of metrics.jsonl.
        checkpoint_every: steps between two checkpoints, or None for epochs only.
        keep_last: checkpoints to keep.
        eval_every: epochs between two measurements, or None for none before the end.
    """

    steps_per_epoch: int
    legs: Sequence[Leg]
    clip_grad: float | None = None
    seed: int = 0
    precision: torch.dtype = torch.float32
    chunk: int | None = None
    log_every: int = 10
    checkpoint_every: int | None = None
    keep_last: int = 1
    eval_every: int | None = None

    @property
    def total(self) -> int:
        """Steps of the run."""
        return self.legs[-1].stop if self.legs else 0

    def leg(self, step: int) -> Leg:
        """The leg that a step belongs to."""
        return next(leg for leg in self.legs if leg.start <= step < leg.stop)
