"""Duplicates among the candidates: of each picture one stays, the best scored.

The same file twice is found by its hash. Near-duplicates are found where they must show: images
that are almost the same are neighbours of the same queries, so each query's list of neighbours
is compared with itself. Two near-duplicates that no list holds together are missed: the one just
inside of a list and the other just outside of it, and neither in another list with the other; a
larger ``--k`` makes that rarer. What is alike in steps (A like B, B like C) counts as one picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, cast

import apache_beam as beam
import numpy as np
from numpy.typing import NDArray

from pipelines.embedding import embed
from pipelines.embedding.vectors import Vectors
from pipelines.parts import Part, read_table, required_part
from pipelines.selection.verdicts import Entry, Verdict

Edge: TypeAlias = "tuple[int, int, int, int]"
"""Part and row of a candidate, then those of another with almost the same image; ascending."""

_PAIRS_BLOCK = 256  # queries whose neighbours' embeddings are in memory at once
_FINETUNE = "finetune"


class SameFiles(beam.PTransform):  # type: ignore[misc]
    """``(PCollection[Entry], PCollection[Part] of finetune embeddings) -> (part, Verdict)``.

    Reasons: ``finetune_duplicate``, the file is in the finetune set; ``duplicate``, it is in the
    pool with a better score.

    Args:
        work: the work folder.
    """

    def __init__(self, work: str) -> None:
        super().__init__()
        self._work = work

    def expand(
        self, inputs: tuple[beam.PCollection[Entry], beam.PCollection[Part]]
    ) -> beam.PCollection[tuple[int, Verdict]]:
        """See the class."""
        entries, queries = inputs
        files = entries | "PoolFiles" >> beam.Map(lambda entry: (entry.image_sha256, entry))
        own = queries | "FinetuneFiles" >> beam.FlatMap(_finetune_files, self._work)
        return {"pool": files, _FINETUNE: own} | beam.CoGroupByKey() | "Same" >> beam.FlatMap(_same)


def _finetune_files(part: Part, work: str) -> Iterator[tuple[str, str]]:
    columns = ["image_sha256", "source_key"]
    table = read_table(work, part, columns)
    yield from zip(*(table.column(name).to_pylist() for name in columns), strict=True)


def _same(group: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[tuple[int, Verdict]]:
    """Verdicts on the candidates that are one file."""
    _, found = group
    entries = sorted(found["pool"], key=lambda entry: entry.order)
    own = min(found[_FINETUNE], default=None)
    for number, entry in enumerate(entries):
        if own is not None:
            yield entry.part, Verdict(entry.row, "finetune_duplicate", f"is {own}")
        elif number:
            yield entry.part, Verdict(entry.row, "duplicate", f"is {entries[0].name}")


class NearDuplicates(beam.PTransform):  # type: ignore[misc]
    """``(PCollection[Entry], PCollection[Part] of neighbours) -> (part, Verdict)``.

    Reason: ``near_duplicate``. Only entries that come in are compared and kept.

    Args:
        work: the work folder.
        cosine: from which similarity on two images count as one.
    """

    def __init__(self, work: str, cosine: float) -> None:
        super().__init__()
        self._work = work
        self._cosine = cosine

    def expand(
        self, inputs: tuple[beam.PCollection[Entry], beam.PCollection[Part]]
    ) -> beam.PCollection[tuple[int, Verdict]]:
        """See the class."""
        entries, neighbours = inputs
        edges = (
            neighbours
            | "Edges" >> beam.FlatMap(similar_neighbours, self._work, self._cosine)
            | beam.Distinct()
        )
        by_part = entries | "ByPart" >> beam.Map(lambda entry: (entry.part, entry))
        first = edges | "First" >> beam.Map(lambda edge: (edge[0], (edge[1], edge[2:])))
        # An edge holds between survivors only: it meets the entry of its one end, then the other.
        second = (
            {"entries": by_part, "ends": first}
            | "MeetFirst" >> beam.CoGroupByKey()
            | "Onward" >> beam.FlatMap(_meet)
            | "Second" >> beam.Map(lambda met: (met[1][0], (met[1][1], met[0])))
        )
        pairs = (
            {"entries": by_part, "ends": second}
            | "MeetSecond" >> beam.CoGroupByKey()
            | "Pairs" >> beam.FlatMap(_meet)
        )
        return pairs | beam.combiners.ToList() | "Collapse" >> beam.FlatMap(collapse)


def _meet(group: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[tuple[Entry, Any]]:
    """The entry at an end of an edge, with what the edge brings along."""
    _, found = group
    entries = {entry.row: entry for entry in found["entries"]}
    for row, brought in found["ends"]:
        if row in entries:
            yield entries[row], brought


def similar_neighbours(part: Part, work: str, cosine: float) -> Iterator[Edge]:
    """Pairs of pool rows, neighbours of one query of the part, that are at least so similar."""
    table = read_table(work, part)
    query, pool_part, row = (
        table.column(name).to_numpy() for name in ("query", "pool_part", "pool_row")
    )
    seen: set[Edge] = set()
    bounds = np.flatnonzero(np.diff(query, prepend=-1, append=-2))
    for start in range(0, len(bounds) - 1, _PAIRS_BLOCK):
        ends = bounds[start : start + _PAIRS_BLOCK + 1]
        refs = np.stack([pool_part[ends[0] : ends[-1]], row[ends[0] : ends[-1]]], axis=1)
        unique, where = np.unique(refs, axis=0, return_inverse=True)
        vectors = _vectors(work, unique)
        for low, high in zip(ends[:-1] - ends[0], ends[1:] - ends[0], strict=True):
            mine = np.unique(where.reshape(-1)[low:high])
            # Values are float16, so that float64 sums are exact in any order: see retrieval.search.
            alike = vectors[mine].astype(np.float64) @ vectors[mine].T.astype(np.float64)
            for a, b in np.argwhere(np.triu(alike.astype(np.float32) >= np.float32(cosine), 1)):
                edge = cast(Edge, (*unique[mine[a]].tolist(), *unique[mine[b]].tolist()))
                if edge not in seen:
                    seen.add(edge)
                    yield edge


def _vectors(work: str, refs: NDArray[np.int32]) -> NDArray[np.float32]:
    """Embeddings [N, D] of pool rows (part, row) [N, 2], sorted."""
    blocks = []
    for number in np.unique(refs[:, 0]):
        part = required_part(work, embed.POOL, int(number))
        blocks.append(Vectors(work, part).take(refs[refs[:, 0] == number, 1]))
    return np.concatenate(blocks)


def collapse(pairs: Iterable[tuple[Entry, Entry]]) -> Iterator[tuple[int, Verdict]]:
    """Join pairs that share an entry, and drop all of each such group but the best."""
    leader: dict[tuple[int, int], tuple[int, int]] = {}
    entries: dict[tuple[int, int], Entry] = {}

    def find(ref: tuple[int, int]) -> tuple[int, int]:
        while leader.setdefault(ref, ref) != ref:
            leader[ref] = ref = leader[leader[ref]]
        return ref

    for pair in pairs:
        for entry in pair:
            entries[entry.part, entry.row] = entry
        one, other = (find((entry.part, entry.row)) for entry in pair)
        leader[max(one, other)] = min(one, other)
    best: dict[tuple[int, int], Entry] = {}
    for ref, entry in entries.items():
        best[find(ref)] = min(best.get(find(ref), entry), entry, key=lambda entry: entry.order)
    for ref, entry in sorted(entries.items()):
        kept = best[find(ref)]
        if entry != kept:
            yield entry.part, Verdict(entry.row, "near_duplicate", f"is like {kept.name}")
