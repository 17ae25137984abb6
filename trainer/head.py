"""The zero-shot head: class names become the rows of a linear classifier (CLIP's protocol)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from trainer.templates import fill

_TEXTS_PER_PASS = 1024


@torch.inference_mode()
def zero_shot_head(
    model: Any,
    tokenizer: Callable[[list[str]], torch.Tensor],
    classes: Sequence[str],
    templates: Sequence[str],
    device: torch.device,
) -> torch.Tensor:
    """Unit features of every template's text, averaged over templates, made unit again.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021, section 3.1.4.

    Args:
        model: open_clip's module, on ``device``, in the mode that is wanted.
        tokenizer: texts to int64 tokens [N, context].
        classes: names, at least one.
        templates: with ``{c}``, at least one.
        device: of the model.

    Returns:
        float32 [classes, D], unit rows, on ``device``.
    """
    rows: list[torch.Tensor] = []
    step = max(1, _TEXTS_PER_PASS // len(templates))
    for start in range(0, len(classes), step):
        names = classes[start : start + step]
        texts = [fill(template, name) for name in names for template in templates]
        features = model.encode_text(tokenizer(texts).to(device), normalize=True).float()
        mean = features.reshape(len(names), len(templates), -1).mean(dim=1)
        rows.append(F.normalize(mean, dim=-1))
    return torch.cat(rows)
