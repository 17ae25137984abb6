"""Terms: each one number from a batch's features, with a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from trainer.data import Batch
from trainer.objective.contrastive import contrastive_loss
from trainer.objective.features import Feature, Features, Towers

Gather = Callable[[torch.Tensor], torch.Tensor]
"""Rows of this process to those of all, in the order of the processes, with their gradients."""


class Term(Protocol):
    """One term of an objective; any object with these can be one."""

    @property
    def name(self) -> str:
        """In metrics and plots."""
        ...

    @property
    def weight(self) -> float:
        """What its value is multiplied with; above 0."""
        ...

    @property
    def features(self) -> tuple[Feature, ...]:
        """What it is made from."""
        ...

    def __call__(
        self, features: Features, batch: Batch, towers: Towers, gather: Gather
    ) -> torch.Tensor | None:
        """The term's value over the batches of all processes.

        Args:
            features: of this process's batch; those that ``features`` names are there.
            batch: of this process.
            towers: for the logit scale and the head.
            gather: brings rows of all processes together. All processes must call it equally
                often, whatever is in their batches.

        Returns:
            A float32 scalar, or None where no process has anything for it.
        """
        ...


@dataclass(frozen=True)
class Contrastive:
    """CL(images, texts): the i-th text belongs to the i-th image, or to the image in ``rows``.

    Attributes:
        image: name of the images in the batch.
        text: name of the texts; if ``batch.rows`` has the name, its rows say which image each
            text belongs to, else there is one for every image.
        multi_positive: texts of the same class are positives, not negatives.
    """

    name: str
    weight: float
    image: str
    text: str
    multi_positive: bool = False

    @property
    def features(self) -> tuple[Feature, ...]:
        """Of both towers."""
        return Feature("image", self.image), Feature("text", self.text)

    def __call__(
        self, features: Features, batch: Batch, towers: Towers, gather: Gather
    ) -> torch.Tensor | None:
        """See Term."""
        image, text = (features[feature] for feature in self.features)
        rows = batch.rows.get(self.text)
        image, text = gather(image if rows is None else image[rows]), gather(text)
        classes = gather(batch.classes) if self.multi_positive else None
        if not len(image):
            return None
        return contrastive_loss(image, text, towers.model.logit_scale, classes)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the trained head's logits with the classes (plain finetuning)."""

    name: str
    weight: float

    @property
    def features(self) -> tuple[Feature, ...]:
        """Of the finetune images."""
        return (Feature("image", "finetune"),)

    def __call__(
        self, features: Features, batch: Batch, towers: Towers, gather: Gather
    ) -> torch.Tensor | None:
        """See Term."""
        assert towers.head is not None
        image, classes = gather(features[self.features[0]]), gather(batch.classes)
        return F.cross_entropy(towers.head(image), classes) if len(image) else None


@dataclass(frozen=True)
class Loss:
    """The objective's value and its terms before weighting; float32 scalars.

    Attributes:
        grad_norm: of all gradients together, before clipping; once a step was made.
        finite: bool scalar: loss and gradient are numbers, so that the weights moved.
    """

    total: torch.Tensor
    terms: Mapping[str, torch.Tensor]
    grad_norm: torch.Tensor | None = None
    finite: torch.Tensor | None = None


def wanted(terms: Sequence[Term], batch: Batch) -> dict[Feature, torch.Tensor]:
    """The inputs of every feature that a term wants, each once, in the order of the terms."""
    return {feature: feature.inputs(batch) for term in terms for feature in term.features}


def objective(
    terms: Sequence[Term], features: Features, batch: Batch, towers: Towers, gather: Gather
) -> Loss | None:
    """The weighted sum of the terms.

    Returns:
        None where not one term has anything to say.
    """
    total: torch.Tensor | None = None
    values: dict[str, torch.Tensor] = {}
    for term in terms:
        value = term(features, batch, towers, gather)
        if value is None:
            continue
        values[term.name] = value
        part = value if term.weight == 1 else term.weight * value
        total = part if total is None else total + part
    return None if total is None else Loss(total, values)
