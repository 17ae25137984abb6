"""The towers, wrapped in DistributedDataParallel where there are several processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from trainer.methods.method import Part
from trainer.objective.features import Feature, Features, Towers
from trainer.parallel.processes import World


class Wrapped:
    """Calls the towers, and sees to it that all processes end up with the same gradients.

    Args:
        towers: on the world's device.
        world: the processes that train together.
    """

    def __init__(self, towers: Towers, world: World) -> None:
        self.towers = towers
        self._world = world
        self._module: Any = towers

    def train_only(self, parts: frozenset[Part]) -> None:
        """Let these parts of the model move and no others.

        DistributedDataParallel notes at its start which parameters have gradients, so it is made
        anew.
        """
        for name, parameter in self.towers.named_parameters():
            parameter.requires_grad_(part_of(name) in parts)
            parameter.grad = None
        if self._world.size > 1:
            cuda = self._world.device.type == "cuda"
            self._module = DistributedDataParallel(
                self.towers,
                device_ids=[self._world.device] if cuda else None,
                # Statistics of batch normalisation are each process's own while it trains; those
                # of the first one are kept.
                broadcast_buffers=True,
            )

    def __call__(self, inputs: Mapping[Feature, torch.Tensor]) -> Features:
        """See Towers.forward."""
        features: Features = self._module(inputs)
        return features

    @torch.no_grad()
    def exchange(self) -> None:
        """Average gradients that came of the bare towers over the processes.

        Chunks go through the bare towers: DistributedDataParallel exchanges a gradient as soon as
        it is there, which with chunks is too early.
        """
        if self._world.size == 1:
            return
        for parameter in self.towers.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:  # this process had no row for the tower
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad /= self._world.size


def part_of(name: str) -> Part:
    """Which part of the model a parameter of Towers belongs to."""
    if name.startswith("head."):
        return "head"
    name = name.removeprefix("model.")
    if name in ("logit_scale", "logit_bias"):
        return "scale"
    return "image" if name.startswith("visual.") else "text"
