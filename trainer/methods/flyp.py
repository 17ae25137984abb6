"""FLYP: the contrastive loss of pretraining, with the classes' names as texts."""

from __future__ import annotations

from trainer.methods.method import Ingredients, Method, Phase
from trainer.objective.terms import Contrastive, Term


def class_text(given: Ingredients) -> Contrastive:
    """CL(x, template(class))."""
    return Contrastive("class_text", 1.0, "finetune", "class", given.multi_positive)


def _terms(given: Ingredients) -> list[Term]:
    return [class_text(given)]


FLYP = Method(
    name="flyp",
    summary="contrastive with class texts (Goyal et al., CVPR 2023)",
    phases=(Phase(_terms),),
)
