"""The terms that a teacher adds to a method's."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.errors import UserError
from trainer.config import TeacherConfig
from trainer.objective.distill import distill_terms
from trainer.objective.terms import Term


def teacher_terms(config: TeacherConfig, method: str, terms: Sequence[Term]) -> list[Term]:
    """The terms that a teacher adds to those of a phase.

    Raises:
        UserError: there is nothing to distill over, or a term wants a teacher that is not there.
    """
    if config.teacher == "none":
        for term in terms:
            if any(feature.teacher for feature in term.features):
                raise UserError(
                    f"the term {term.name!r} of --method {method} wants a teacher; give "
                    f"--teacher frozen, ema or wma."
                )
        return []
    on = config.distill_on
    found = distill_terms(
        terms,
        on=on,
        weight=1.0 if config.distill_weight is None else config.distill_weight,
        temperature=1.0 if config.distill_temperature is None else config.distill_temperature,
    )
    pairs = sum(term.text.startswith("pairs/") for term in found)
    if not found and on == "auto":
        raise UserError(
            f"--teacher {config.teacher} needs a contrastive term, which --method {method} "
            f"has not; leave it out, or train with flyp or arf."
        )
    if (on in ("pairs", "both") and not pairs) or (
        on in ("finetune", "both") and len(found) == pairs
    ):
        raise UserError(
            f"--distill-on {on} means nothing: --method {method} has no such contrastive term "
            f"here; leave it out."
        )
    return [*found]
