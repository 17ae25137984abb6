"""Verdicts on candidates, and who survives them: what the steps of the select stage pass around.

Everything here is small tuples, so that candidates by the million cross a shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam


@dataclass(frozen=True)
class Entry:
    """A candidate.

    Attributes:
        part: number of its pool part.
        row: in that part.
        score: best cosine similarity to a finetune image.
        image_sha256: of its file.
        name: for people: source and key.
        class_scores: best score by finetune class.
    """

    part: int
    row: int
    score: float
    image_sha256: str
    name: str
    class_scores: tuple[tuple[str, float], ...]

    @property
    def order(self) -> tuple[float, int, int]:
        """The least is the best: by score, then by place in the pool."""
        return (-self.score, self.part, self.row)


@dataclass(frozen=True)
class Verdict:
    """Why a candidate of a pool part is dropped."""

    row: int
    reason: str
    detail: str


class Survivors(beam.PTransform):  # type: ignore[misc]
    """``(PCollection[Entry], PCollection[(part, Verdict)]) -> PCollection[Entry]``."""

    def expand(
        self,
        inputs: tuple[beam.PCollection[Entry], beam.PCollection[tuple[int, Verdict]]],
    ) -> beam.PCollection[Entry]:
        """See the class."""
        entries, verdicts = inputs
        return (
            {"entries": entries | beam.Map(lambda entry: (entry.part, entry)), "verdicts": verdicts}
            | beam.CoGroupByKey()
            | beam.FlatMap(_alive)
        )


def _alive(group: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[Entry]:
    _, found = group
    gone = {verdict.row for verdict in found["verdicts"]}
    yield from (entry for entry in found["entries"] if entry.row not in gone)
