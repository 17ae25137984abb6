"""The teacher's features of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from trainer.objective.features import Feature, Towers


@torch.no_grad()
def teach(
    teacher: Towers | None, inputs: Mapping[Feature, torch.Tensor], chunk: int | None
) -> dict[Feature, torch.Tensor]:
    """The features that terms want of the teacher, each once.

    A teacher is in eval mode: it draws nothing, and no row depends on another, so chunks and
    several processes come to what one batch in one process comes to.

    Args:
        teacher: on the inputs' device; may be None where no feature is a teacher's.
        inputs: of all features of the step; those of the model that trains are left alone.
        chunk: rows that are encoded at once, or None for all.

    Returns:
        Unit rows, float32 [N, D], without gradient.
    """
    found: dict[Feature, torch.Tensor] = {}
    for feature, rows in inputs.items():
        if not feature.teacher:
            continue
        assert teacher is not None  # make_plan refuses such a term
        parts = rows.split(chunk) if chunk is not None and len(rows) else (rows,)
        found[feature] = torch.cat([teacher.encode(feature, part) for part in parts])
    return found
