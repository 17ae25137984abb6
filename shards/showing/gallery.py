"""The gallery: one HTML page that shows what is in a set, opens offline and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray

from schemas.errors import BadSample
from schemas.manifest import Manifest
from schemas.record import TEXT_COMPENSATED, Kind
from shards.reader import AnchorSet
from shards.showing import charts
from shards.showing.summary import Summary, summarise
from shards.showing.thumbnails import size_for, thumbnails

_TEMPLATE = Path(__file__).with_name("gallery.html")
STYLE = Markup(Path(__file__).with_name("style.css").read_text("utf-8"))  # ours, not the data's
"""How our pages look: the gallery, and the report of a build."""
_THUMBNAIL = 176
_AS_IT_IS = 4096  # an image of so few bytes is its own thumbnail
_BARS = 24
_BLOCK = 50
_TYPES = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp"}


def gallery_of_set(root: str, manifest: Manifest, limit: int = 600) -> bytes:
    """The page of a set: counts, charts over the whole set, and a sample of its anchors.

    The same set gives the same bytes. Whatever came from data is escaped: text goes into the
    page as JSON and is shown by ``textContent``, and the page's policy runs no other script.

    Args:
        root: the set's folder.
        manifest: its manifest, which need not be written yet.
        limit: anchors shown, shared evenly by kinds, then by classes.

    Raises:
        UserError: a shard or its parquet is missing or was changed.
    """
    anchors = AnchorSet(root, manifest)
    summary = summarise(anchors)
    each = limit // max(len(manifest.kinds), 1)
    chosen = {kind: sample_rows(anchors, kind, each) for kind in manifest.kinds}
    total = sum(map(len, chosen.values()))
    shown: dict[Kind, list[dict[str, Any]]] = {kind: [] for kind in manifest.kinds}
    pictures: list[str] = []
    rows = (row for kind in manifest.kinds for row in rows_at(anchors, kind, chosen[kind]))
    for row, found in thumbnails(rows, size_for(total), total):
        shown[row["kind"]].append(_card(row, found, len(pictures)))
        pictures += [] if isinstance(found, BadSample) else [found]
    made = manifest.provenance
    # autoescape covers every {{ }}; tojson also escapes <, > and &, so that no text ends a script
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    page, _, script = _TEMPLATE.read_text("utf-8").partition("{# script #}")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment.from_string(page)
        .render(
            style=STYLE,
            manifest=manifest,
            summary=summary,
            models=[("captioner", made.captioner), ("encoder", made.encoder)],
            charts=_charts(summary),
            shown=shown,
            total_shown=total,
            blocks=[pictures[i : i + _BLOCK] for i in range(0, len(pictures), _BLOCK)],
            block=_BLOCK,
            script=Markup(script),  # ours, not the data's
            script_sha256=digest,
        )
        .encode()
    )


Place = tuple[int, int]
"""A shard's number among those of its kind, and a row of its parquet."""


def sample_rows(anchors: AnchorSet, kind: Kind, limit: int) -> list[Place]:
    """At most ``limit`` records of a kind, shared evenly by classes and spread over the shards.

    A pair belongs to the first of the classes that retrieved it.
    """
    groups: list[str] = []
    starts = [0]
    for shard in anchors.shards(kind):
        groups += _groups(anchors.table(shard))
        starts.append(len(groups))
    places = []
    for position in spread_evenly(groups, limit):
        number = int(np.searchsorted(starts, position, side="right")) - 1
        places.append((number, position - starts[number]))
    return places


def rows_at(
    anchors: AnchorSet, kind: Kind, places: Sequence[Place]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tar and the row of each place; one parquet is held at a time."""
    shards = anchors.shards(kind)
    for number, group in itertools.groupby(places, key=lambda place: place[0]):
        table = anchors.table(shards[number])
        for _, row in group:
            yield anchors.place(shards[number]), table.slice(row, 1).to_pylist()[0]


def _groups(table: pa.Table) -> list[str]:
    names = table.column("class_name").to_pylist()
    asked = table.column("query_classes").to_pylist()
    return [name or (classes or [""])[0] for name, classes in zip(names, asked, strict=True)]


def spread_evenly(groups: Sequence[str], limit: int) -> list[int]:
    """Positions of at most ``limit`` items, in order: as many of each group, far apart in it.

    What small groups leave over goes to the larger ones.
    """
    if len(groups) <= limit:
        return list(range(len(groups)))
    _, codes, sizes = np.unique(
        np.asarray(groups, dtype=str), return_inverse=True, return_counts=True
    )
    quota = _quotas(sizes, limit)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(sizes)
    chosen: list[int] = []
    for size, end, number in zip(sizes, ends, quota, strict=True):
        members = order[end - size : end]
        chosen += [int(members[i * size // number]) for i in range(number)]
    return sorted(chosen)


def _quotas(sizes: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Fill all groups to one level, the smallest first; the rest goes to the first groups."""
    quota = np.zeros_like(sizes)
    left = limit
    order = np.argsort(sizes, kind="stable")
    for done, group in enumerate(order):
        quota[group] = min(int(sizes[group]), left // (len(sizes) - done))
        left -= int(quota[group])
    for group in np.flatnonzero(quota < sizes)[:left]:
        quota[group] += 1
    return quota


def _card(row: dict[str, Any], found: str | BadSample, picture: int) -> dict[str, Any]:
    """What the page shows of an anchor; ``picture`` is its number, where there is one."""
    card = {
        "key": row["key"],
        "image": None if isinstance(found, BadSample) else picture,
        "problem": found.reason.replace("_", " ") if isinstance(found, BadSample) else None,
        "texts": row["texts"] or [row["text"]],
        "from": f"{row['source']} · {row['source_key']}"
        if row["source"] != row["source_key"]
        else row["source"],
        "size": f"{row['width']} × {row['height']}",
        "url": row["url"],
        "license": row["license"],
        "clip": row["clip_score"],
    }
    if row["kind"] == TEXT_COMPENSATED:
        card["classes"] = [row["class_name"]]
    else:
        card |= {
            "classes": row["query_classes"] or [],
            "score": row["score"],
            "rank": row["rank"],
            "queries": row["query_count"],
        }
    return {name: value for name, value in card.items() if value is not None}


def _charts(summary: Summary) -> list[dict[str, Any]]:
    """Titles, a note each, and the SVG."""
    found: list[dict[str, Any]] = []
    if summary.scores is not None:
        found.append(
            {
                "title": "Retrieval scores",
                "note": "cosine similarity of a pair to its nearest finetune image",
                "svg": charts.histogram(summary.scores, "scores"),
            }
        )
    for kind, fits in summary.clip_scores.items():
        what = "caption" if kind == TEXT_COMPENSATED else "text of a pair"
        found.append(
            {
                "title": "Captions and images" if kind == TEXT_COMPENSATED else "Texts and images",
                "note": f"cosine similarity of a {what} and its image",
                "svg": charts.histogram(fits, "scores"),
            }
        )
    for kind, words in summary.words.items():
        captions = kind == TEXT_COMPENSATED
        found.append(
            {
                "title": "Caption lengths" if captions else "Text lengths of pairs",
                "note": "words per caption" if captions else "words per text",
                "svg": charts.histogram(words, "texts"),
            }
        )
    for kind, classes in summary.classes.items():
        if not classes:
            continue
        rows = sorted(classes.items(), key=lambda pair: (-pair[1], pair[0]))
        note = "anchors per class" if kind == TEXT_COMPENSATED else "pairs that a class retrieved"
        if len(rows) > _BARS:
            half = _BARS // 2
            note += f"; the {half} largest and the {half} smallest of {len(rows):,}"
            rows = rows[:half] + rows[-half:]
        title = "Class balance" if kind == TEXT_COMPENSATED else "Pairs by class"
        found.append({"title": title, "note": note, "svg": charts.bars(rows, note)})
    dropped = [
        (f"{reason.replace('_', ' ')}, {stage.removeprefix('candidates-')}", number)
        for stage, counts in sorted(summary.counts.items())
        for reason, number in sorted(counts.dropped.items())
    ]
    note = "samples that could not be used" if dropped else "nothing was dropped"
    found.append(
        {
            "title": "Dropped, by reason",
            "note": note,
            "svg": charts.bars(dropped, note, label=250) if dropped else "",
        }
    )
    return found
