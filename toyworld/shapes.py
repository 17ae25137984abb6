"""The outlines of the object classes, as filled shapes on a unit square (y points down)."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image, ImageDraw

Point = tuple[float, float]


class Pen:
    """Draws filled shapes in unit coordinates on a mask of ``side`` pixels.

    Args:
        side: of the mask, in pixels.
        place: maps unit coordinates to pixels (position, size, rotation, stretch).
    """

    def __init__(self, side: int, place: Callable[[Point], Point]) -> None:
        self.mask = Image.new("L", (side, side), 0)
        self._draw = ImageDraw.Draw(self.mask)
        self._place = place

    def polygon(self, *points: Point, fill: int = 255) -> None:
        """A filled polygon."""
        self._draw.polygon([self._place(point) for point in points], fill=fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: int = 255) -> None:
        """A filled ellipse with centre (x, y), as a polygon so that it turns with the rest."""
        self.arc(x, y, rx, ry, 0, 360, fill)

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, stop: float, fill: int = 255
    ) -> None:
        """A filled slice of an ellipse between two angles in degrees (0 is east, 90 south)."""
        steps = [math.radians(start + (stop - start) * i / 28) for i in range(29)]
        self.polygon(*[(x + rx * math.cos(a), y + ry * math.sin(a)) for a in steps], fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: int = 255) -> None:
        """A filled rectangle."""
        self.polygon((left, top), (right, top), (right, bottom), (left, bottom), fill=fill)


def _arrow(p: Pen) -> None:
    p.box(0.02, 0.4, 0.6, 0.6)
    p.polygon((0.55, 0.14), (0.98, 0.5), (0.55, 0.86))


def _bell(p: Pen) -> None:
    p.arc(0.5, 0.42, 0.28, 0.32, 180, 360)
    p.polygon((0.22, 0.4), (0.78, 0.4), (0.92, 0.8), (0.08, 0.8))
    p.ellipse(0.5, 0.88, 0.1, 0.1)
    p.ellipse(0.5, 0.08, 0.07, 0.07)


def _boat(p: Pen) -> None:
    p.polygon((0.03, 0.68), (0.97, 0.68), (0.78, 0.95), (0.2, 0.95))
    p.polygon((0.52, 0.04), (0.9, 0.58), (0.52, 0.58))
    p.polygon((0.44, 0.18), (0.44, 0.58), (0.14, 0.58))


def _bottle(p: Pen) -> None:
    p.box(0.42, 0.02, 0.58, 0.35)
    p.polygon((0.42, 0.3), (0.58, 0.3), (0.72, 0.48), (0.72, 0.98), (0.28, 0.98), (0.28, 0.48))


def _car(p: Pen) -> None:
    p.polygon((0.25, 0.28), (0.68, 0.28), (0.84, 0.52), (0.12, 0.52))
    p.box(0.02, 0.5, 0.98, 0.74)
    for x in (0.25, 0.75):
        p.ellipse(x, 0.75, 0.14, 0.14)
        p.ellipse(x, 0.75, 0.05, 0.05, fill=0)
    p.polygon((0.3, 0.34), (0.45, 0.34), (0.45, 0.48), (0.22, 0.48), fill=0)
    p.polygon((0.52, 0.34), (0.64, 0.34), (0.73, 0.48), (0.52, 0.48), fill=0)


def _chair(p: Pen) -> None:
    p.box(0.2, 0.02, 0.34, 0.98)
    p.box(0.2, 0.5, 0.82, 0.64)
    p.box(0.68, 0.6, 0.82, 0.98)


def _cloud(p: Pen) -> None:
    for x, y, r in ((0.22, 0.6, 0.2), (0.44, 0.44, 0.26), (0.7, 0.52, 0.22), (0.83, 0.64, 0.16)):
        p.ellipse(x, y, r, r)
    p.box(0.2, 0.58, 0.85, 0.8)


def _cross(p: Pen) -> None:
    p.box(0.36, 0.04, 0.64, 0.96)
    p.box(0.04, 0.36, 0.96, 0.64)


def _crown(p: Pen) -> None:
    p.polygon(
        (0.04, 0.2), (0.27, 0.52), (0.5, 0.1), (0.73, 0.52), (0.96, 0.2), (0.88, 0.88), (0.12, 0.88)
    )


def _cup(p: Pen) -> None:
    p.ellipse(0.76, 0.5, 0.22, 0.22)
    p.ellipse(0.76, 0.5, 0.12, 0.12, fill=0)
    p.polygon((0.08, 0.18), (0.74, 0.18), (0.64, 0.88), (0.18, 0.88))


def _fish(p: Pen) -> None:
    p.ellipse(0.4, 0.5, 0.37, 0.27)
    p.polygon((0.68, 0.5), (0.98, 0.2), (0.98, 0.8))
    p.ellipse(0.2, 0.42, 0.05, 0.05, fill=0)


def _flower(p: Pen) -> None:
    for i in range(5):
        angle = math.radians(72 * i - 90)
        p.ellipse(0.5 + 0.25 * math.cos(angle), 0.36 + 0.25 * math.sin(angle), 0.16, 0.16)
    p.ellipse(0.5, 0.36, 0.1, 0.1, fill=0)
    p.box(0.46, 0.55, 0.54, 1.0)
    p.ellipse(0.64, 0.83, 0.13, 0.06)


def _hammer(p: Pen) -> None:
    p.box(0.14, 0.08, 0.86, 0.34)
    p.box(0.43, 0.3, 0.57, 0.98)


def _heart(p: Pen) -> None:
    p.ellipse(0.28, 0.33, 0.25, 0.25)
    p.ellipse(0.72, 0.33, 0.25, 0.25)
    p.polygon((0.06, 0.44), (0.5, 0.36), (0.94, 0.44), (0.5, 0.96))


def _house(p: Pen) -> None:
    p.polygon((0.02, 0.46), (0.5, 0.05), (0.98, 0.46))
    p.box(0.14, 0.42, 0.86, 0.95)
    p.box(0.42, 0.64, 0.58, 0.95, fill=0)
    p.box(0.22, 0.52, 0.34, 0.64, fill=0)
    p.box(0.66, 0.52, 0.78, 0.64, fill=0)


def _key(p: Pen) -> None:
    p.ellipse(0.24, 0.5, 0.22, 0.22)
    p.ellipse(0.24, 0.5, 0.1, 0.1, fill=0)
    p.box(0.42, 0.44, 0.98, 0.56)
    p.box(0.72, 0.5, 0.79, 0.74)
    p.box(0.88, 0.5, 0.95, 0.7)


def _kite(p: Pen) -> None:
    p.polygon((0.5, 0.02), (0.82, 0.32), (0.5, 0.74), (0.18, 0.32))
    p.polygon((0.47, 0.72), (0.53, 0.72), (0.6, 0.98), (0.5, 0.98))
    p.polygon((0.34, 0.8), (0.5, 0.86), (0.34, 0.93))
    p.polygon((0.7, 0.8), (0.52, 0.86), (0.7, 0.93))


def _ladder(p: Pen) -> None:
    p.box(0.22, 0.02, 0.32, 0.98)
    p.box(0.68, 0.02, 0.78, 0.98)
    for y in (0.14, 0.35, 0.56, 0.77):
        p.box(0.28, y, 0.72, y + 0.09)


def _lamp(p: Pen) -> None:
    p.polygon((0.32, 0.05), (0.68, 0.05), (0.92, 0.5), (0.08, 0.5))
    p.box(0.46, 0.48, 0.54, 0.88)
    p.ellipse(0.5, 0.9, 0.26, 0.08)


def _moon(p: Pen) -> None:
    p.ellipse(0.46, 0.5, 0.44, 0.46)
    p.ellipse(0.64, 0.44, 0.38, 0.4, fill=0)


def _mushroom(p: Pen) -> None:
    p.arc(0.5, 0.52, 0.47, 0.44, 180, 360)
    p.polygon((0.38, 0.5), (0.62, 0.5), (0.68, 0.95), (0.32, 0.95))
    for x, y in ((0.32, 0.36), (0.55, 0.25), (0.72, 0.4)):
        p.ellipse(x, y, 0.06, 0.06, fill=0)


def _star(p: Pen) -> None:
    points = []
    for i in range(10):
        radius = 0.5 if i % 2 == 0 else 0.2
        angle = math.radians(36 * i - 90)
        points.append((0.5 + radius * math.cos(angle), 0.52 + radius * math.sin(angle)))
    p.polygon(*points)


def _tree(p: Pen) -> None:
    for top, half in ((0.02, 0.24), (0.22, 0.34), (0.42, 0.44)):
        p.polygon((0.5, top), (0.5 + half, top + 0.36), (0.5 - half, top + 0.36))
    p.box(0.43, 0.76, 0.57, 0.99)


def _umbrella(p: Pen) -> None:
    p.arc(0.5, 0.5, 0.48, 0.46, 180, 360)
    for x in (0.18, 0.5, 0.82):
        p.ellipse(x, 0.5, 0.15, 0.07, fill=0)
    p.box(0.47, 0.1, 0.53, 0.88)
    p.ellipse(0.41, 0.88, 0.12, 0.11)
    p.ellipse(0.41, 0.86, 0.06, 0.06, fill=0)


SHAPES: dict[str, Callable[[Pen], None]] = {
    name.removeprefix("_"): value
    for name, value in list(globals().items())
    if name.startswith("_") and not name.startswith("__") and callable(value)
}
"""Class name to the function that draws it."""
