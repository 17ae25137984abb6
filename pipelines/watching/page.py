"""The report of a build as one HTML page: no script, nothing loaded, all of it escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from pipelines.watching.progress import duration
from pipelines.watching.report import Report
from shards.showing import charts
from shards.showing.gallery import STYLE

_TEMPLATE = Path(__file__).with_name("report.html")
_SLOWEST = 15
_LONGEST = 300  # characters of one value


def page(report: Report) -> bytes:
    """The page, as UTF-8."""
    # autoescape covers every {{ }}: keys, texts and reasons come from the data
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    slowest = [row | {"stage": stage.stage} for stage in report.stages for row in stage.slowest]
    slowest.sort(key=lambda row: -row["seconds"])
    bad = [row | {"stage": stage.stage} for stage in report.stages for row in stage.examples]
    made = sum(stage.parts - stage.reused for stage in report.stages)
    drawn = [
        {
            "title": d.title,
            "note": d.note
            + ("" if d.parts == d.of_parts else f", {d.parts} of {d.of_parts} parts"),
            "svg": charts.histogram(d.spread, d.unit),
        }
        for d in report.distributions
    ]
    return template.render(
        style=STYLE,
        report=report,
        facts=[
            (duration(report.seconds), "this run took"),
            (f"{made:,}", "parts made by it"),
            (f"{sum(stage.reused for stage in report.stages):,}", "parts of earlier runs"),
        ],
        charts=drawn,
        slowest=slowest[:_SLOWEST],
        bad=bad,
        duration=duration,
        shown_columns=_columns,
        shown_value=_value,
    ).encode()


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Those in which some row says anything."""
    return [name for name in rows[0] if any(row[name] is not None for row in rows)] if rows else []


def _value(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
