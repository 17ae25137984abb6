"""Averages of the weights along a run: exponential, or weighted by the place in the run.

Each is a running mean, so one copy of the weights is all that it holds. torch's AveragedModel is
not used: with its buffers it would average the text tower's mask, whose minus infinities come to
no number, and without them it would leave the statistics of batch normalisation as they began.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.distributed as dist

from trainer.objective.features import Towers
from trainer.parallel.gather import together


class Kernel(Protocol):
    """How much the weights after so many steps count, against all before them."""

    def log_weight(self, done: int) -> float:
        """Log of their weight in the mean; any constant may be added, the same for all."""
        ...


class Average:
    """A running weighted mean of a run's weights and running statistics, from the start model on.

    A step that was skipped counts with the weights as they stayed.

    Args:
        towers: as they begin.
        kernel: see Kernel.
        decay: if given, there is no kernel: the mean keeps this share of itself at every step.

    Attributes:
        towers: the mean: a copy in eval mode, without gradients.
    """

    def __init__(
        self, towers: Towers, *, kernel: Kernel | None = None, decay: float | None = None
    ) -> None:
        assert (kernel is None) != (decay is None)
        self.towers = towers.copy()
        self._kernel, self._decay = kernel, decay
        self._log_total = kernel.log_weight(0) if kernel is not None else 0.0

    @torch.no_grad()
    def follow(self, towers: Towers, done: int) -> None:
        """Take in the weights after ``done`` steps; to be called after every step, once."""
        share = self._share(done)
        now = towers.state_dict()  # without the buffers that no checkpoint holds
        mean = self.towers.state_dict()
        # By place in memory: weights that two names share are one.
        floats = list(
            {t.data_ptr(): name for name, t in mean.items() if t.is_floating_point()}.values()
        )
        torch._foreach_lerp_([mean[name] for name in floats], [now[name] for name in floats], share)
        for name, tensor in mean.items():
            if not tensor.is_floating_point():
                tensor.copy_(now[name])  # counts of batches
        if together():
            # Running statistics differ between processes, which see other images; the first
            # process's are the run's.
            for name, _ in self.towers.named_buffers():
                if name in mean:
                    dist.broadcast(mean[name], 0)

    def _share(self, done: int) -> float:
        """What the newest weights get of the mean; the rest stays."""
        if self._kernel is None:
            assert self._decay is not None
            return 1 - self._decay
        # In logs, since a narrow kernel's weights at the ends are too small for a number.
        new = self._kernel.log_weight(done)
        high, low = max(new, self._log_total), min(new, self._log_total)
        self._log_total = high + math.log1p(math.exp(low - high))
        return math.exp(new - self._log_total)

    def state_dict(self) -> dict[str, Any]:
        """See trainer.checkpoint.Stateful."""
        return {"towers": self.towers.state_dict(), "log_total": self._log_total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See trainer.checkpoint.Stateful."""
        self.towers.load_state_dict(state_dict["towers"])
        self._log_total = state_dict["log_total"]
