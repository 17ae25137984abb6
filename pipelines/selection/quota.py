"""At most so many pairs a finetune class, so that no class floods the set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from pipelines.selection.verdicts import Entry, Verdict


class Quota(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Entry] -> PCollection[(part, Verdict)]``; reason: ``class_quota``.

    Each class keeps the pairs that score best for it, those earlier in the pool among equals. A
    pair that several classes asked for stays if any of them keeps it.

    Args:
        most: pairs of a class.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def expand(self, entries: beam.PCollection[Entry]) -> beam.PCollection[tuple[int, Verdict]]:
        """See the class."""
        kept = (
            entries
            | "ByClass" >> beam.FlatMap(_by_class)
            | "Best" >> beam.combiners.Top.LargestPerKey(self._most)
            | "Kept" >> beam.FlatMap(_kept)
        )
        return (
            {"entries": entries | "ByPart" >> beam.Map(lambda e: (e.part, e)), "kept": kept}
            | beam.CoGroupByKey()
            | "Over" >> beam.FlatMap(_over, self._most)
        )


def _by_class(entry: Entry) -> Iterator[tuple[str, tuple[float, int, int]]]:
    for name, score in entry.class_scores:
        yield name, (score, -entry.part, -entry.row)


def _kept(best: tuple[str, list[tuple[float, int, int]]]) -> Iterator[tuple[int, int]]:
    for _, part, row in best[1]:
        yield -part, -row


def _over(group: tuple[int, dict[str, Iterable[Any]]], most: int) -> Iterator[tuple[int, Verdict]]:
    number, found = group
    kept = set(found["kept"])
    for entry in found["entries"]:
        if entry.row not in kept:
            detail = f"{most} others score better for {', '.join(n for n, _ in entry.class_scores)}"
            yield number, Verdict(entry.row, "class_quota", detail)
