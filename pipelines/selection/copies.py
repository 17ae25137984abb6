"""Is one picture a copy of another: re-encoded, resized, mirrored, slightly cropped?

Pictures are compared as thumbnails, in three looks. Coarse: windows cut from the one are
correlated in grey with the whole other, mirrored too. Fine: from the best window on, a box is
moved in small steps until its colours fit the other picture best; in doing so it locks onto
details. Rough: within the box that the details chose, the two are compared at a few pixels only.
Of a copy these are the same however badly it was encoded or shrunk; another picture of a similar
scene can be fitted in its details or as a whole, but not in both.

All sums are of whole numbers and exact, so that a verdict is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 48
"""Pixels of a thumbnail's side; aspect is not kept, so that resizing changes nothing."""
COPY = 0.989
"""Likeness from which a picture is a copy; benchmarks.contamination shows what that finds."""

_COARSE = 16  # pixels of a grey window's side: a sum of products fits 24 bits, float32's mantissa
_FINE = 32
_ROUGH = 8  # blur: at 12 pixels shrunk copies are missed, at 6 similar scenes are taken for copies
_LEAST_COARSE = 0.8
_LEAST_FINE = 0.88
_SPANS = ((0, 1), (0, 0.9), (0.1, 1), (0.05, 0.95), (0, 0.82), (0.18, 1), (0.09, 0.91))
_WINDOWS = tuple((a * SIDE, c * SIDE, b * SIDE, d * SIDE) for a, b in _SPANS for c, d in _SPANS)
_LEAST_SIDE = 0.75 * SIDE  # of a box
_STEPS = tuple(SIDE * share for share in (0.04, 0.02, 0.01, 0.005))
# Edges that move together: each alone, and opposite ones, which shifts the box.
_MOVES = ((0,), (1,), (2,), (3,), (0, 2), (1, 3))

Thumbnail: TypeAlias = "NDArray[np.uint8]"
Box: TypeAlias = "tuple[float, ...]"


def thumbnail(image: Image.Image) -> Thumbnail:
    """The RGB picture as uint8 [SIDE, SIDE, 3]."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(small, dtype=np.uint8)


@dataclass(frozen=True)
class View:
    """A thumbnail, ready to be compared.

    Attributes:
        image: the thumbnail.
        windows: float32 [W, _COARSE ** 2] of whole numbers, grey; the first is the whole.
    """

    image: Image.Image
    windows: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: Thumbnail) -> View:
        """Cut the windows."""
        image = Image.fromarray(pixels)
        grey = image.convert("L")
        cuts = [_cut(grey, box, _COARSE).ravel() for box in _WINDOWS]
        return cls(image, np.stack(cuts).astype(np.float32))


def both_ways(pixels: Thumbnail) -> tuple[View, View]:
    """The picture as it is, and mirrored."""
    return View.of(pixels), View.of(np.ascontiguousarray(pixels[:, ::-1]))


def likeness(picture: tuple[View, View], other: View) -> float:
    """How well the picture or its mirror image fits the other, up to 1; 0 if not at all.

    Args:
        picture: by both_ways.
        other: either may be a crop of the other one.
    """
    return max(_fitted(view, other) for view in picture)


def _fitted(first: View, second: View) -> float:
    """Likeness of two pictures as they stand."""
    inside = _correlations(second.windows, first.windows[0])  # the first is a crop of the second
    around = _correlations(first.windows, second.windows[0])
    if max(inside.max(), around.max()) < _LEAST_COARSE:
        return 0.0
    if inside.max() < around.max():
        first, second, inside = second, first, around
    fine, box = _fit(second.image, _WINDOWS[int(inside.argmax())], _cut(first.image, None, _FINE))
    if fine < _LEAST_FINE:
        return 0.0
    return _colours(_cut(first.image, None, _ROUGH), _cut(second.image, box, _ROUGH))


def _cut(image: Image.Image, box: Box | None, side: int) -> NDArray[np.int64]:
    small = image.resize((side, side), Image.Resampling.BILINEAR, box=box)  # type: ignore[arg-type]
    return np.asarray(small, dtype=np.int64)


def _correlations(windows: NDArray[np.float32], whole: NDArray[np.float32]) -> NDArray[np.float64]:
    """Correlation of each window [W, N] with the picture [N]; 0 where one of them is flat."""
    n = len(whole)
    products = (windows @ whole).astype(np.float64)
    sums, total = windows.sum(axis=1).astype(np.float64), float(whole.sum())
    squares = (windows * windows).sum(axis=1).astype(np.float64)
    spread = (n * squares - sums**2) * (n * float(whole @ whole) - total**2)
    found: NDArray[np.float64] = (n * products - sums * total) / np.sqrt(np.maximum(spread, 1.0))
    return found


def _fit(image: Image.Image, start: Box, target: NDArray[np.int64]) -> tuple[float, Box]:
    """The box of the image, moved from ``start``, that correlates best with ``target``."""
    box = start
    best = _colours(_cut(image, box, _FINE), target)
    for step in _STEPS:
        moved = True
        while moved:
            moved = False
            for edges in _MOVES:
                for by in (step, -step):
                    tried = tuple(v + by if i in edges else v for i, v in enumerate(box))
                    if not _is_inside(tried):
                        continue
                    found = _colours(_cut(image, tried, _FINE), target)
                    if found > best:
                        best, box, moved = found, tried, True
    return best, box


def _is_inside(box: Box) -> bool:
    left, top, right, bottom = box
    return (
        min(left, top) >= 0
        and max(right, bottom) <= SIDE
        and min(right - left, bottom - top) >= _LEAST_SIDE
    )


def _colours(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Correlation over all pixels, each colour about its own mean: brightness plays no part."""
    n = first.shape[0] * first.shape[1]

    def moment(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
        return int(n * np.sum(a * b) - np.dot(a.sum(axis=(0, 1)), b.sum(axis=(0, 1))))

    spread = moment(first, first) * moment(second, second)
    return float(moment(first, second) / np.sqrt(float(spread))) if spread > 0 else 0.0
