"""ARF: FLYP with two kinds of anchors, and each kind alone.

L = CL(x, t_cls) + lambda_tc CL(x, t_cap) + lambda_itp CL(u, s), Han et al., "Anchor-based Robust
Finetuning of Vision-Language Models", CVPR 2024. With both lambdas 0 it is FLYP to the bit: a term
of weight 0 is not computed.
"""

from __future__ import annotations

from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED
from trainer.methods.flyp import class_text
from trainer.methods.method import Ingredients, Method, Phase
from trainer.objective.terms import Contrastive, Term


def _terms(given: Ingredients) -> list[Term]:
    terms: list[Term] = [class_text(given)]
    for one in given.sets:
        suffix = f"/{one.name}" if len(given.sets) > 1 else ""
        if one.tc:
            terms.append(Contrastive(f"tc{suffix}", one.tc, "finetune", f"captions/{one.name}"))
        if one.itp:
            pairs = f"pairs/{one.name}"
            terms.append(Contrastive(f"itp{suffix}", one.itp, pairs, pairs))
    return terms


ARF = Method(
    name="arf",
    summary="FLYP with both kinds of anchors (Han et al., CVPR 2024)",
    phases=(Phase(_terms),),
    anchors=frozenset({TEXT_COMPENSATED, IMAGE_TEXT_PAIR}),
)
ARF_TC = Method(
    name="arf-tc",
    summary="FLYP with text-compensated anchors alone",
    phases=(Phase(_terms),),
    anchors=frozenset({TEXT_COMPENSATED}),
)
ARF_ITP = Method(
    name="arf-itp",
    summary="FLYP with image-text-pair anchors alone",
    phases=(Phase(_terms),),
    anchors=frozenset({IMAGE_TEXT_PAIR}),
)
