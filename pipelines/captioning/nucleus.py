"""Nucleus sampling (Holtzman et al., ICLR 2020) whose draws belong to the row, not the process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor, TopPLogitsWarper


class NucleusDraw(LogitsProcessor):  # type: ignore[misc]
    """Draws the next token of each row from the nucleus, and leaves that one alone.

    torch's own draws come from one generator for the whole process: they would depend on what
    else is in the batch and on what other threads draw. Here every row has its own.

    Args:
        top_p: share of probability that the nucleus holds, over 0 and at most 1.
        rows: per row, the numbers that its draws follow from.
    """

    def __init__(self, top_p: float, rows: Sequence[tuple[int, ...]]) -> None:
        self._nucleus = TopPLogitsWarper(top_p) if top_p < 1 else None
        self._streams = [np.random.Generator(np.random.Philox([*row])) for row in rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits [N, V] to logits of which all but one a row are minus infinity."""
        scores = scores.float()
        if self._nucleus is not None:
            scores = self._nucleus(input_ids, scores)
        below = scores.softmax(-1).double().cumsum(-1)
        uniform = torch.tensor([stream.random() for stream in self._streams], dtype=torch.float64)
        target = uniform.to(below.device)[:, None] * below[:, -1:]
        # The first token whose sum is over the target: it has some probability of its own.
        chosen = torch.searchsorted(below, target, right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)
