"""What a method is: phases, each with the terms that it minimises and the weights that it moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from schemas.record import Kind
from trainer.objective.terms import Term

Part = Literal["image", "text", "scale", "head"]
"""Parts of a model that a phase may train: its towers, the logit scale, the classifier."""
TOWERS: frozenset[Part] = frozenset({"image", "text", "scale"})


class AnchorWeights(NamedTuple):
    """The weights of a set's two terms; 0 leaves a term out."""

    name: str
    tc: float
    itp: float


class Ingredients(NamedTuple):
    """What terms are made from."""

    sets: tuple[AnchorWeights, ...] = ()
    multi_positive: bool = False


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        terms: of the objective, in order; a term of weight 0 is left out by the function.
        trains: what moves; the rest stays as it is.
        probe: it lasts --probe-epochs at --probe-lr, not --epochs at --lr.
    """

    terms: Callable[[Ingredients], list[Term]]
    trains: frozenset[Part] = TOWERS
    probe: bool = False


@dataclass(frozen=True)
class Method:
    """A way to finetune.

    Attributes:
        name: on the command line and in recipes.
        summary: one line, for help.
        phases: one after the other; none leaves the model as it is.
        head: how a linear classifier over image features begins, where a phase has one: as the
            zero-shot head, or at random.
        anchors: kinds that it takes; a set is refused where there are none.
    """

    name: str
    summary: str
    phases: tuple[Phase, ...]
    head: Literal["zero-shot", "random"] | None = None
    anchors: frozenset[Kind] = frozenset()
