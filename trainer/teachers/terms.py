"""The terms that a teacher adds to a method's."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.errors import UserError
from trainer.config import TeacherConfig
from trainer.objective.distill import distill_terms
from trainer.objective.terms import Term


def teacher_terms(config: TeacherConfig, method: str, terms: Sequence[Term]) -> list[Term]:
    """The terms that a teacher adds to those of a phase; none where weight 0 asks for none.

    Raises:
        UserError: there is nothing to distill over, or a term wants a teacher that is not there.
    """
    own = [t.name for t in terms if any(feature.teacher for feature in t.features)]
    if config.teacher == "none":
        if own:
            raise UserError(
                f"the term {own[0]!r} of --method {method} wants a teacher; give --teacher frozen, "
                f"ema or wma."
            )
        return []
    if config.distill_weight == 0:
        if not own:
            raise UserError("--distill-weight 0 leaves the teacher nothing to do; leave both out.")
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
        if own:
            return []
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
