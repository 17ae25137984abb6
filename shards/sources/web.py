"""What a web source says of a pair: the names that releases and tools give their columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

# Our name for a column, and theirs in lower case; of several that are there the first counts.
#   LAION-400M: SAMPLE_ID URL TEXT HEIGHT WIDTH LICENSE NSFW similarity
#   LAION-2B, Re-LAION: URL TEXT WIDTH HEIGHT similarity LANGUAGE hash pwatermark punsafe
#   COYO-700M: url text clip_similarity_vitb32 nsfw_score_opennsfw2 watermark_score
#   DataComp: uid url text clip_b32_similarity_score clip_l14_similarity_score
_WEB_NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url",),
    "license": ("license",),
    "nsfw": ("nsfw",),
    "punsafe": ("punsafe", "nsfw_score_opennsfw2"),
    "pwatermark": ("pwatermark", "watermark_score"),
    "similarity": (
        "similarity",
        "clip_similarity_vitb32",
        "clip_b32_similarity_score",
        "clip_similarity_vitl14",
        "clip_l14_similarity_score",
    ),
    "language": ("language", "lang"),
}
_NUMBERS = {"punsafe", "pwatermark", "similarity"}
_CAPTIONS = ("caption", "title", "text", "txt")

WEB_COLUMNS = frozenset(name for names in _WEB_NAMES.values() for name in names)
"""Every name of a web column that is known, in lower case."""
CAPTION_COLUMNS = frozenset(_CAPTIONS)
"""Likewise of a caption."""


def known_columns(names: Iterable[str], *others: str) -> list[str]:
    """Those of a table's columns that hold a caption, a web column, or one of ``others``.

    Of columns that differ only in case, the first.
    """
    wanted = WEB_COLUMNS | CAPTION_COLUMNS | set(others)
    found: dict[str, str] = {}
    for name in names:
        if name.lower() in wanted:
            found.setdefault(name.lower(), name)
    return list(found.values())


def lower_case(about: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata under lower-case names, without what is null or is no number (NaN)."""
    return {
        name.lower(): value
        for name, value in about.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }


def caption_of(about: Mapping[str, Any]) -> str | None:
    """The caption in metadata with lower-case names, if it has one that is not empty."""
    value = next((about[name] for name in _CAPTIONS if about.get(name)), None)
    return None if value is None else as_text(value)


def web_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with lower-case names under the names of schemas.tables.WEB_FIELDS."""
    web: dict[str, Any] = {}
    for name, columns in _WEB_NAMES.items():
        value = next((about[c] for c in columns if about.get(c) is not None), None)
        if value is None:
            continue
        if name not in _NUMBERS:
            web[name] = as_text(value)
            continue
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            continue  # a score that is no number says nothing
        if math.isfinite(number):
            web[name] = number
    return web


def as_text(value: Any) -> str:
    """A JSON value as text. JSON can hold half a surrogate pair, which no file can."""
    return str(value).encode("utf-8", "replace").decode()
