"""An anchor set in numbers: what ``inspect`` prints and the gallery draws. No image is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.manifest import Counts
from schemas.record import Kind
from shards.reader import AnchorSet

SAFETY = ("punsafe", "pwatermark", "similarity")
"""Columns of numbers that a web source may give of a picture."""

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
        clip_scores: per kind, cosine similarity of image and text, of the anchors that have it.
        words: per kind, words of the anchors' texts.
        sources: per kind, anchors per file of the source; images that are files of their own
            are counted by folder, with a slash at the end.
        licenses: anchors per licence; those without are left out.
        languages: anchors per language; those without are left out.
        nsfw: anchors per value of the column NSFW; those without are left out.
        safety: what else the source said of pictures: punsafe, pwatermark, similarity. None where
            no anchor has it; otherwise its count says how many have.
        images: anchors with their image in the set, by its extension.
        without_images: anchors whose image was left out.
        counts: what each stage of the build read, kept and dropped.
    """

    name: str
    digest: str
    samples: int
    bytes: int
    kinds: dict[Kind, int]
    classes: dict[Kind, dict[str, int]]
    scores: Spread | None
    clip_scores: dict[Kind, Spread]
    words: dict[Kind, Spread]
    sources: dict[Kind, dict[str, int]]
    licenses: dict[str, int]
    languages: dict[str, int]
    nsfw: dict[str, int]
    safety: dict[str, Spread | None]
    images: dict[str, int]
    without_images: int
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
    clip_scores: dict[Kind, list[NDArray[np.float64]]] = {kind: [] for kind in manifest.kinds}
    sources: dict[Kind, Counter[str]] = {kind: Counter() for kind in manifest.kinds}
    named_values: dict[str, Counter[str]] = {
        name: Counter() for name in ("license", "language", "nsfw", "image_ext")
    }
    safety: dict[str, list[NDArray[np.float64]]] = {name: [] for name in SAFETY}
    for shard in manifest.shards:
        table = anchors.table(shard)
        _count(classes[shard.kind], table.column("class_name"))
        _count(classes[shard.kind], pc.list_flatten(table.column("query_classes")))
        texts = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(table.column("text")))
        words[shard.kind].append(pc.list_value_length(texts).to_numpy().astype(np.float64))
        scores.append(_numbers(table, "score"))
        clip_scores[shard.kind].append(_numbers(table, "clip_score"))
        _count(sources[shard.kind], _origins(table))
        inside = table.filter(pc.is_valid(table.column("image_offset")))
        for name, counter in named_values.items():
            _count(counter, (inside if name == "image_ext" else table).column(name))
        for name, parts in safety.items():
            parts.append(_numbers(table, name))
    samples = {
        kind: sum(s.samples for s in manifest.shards if s.kind == kind) for kind in manifest.kinds
    }
    return Summary(
        name=manifest.name,
        digest=manifest.digest,
        samples=manifest.samples,
        bytes=sum(shard.bytes + shard.index.bytes for shard in manifest.shards),
        kinds=samples,
        classes={kind: _sorted(counter) for kind, counter in classes.items()},
        scores=_spread(scores),
        clip_scores={
            kind: found for kind, blocks in clip_scores.items() if (found := _spread(blocks))
        },
        words={
            kind: found for kind, blocks in words.items() if (found := _spread(blocks, whole=True))
        },
        sources={kind: _sorted(counter) for kind, counter in sources.items()},
        licenses=_sorted(named_values["license"]),
        languages=_sorted(named_values["language"]),
        nsfw=_sorted(named_values["nsfw"]),
        safety={name: _spread(parts) for name, parts in safety.items()},
        images=_sorted(named_values["image_ext"]),
        without_images=manifest.samples - named_values["image_ext"].total(),
        counts=manifest.provenance.counts,
    )


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    found: NDArray[np.float64] = pc.drop_null(table.column(name)).to_numpy()
    return found


def _origins(table: pa.Table) -> pa.ChunkedArray:
    """The source of each anchor: a tar, or the folder of an image that is a file of its own."""
    source = table.column("source")
    alone = pc.equal(source, table.column("source_key"))
    folder = pc.replace_substring_regex(source, "[^/]*$", "")
    return pc.if_else(alone, pc.if_else(pc.equal(folder, ""), "./", folder), source)


def _count(counter: Counter[str], column: pa.ChunkedArray) -> None:
    for pair in pc.value_counts(pc.drop_null(column)).to_pylist():
        counter[pair["values"]] += pair["counts"]


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))


def _spread(parts: list[NDArray[np.float64]], *, whole: bool = False) -> Spread | None:
    return spread(np.concatenate([np.zeros(0), *parts]), whole=whole)


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
