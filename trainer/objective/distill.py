"""Distillation: the model's contrastive softmax over a batch is held to its teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.data import Batch
from trainer.objective.contrastive import MAX_LOG_SCALE
from trainer.objective.features import Feature, Features, Towers
from trainer.objective.terms import Contrastive, Gather, Term


@dataclass(frozen=True)
class Distill:
    """KL(teacher || student) between softmaxes of the logits of images and texts, both ways.

    Self-distillation as in CaRot (Oh et al., NeurIPS 2024, arXiv 2311.01723): for each image the
    distribution over the batch's texts, for each text that over its images, each model's logits
    with its own scale. The two are averaged, as in the contrastive loss; CaRot's code adds them
    up, so its coefficient of 1.5 is a weight of 3 here. It has the cross-entropy in place of the
    divergence, which has the same gradient but is not 0 where the two agree.

    Temperature T is ours to choose: it divides both logits, and T^2 multiplies the term, which
    keeps the size of its gradient (Hinton et al., arXiv 1503.02531).

    Attributes:
        image, text: names in the batch; the i-th text belongs to the i-th image.
        temperature: T.
    """

    name: str
    weight: float
    image: str
    text: str
    temperature: float = 1.0

    @property
    def features(self) -> tuple[Feature, ...]:
        """Of both towers, the model's and the teacher's."""
        return (
            Feature("image", self.image),
            Feature("text", self.text),
            Feature("image", self.image, teacher=True),
            Feature("text", self.text, teacher=True),
        )

    def __call__(
        self, features: Features, batch: Batch, towers: Towers, gather: Gather
    ) -> torch.Tensor | None:
        """See Term."""
        assert towers.teacher is not None
        image, text, taught_image, taught_text = (
            gather(features[feature]) for feature in self.features
        )
        if not len(image):
            return None
        student = _logits(image, text, towers) / self.temperature
        with torch.no_grad():
            teacher = _logits(taught_image, taught_text, towers.teacher) / self.temperature
        rows, columns = (_divergence(teacher, student), _divergence(teacher.T, student.T))
        return self.temperature**2 * (rows + columns) / 2


def _logits(image: torch.Tensor, text: torch.Tensor, towers: Towers) -> torch.Tensor:
    """Scaled cosines, float32 [images, texts]."""
    scale = towers.model.logit_scale.float().clamp(max=MAX_LOG_SCALE).exp()
    logits: torch.Tensor = scale * image.float() @ text.float().T
    return logits


def _divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """The mean over rows of KL(teacher || student), a scalar."""
    return F.kl_div(
        F.log_softmax(student, dim=1),
        F.log_softmax(teacher, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def distill_terms(
    terms: Sequence[Term], *, on: str, weight: float, temperature: float
) -> list[Distill]:
    """A term beside each contrastive one over class texts (``finetune``) or anchor ``pairs``.

    Texts that belong to some of the finetune images only, the captions, get none.

    Args:
        terms: of a phase.
        on: finetune, pairs, both; or auto, which is wherever there is such a term.
        weight: of each of the new terms.
        temperature: see Distill.

    Returns:
        In the order of the terms; none where the phase has no such term.
    """
    found: list[Distill] = []
    for term in terms:
        if not isinstance(term, Contrastive):
            continue
        kind = "pairs" if term.text.startswith("pairs/") else "finetune"
        if on in ("auto", "both", kind) and (kind == "pairs" or term.text == "class"):
            found.append(
                Distill(f"distill/{term.name}", weight, term.image, term.text, temperature)
            )
    return found
