"""What one pool pair alone tells: whether to search it at all.

The one rule for what a pair does not say: a pair that lacks a column is not judged by it and
stays, unless ``--lacking drop`` asks for proof; then it is dropped as ``no_`` and the column.
Only columns that an option of the build looks at count as lacking.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipelines.selection.boilerplate import boilerplate
from pipelines.selection.options import ScreenConfig
from pipelines.selection.texts import clean_text
from schemas.errors import BadSample

COLUMNS = (
    *("caption", "width", "height"),
    *("language", "nsfw", "punsafe", "pwatermark", "license", "similarity"),
)
"""What ``judge`` looks at."""


def judge(pair: Mapping[str, Any], config: ScreenConfig) -> tuple[BadSample | None, list[str]]:
    """Judge a pair by its text, then by each of its columns; the first objection counts.

    Args:
        pair: has COLUMNS, null where the source has no such column.
        config: what is kept.

    Returns:
        Why it is dropped, or None; and which columns it lacks that were to be looked at.
    """
    problem = _text(clean_text(pair["caption"]), config)
    if problem is not None:
        return problem, []
    lacking: list[str] = []
    for column, reason, objects in _checks(config):
        value = _size(pair) if column == "size" else pair[column]
        if value is None or value == "":
            lacking.append(column)
            if config.lacking == "drop":
                return BadSample(f"no_{column}", f"the pool does not say its {column}"), lacking
        elif objects(value):
            return BadSample(reason, f"{column} {value}"), lacking
    return None, lacking


def _text(text: str, config: ScreenConfig) -> BadSample | None:
    if not text:
        return BadSample("empty_text", "it has no text")
    words = len(text.split())
    if words < config.min_text_words or len(text) < config.min_text_chars:
        return BadSample("short_text", f"{words} words, {len(text)} characters")
    if config.max_text_words and words > config.max_text_words:
        return BadSample("long_text", f"{words} words")
    if config.drop_boilerplate and (kind := boilerplate(text)):
        return BadSample("boilerplate", kind)
    return None


def _size(pair: Mapping[str, Any]) -> int | None:
    """Pixels of the shorter side; None of embeddings whose image has not been looked up."""
    if not pair["width"] or not pair["height"]:
        return None
    return int(min(pair["width"], pair["height"]))


def _checks(c: ScreenConfig) -> Iterator[tuple[str, str, Callable[[Any], bool]]]:
    """Column, reason and objection of each option that is in force."""
    if c.min_image_size:
        yield "size", "small_image", lambda size: size < c.min_image_size
    if c.languages:
        yield "language", "language", lambda given: given.casefold() not in c.languages
    if c.drop_nsfw:
        yield "nsfw", "nsfw", lambda given: given.casefold() in c.drop_nsfw
    if c.max_punsafe < 1:
        yield "punsafe", "unsafe", lambda p: p > c.max_punsafe
    if c.max_pwatermark < 1:
        yield "pwatermark", "watermark", lambda p: p > c.max_pwatermark
    if c.licenses:
        yield "license", "license", lambda given: not _matches(given, c.licenses)
    if c.drop_licenses:
        yield "license", "license", lambda given: _matches(given, c.drop_licenses)
    if c.min_similarity > -1:
        yield "similarity", "low_similarity", lambda cosine: cosine < c.min_similarity


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(value.casefold(), pattern) for pattern in patterns)
