"""CLIP's symmetric contrastive loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

MAX_LOG_SCALE = math.log(100)
"""CLIP's bound: logits are at most 100 times the cosine."""


def contrastive_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor,
    classes: torch.Tensor | None = None,
) -> torch.Tensor:
    """CLIP's symmetric contrastive loss (Radford et al., ICML 2021).

    Args:
        image_features: unit rows, float32 [N, D]; row i belongs to row i of the texts.
        text_features: unit rows, float32 [N, D].
        logit_scale: log of the scale, a scalar; its exponential is clamped at 100.
        classes: int64 [N]. If given, the target of a row is spread evenly over all rows of its
            class (multi-positive); if not, every other row is a negative.

    Returns:
        The mean of the cross-entropies over rows and over columns, a float32 scalar.
    """
    # Clamped before the exponential, so that at the bound itself the gradient still flows.
    scale = logit_scale.float().clamp(max=MAX_LOG_SCALE).exp()
    logits = scale * image_features.float() @ text_features.float().T
    if classes is None:
        target = torch.arange(len(logits), device=logits.device)
    else:
        same = (classes[:, None] == classes[None, :]).float()
        target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
