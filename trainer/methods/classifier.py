"""Finetuning with cross-entropy on a linear classifier: FT, and LP-FT."""

from __future__ import annotations

from trainer.methods.method import Ingredients, Method, Part, Phase
from trainer.objective.terms import CrossEntropy, Term

_IMAGE_AND_HEAD: frozenset[Part] = frozenset({"image", "head"})


def _terms(_: Ingredients) -> list[Term]:
    return [CrossEntropy("cross_entropy", 1.0)]


FT = Method(
    name="ft",
    summary="cross-entropy, the classifier begins as the zero-shot head",
    phases=(Phase(_terms, _IMAGE_AND_HEAD),),
    head="zero-shot",
)
FT_RANDOM = Method(
    name="ft-random",
    summary="cross-entropy, the classifier begins at random",
    phases=(Phase(_terms, _IMAGE_AND_HEAD),),
    head="random",
)
LP_FT = Method(
    name="lp-ft",
    summary="the classifier alone first, then all of it (Kumar et al., ICLR 2022)",
    phases=(Phase(_terms, frozenset({"head"}), probe=True), Phase(_terms, _IMAGE_AND_HEAD)),
    head="random",
)
