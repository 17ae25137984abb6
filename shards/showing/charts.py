"""Charts as inline SVG: bars, upright or lying. Colours come from the page's CSS variables."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from shards.showing.summary import Spread

_WIDTH, _HEIGHT = 460, 180
_LEFT, _BOTTOM, _TOP = 8, 26, 18
_ROW, _LABEL = 22, 150


def histogram(spread: Spread, unit: str) -> Markup:
    """Upright bars over an axis with the first, middle and last edge; the median is marked."""
    highest = max(spread.bins) or 1
    width = (_WIDTH - 2 * _LEFT) / len(spread.bins)
    floor = _HEIGHT - _BOTTOM
    shapes = []
    for i, number in enumerate(spread.bins):
        height = (floor - _TOP) * number / highest
        title = f"{_short(spread.edges[i])} to {_short(spread.edges[i + 1])}: {number:,}"
        shapes.append(
            Markup(
                '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1.5">'
                "<title>{}</title></rect>"
            ).format(_LEFT + i * width + 0.75, floor - height, max(width - 1.5, 1), height, title)
        )
    span = (spread.edges[-1] - spread.edges[0]) or 1.0
    at = _LEFT + (spread.median - spread.edges[0]) / span * (_WIDTH - 2 * _LEFT)
    shapes.append(
        Markup(
            '<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
            '<text class="note" x="{4:.1f}" y="11" text-anchor="middle">median {3}</text>'
        ).format(at, _TOP - 3, floor, _short(spread.median), min(max(at, 40), _WIDTH - 40))
    )
    shapes.append(_axis(floor))
    labels = [(0, "start"), (len(spread.bins) // 2, "middle"), (-1, "end")]
    for i, anchor in labels if len(spread.bins) > 2 else labels[::2]:
        x = _LEFT + (i if i >= 0 else len(spread.bins)) * width
        shapes.append(_text(x, _HEIGHT - 8, _short(spread.edges[i]), anchor))
    label = f"histogram of {spread.count:,} {unit}, median {_short(spread.median)}"
    return _svg(_HEIGHT, label, shapes)


def bars(rows: Sequence[tuple[str, int]], what: str, label: int = _LABEL) -> Markup:
    """Lying bars, one per name, with room for names of ``label`` units."""
    highest = max((number for _, number in rows), default=0) or 1
    room, longest = _WIDTH - label - 70, label // 7 + 1
    shapes = []
    for i, (name, number) in enumerate(rows):
        y = i * _ROW
        short = name if len(name) <= longest else name[: longest - 1] + "…"
        shapes.append(_text(label - 8, y + 15, short, "end"))
        shapes.append(
            Markup(
                '<rect class="bar" x="{}" y="{}" width="{:.1f}" height="14" rx="2">'
                "<title>{}: {:,}</title></rect>"
            ).format(label, y + 4, max(room * number / highest, 1), name, number)
        )
        x = label + room * number / highest + 6
        shapes.append(_text(x, y + 15, f"{number:,}", "start"))
    return _svg(max(len(rows), 1) * _ROW + 2, what, shapes)


def _svg(height: int, label: str, shapes: list[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, height, label, Markup("").join(shapes)
    )


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, escape(text)
    )


def _axis(y: float) -> Markup:
    return Markup('<line class="axis" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
        _LEFT, _WIDTH - _LEFT, y + 0.5, y + 0.5
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.3g}"
