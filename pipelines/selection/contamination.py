"""Finding pool images that are copies of evaluation images.

The same file is known by its hash. For other copies the embeddings propose: of each pool image
the nearest evaluation images, or mirror images, that are not too far away. Then the pixels decide
(selection.copies). The floor is low and the list long, so that a weak encoder misses little; a
proposal that is no copy costs a fraction of a millisecond.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.embedding.vectors import Vectors, check_sha256
from pipelines.parts import Part, read_table
from pipelines.selection.copies import COPY, Thumbnail, View, both_ways, likeness
from pipelines.selection.evaluation import thumbnails_place
from shards import places

FLOOR = 0.5
"""Least cosine similarity of what is proposed. Copies of photographs stay above 0.8 by any CLIP."""
PROPOSALS = 100
"""Evaluation images, mirrored ones counted apart, that are proposed for a pool image at most."""

_CHUNK = 1024  # pool images that are looked for at once
_BLOCK = 8192  # embeddings that they are compared with at once
_VIEWS = 4096  # kept per process: 60 kB each
_MAPS = 64  # files of thumbnails that are kept open


class Match(NamedTuple):
    """An evaluation image that a pool image is a copy of: its name, and how alike the two are."""

    name: str
    likeness: float


class EvaluationImages:
    """The evaluation images of a build, read as they are asked for.

    Args:
        work: the work folder.
        parts: of all evaluation stages, in order.
    """

    def __init__(self, work: str, parts: Sequence[Part]) -> None:
        self._work = work
        self._parts = [part for part in parts if part.rows]
        self._view = functools.lru_cache(_VIEWS)(self._view_of)
        self._thumbnails = functools.lru_cache(_MAPS)(self._load)
        self._names: dict[int, list[str]] = {}

    @functools.cached_property
    def _hashes(self) -> dict[bytes, tuple[int, int]]:
        """SHA-256 of each file to its part and row; of equal files the first."""
        found: dict[bytes, tuple[int, int]] = {}
        for number, part in enumerate(self._parts):
            for row, digest in enumerate(self._column(part, "image_sha256")):
                found.setdefault(bytes.fromhex(digest), (number, row))
        return found

    def same_file(self, image_sha256: str) -> Match | None:
        """The evaluation image that is this very file, if one is."""
        found = self._hashes.get(bytes.fromhex(image_sha256))
        return None if found is None else Match(self._name(*found), 1.0)

    def proposals(self, vectors: NDArray[np.float32]) -> list[list[tuple[int, int]]]:
        """For each embedding [N, D] the (part, row) of evaluation images that it may be a copy of.

        Nearest first, each once.
        """
        found: list[list[tuple[int, int]]] = []
        for start in range(0, len(vectors), _CHUNK):
            found += self._nearest(vectors[start : start + _CHUNK])
        return found

    def _nearest(self, vectors: NDArray[np.float32]) -> list[list[tuple[int, int]]]:
        # Values are float16, so that float64 sums are exact in any order (see retrieval.search):
        # the list is the same on every machine.
        wide = vectors.astype(np.float64)
        bar = np.full(len(vectors), FLOOR, np.float32)
        best = np.zeros((4, 0))  # query, score, part, row
        for number, part in enumerate(self._parts):
            held = Vectors(self._work, part)
            for start in range(0, held.rows, _BLOCK):
                block = held.take(slice(start, start + _BLOCK)).astype(np.float64)
                scores = (wide @ block.T).astype(np.float32)
                query, row = np.nonzero(scores >= bar[:, None])
                new = (query, scores[query, row], np.full(len(row), number), start + row)
                best = _shortened(np.concatenate([best, np.stack(new)], axis=1))
                lines, counts = np.unique(best[0], return_counts=True)
                last = best[1, np.cumsum(counts) - 1]
                full = counts == PROPOSALS
                bar[lines[full].astype(int)] = last[full]
        found: list[list[tuple[int, int]]] = [[] for _ in vectors]
        for query, part, row in best[[0, 2, 3]].astype(int).T.tolist():
            ref = (part, row % self._parts[part].rows)  # a mirror image is its image's
            if ref not in found[query]:
                found[query].append(ref)
        return found

    def copy_among(self, proposed: Sequence[tuple[int, int]], pixels: Thumbnail) -> Match | None:
        """The first of the proposed that the picture is a copy of, if it is one of any."""
        picture = both_ways(pixels)
        for number, row in proposed:
            alike = likeness(picture, self._view(number, row))
            if alike >= COPY:
                return Match(self._name(number, row), round(alike, 4))
        return None

    def _view_of(self, number: int, row: int) -> View:
        return View.of(np.asarray(self._thumbnails(number)[row]))

    def _load(self, number: int) -> NDArray[np.uint8]:
        """Thumbnails of a part: mapped where they are local, else read."""
        part = self._parts[number]
        place = thumbnails_place(self._work, part)
        check_sha256(place, part.extra["thumbnails_sha256"])
        local = places.is_local(place)
        source = places.local_path(place) if local else io.BytesIO(places.read_bytes(place))
        pixels: NDArray[np.uint8] = np.load(
            source, mmap_mode="r" if local else None, allow_pickle=False
        )
        return pixels

    def _name(self, number: int, row: int) -> str:
        if number not in self._names:
            part = self._parts[number]
            columns = (self._column(part, name) for name in ("source", "source_key"))
            place = part.stage.rsplit("-", 1)[1]
            self._names[number] = [f"{place}/{s} {key}" for s, key in zip(*columns, strict=True)]
        return self._names[number][row]

    def _column(self, part: Part, name: str) -> list[str]:
        column: list[str] = read_table(self._work, part, [name]).column(name).to_pylist()
        return column


def _shortened(best: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lines of (query, score, part, row) in that order, best first, PROPOSALS a query at most."""
    query, score, part, row = best
    best = best[:, np.lexsort((row, part, -score, query))]
    rank = np.arange(best.shape[1]) - np.searchsorted(best[0], best[0])
    kept: NDArray[np.float64] = best[:, rank < PROPOSALS]
    return kept
