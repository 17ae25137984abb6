"""An anchor set in numbers: what ``inspect`` prints and the gallery draws. No image is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.manifest import Counts
from schemas.record import Kind
from shards.reader import AnchorSet

_BINS = 30


@dataclass(frozen=True)
class Spread:
    """A column of numbers in short; ``bins[i]`` of them lie from ``edges[i]`` to ``edges[i + 1]``.

    A number on an inner edge counts to the right; the last bin holds its right edge too.
    """

    count: int
    least: float
    median: float
    mean: float
    most: float
    edges: list[float] = field(repr=False)
    bins: list[int] = field(repr=False)


@dataclass(frozen=True)
class Summary:
    """What a set holds.

    Attributes:
        kinds: anchors per kind.
        classes: per kind, anchors per class. A pair counts for every class that retrieved it.
        scores: cosine similarity of the image-text pairs, if there are any.
        words: per kind, words of the anchors' texts.
        counts: what each stage of the build read, kept and dropped.
    """

    name: str
    digest: str
    samples: int
    bytes: int
    kinds: dict[Kind, int]
    classes: dict[Kind, dict[str, int]]
    scores: Spread | None
    words: dict[Kind, Spread]
    counts: dict[str, Counts]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``inspect --json``."""
        body = asdict(self)
        body["counts"] = {stage: counts.model_dump() for stage, counts in self.counts.items()}
        return body


def summarise(anchors: AnchorSet) -> Summary:
    """Read the parquets of a set, and count.

    Raises:
        UserError: a parquet is missing or was changed.
    """
    manifest = anchors.manifest
    classes: dict[Kind, Counter[str]] = {kind: Counter() for kind in manifest.kinds}
    words: dict[Kind, list[NDArray[np.float64]]] = {kind: [] for kind in manifest.kinds}
    scores: list[NDArray[np.float64]] = []
    for shard in manifest.shards:
        table = anchors.table(shard)
        named = pc.drop_null(table.column("class_name"))
        asked = pc.list_flatten(table.column("query_classes"))
        for column in (named, asked):
            for pair in pc.value_counts(column).to_pylist():
                classes[shard.kind][pair["values"]] += pair["counts"]
        texts = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(table.column("text")))
        words[shard.kind].append(pc.list_value_length(texts).to_numpy().astype(np.float64))
        scores.append(pc.drop_null(table.column("score")).to_numpy())
    samples = {
        kind: sum(s.samples for s in manifest.shards if s.kind == kind) for kind in manifest.kinds
    }
    return Summary(
        name=manifest.name,
        digest=manifest.digest,
        samples=manifest.samples,
        bytes=sum(shard.bytes + shard.index.bytes for shard in manifest.shards),
        kinds=samples,
        classes={kind: dict(sorted(counter.items())) for kind, counter in classes.items()},
        scores=spread(np.concatenate([np.zeros(0), *scores])),
        words={
            kind: found
            for kind, blocks in words.items()
            if (found := spread(np.concatenate([np.zeros(0), *blocks]), whole=True))
        },
        counts=manifest.provenance.counts,
    )


def spread(values: NDArray[np.float64], *, whole: bool = False) -> Spread | None:
    """Summary and histogram of numbers; None if there are none.

    Args:
        values: numbers, in any order.
        whole: they are integers, so that a bin must not be narrower than 1.
    """
    if not len(values):
        return None
    least, most = float(values.min()), float(values.max())
    step = _round_step((most - least) / _BINS)
    step = max(step, 1.0) if whole else step
    first = np.floor(least / step)
    number = int(np.floor(most / step) - first) + 1
    edges = (first + np.arange(number + 1)) * step
    bins, _ = np.histogram(values, edges)
    return Spread(
        count=len(values),
        least=round(least, 6),
        median=round(float(np.median(values)), 6),
        mean=round(float(values.mean()), 6),
        most=round(most, 6),
        edges=[round(float(edge), 6) for edge in edges],
        bins=[int(number) for number in bins],
    )


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least ``least`` (and 0.001)."""
    least = max(least, 0.001)
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(power * n for n in (1, 2, 5, 10) if power * n >= least * (1 - 1e-9)))
