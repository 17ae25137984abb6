"""Features: what the towers make of a batch's images and texts, each computed once a step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from trainer.compiling import Encode, compiled
from trainer.data import Batch
from trainer.parallel.gather import together


class Feature(NamedTuple):
    """Which images or texts of a batch, through the tower for them.

    Attributes:
        tower: of the model that trains, or of its teacher.
        of: name of the images or texts in the batch.
        teacher: the teacher's feature, which has no gradient; a run without one refuses the term.
    """

    tower: Literal["image", "text"]
    of: str
    teacher: bool = False

    def inputs(self, batch: Batch) -> torch.Tensor:
        """What goes into the tower: float32 [N, 3, H, W] or int64 tokens [N, context]."""
        return (batch.images if self.tower == "image" else batch.texts)[self.of]


Features = Mapping[Feature, torch.Tensor]
"""Unit-length features, float32 [N, D]."""


class Towers(torch.nn.Module):
    """The model's two towers as one module, which is what is wrapped for several processes.

    Args:
        model: open_clip's module.
        head: a linear classifier over image features that is trained with it, or None.
    """

    def __init__(self, model: torch.nn.Module, head: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.model: Any = model
        self.head = head
        self._teacher: list[Towers] = []  # in a list it is no submodule: not trained, not wrapped
        self._compiled: dict[str, Encode] = {}
        self._rows = 0

    @property
    def teacher(self) -> Towers | None:
        """The towers that these learn from, where a run has a teacher."""
        return self._teacher[0] if self._teacher else None

    def learn_from(self, teacher: Towers) -> None:
        """Take a teacher, on the same device; how it moves is not this module's business."""
        self._teacher = [teacher]

    def compile_encoders(self, rows: int) -> None:
        """Encode with compiled towers from now on, and so will copies; see compiling.compiled."""
        self._rows = rows
        self._compiled = {
            "image": compiled(self.model.encode_image, rows),
            "text": compiled(self.model.encode_text, rows),
        }

    def copy(self) -> Towers:
        """The same weights in eval mode, without gradients, and without the teacher."""
        made = Towers(copy.deepcopy(self.model), copy.deepcopy(self.head))
        if self._compiled:
            made.compile_encoders(self._rows)
        made.requires_grad_(False)
        return made.eval()

    def forward(self, inputs: Mapping[Feature, torch.Tensor]) -> dict[Feature, torch.Tensor]:
        """Features of all inputs, in their order.

        In batch normalisation each input is a batch of its own; so what comes first does not
        depend on what comes later.
        """
        return {feature: self.encode(feature, rows) for feature, rows in inputs.items()}

    def encode(self, feature: Feature, rows: torch.Tensor) -> torch.Tensor:
        """Unit rows in float32, whatever the precision of the towers.

        Of no rows come no rows. Where processes train together the tower is run all the same, on
        one row that is then dropped, since each must take part in every exchange of gradients.
        """
        if not len(rows):
            if not together():
                return rows.new_zeros((0, 1), dtype=torch.float32)
            return self.encode(feature, rows.new_zeros((1, *rows.shape[1:])))[:0]
        plain = self.model.encode_image if feature.tower == "image" else self.model.encode_text
        encode = self._compiled.get(feature.tower, plain)
        return F.normalize(encode(rows, normalize=False).float(), dim=-1)
