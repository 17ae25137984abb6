"""Options of the screen and select stages."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipelines.flags import add, at_least
from schemas.errors import UserError


@dataclass(frozen=True)
class ScreenConfig:
    """Which pool pairs are searched at all: judged one by one, by what the pool says of them.

    Attributes:
        min_text_words: least number of words, as blanks part them.
        min_text_chars: least number of characters.
        max_text_words: most words; 0: no limit.
        drop_boilerplate: drop texts that boilerplate.boilerplate recognises.
        min_image_size: least pixels of the shorter side; 0: no limit.
        languages: values of the language column that are kept, in lower case; empty: all.
        drop_nsfw: values of the NSFW column that are dropped, in lower case.
        max_punsafe: most that the punsafe column may say; 1: no limit.
        max_pwatermark: likewise of pwatermark.
        licenses: shell patterns of licences that are kept, in lower case; empty: all.
        drop_licenses: shell patterns of licences that are dropped.
        min_similarity: least image-text similarity that the pool recorded; -1: no limit.
        lacking: what becomes of a pair without a column that is looked at.
    """

    min_text_words: int
    min_text_chars: int
    max_text_words: int
    drop_boilerplate: bool
    min_image_size: int
    languages: tuple[str, ...]
    drop_nsfw: tuple[str, ...]
    max_punsafe: float
    max_pwatermark: float
    licenses: tuple[str, ...]
    drop_licenses: tuple[str, ...]
    min_similarity: float
    lacking: Literal["keep", "drop"]

    def recorded(self) -> dict[str, Any]:
        """For the manifest."""
        return {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(self).items()}


@dataclass(frozen=True)
class SelectConfig:
    """Which of the retrieved pairs become anchors.

    Attributes:
        min_score: least cosine similarity to a finetune image.
        near_duplicates: cosine similarity from which two images count as one; None: only
            identical files do.
        evaluation: places of the images that no anchor may be a copy of.
        min_clip_score: least cosine similarity of image and text by the encoder; -1: no limit.
        max_per_class: most pairs that a finetune class is given; 0: no limit.
    """

    min_score: float
    near_duplicates: float | None
    evaluation: tuple[str, ...]
    min_clip_score: float
    max_per_class: int

    def recorded(self) -> dict[str, Any]:
        """For the manifest; what was read for ``evaluation`` stands there with its fingerprints."""
        kept = asdict(self) | {"evaluation": len(self.evaluation)}
        return {name: value for name, value in kept.items() if value is not None}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    _add_text_options(parser)
    _add_column_options(parser)
    _add_select_options(parser)


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    add(
        parser,
        "min_text_words",
        type=int,
        default=1,
        help="drop pairs whose text has fewer words (default: %(default)s)",
    )
    add(
        parser,
        "min_text_chars",
        type=int,
        default=1,
        help="drop pairs whose text has fewer characters (default: %(default)s)",
    )
    add(
        parser,
        "max_text_words",
        type=int,
        default=0,
        help="drop pairs whose text has more words (default: 0, no limit)",
    )
    add(
        parser,
        "drop_boilerplate",
        action="store_true",
        help="drop pairs whose text is nothing but a file name, a camera's counter, an address, "
        "an identifier or a placeholder, or has HTML in it (default: keep them)",
    )


def _add_column_options(parser: argparse.ArgumentParser) -> None:
    add(
        parser,
        "min_image_size",
        type=int,
        default=0,
        help="drop pairs whose image's shorter side has fewer pixels (default: 0, no limit)",
    )
    add(
        parser,
        "languages",
        default="",
        help="comma-separated values of the language column to keep (default: all)",
    )
    add(
        parser,
        "drop_nsfw",
        default="NSFW",
        help="comma-separated values of the NSFW column to drop, '' for none "
        "(default: %(default)s)",
    )
    add(
        parser,
        "max_punsafe",
        type=float,
        default=0.5,
        help="drop pairs whose punsafe is larger (default: %(default)s; 1: none)",
    )
    add(
        parser,
        "max_pwatermark",
        type=float,
        default=1.0,
        help="drop pairs whose pwatermark is larger (default: 1, none)",
    )
    add(
        parser,
        "licenses",
        default="",
        help="comma-separated shell patterns of licences to keep, such as 'cc-by*,cc0' "
        "(default: all)",
    )
    add(
        parser,
        "drop_licenses",
        default="",
        help="comma-separated shell patterns of licences to drop (default: none)",
    )
    add(
        parser,
        "min_similarity",
        type=float,
        default=-1.0,
        help="drop pairs whose image-text similarity, as the pool recorded it, is smaller "
        "(default: -1, none)",
    )
    add(
        parser,
        "lacking",
        choices=("keep", "drop"),
        default="keep",
        help="what to do with a pair that lacks a column which an option looks at "
        "(default: %(default)s)",
    )


def _add_select_options(parser: argparse.ArgumentParser) -> None:
    add(
        parser,
        "min_score",
        type=float,
        default=-1.0,
        help="least cosine similarity of an image-text pair (default: %(default)s, all)",
    )
    add(
        parser,
        "near_duplicates",
        type=float,
        metavar="COSINE",
        help="also take images for one whose embeddings are at least so similar; what that means "
        "depends on the encoder (default: only identical files)",
    )
    add(
        parser,
        "evaluation",
        nargs="+",
        default=[],
        metavar="PLACE",
        help="images to keep out of the set, copies included: image folders, tars or lists "
        "(default: none)",
    )
    add(
        parser,
        "min_clip_score",
        type=float,
        default=-1.0,
        help="least cosine similarity of a retrieved image and its text by the encoder; above -1 "
        "it is computed and recorded (default: -1, not computed)",
    )
    add(
        parser,
        "max_per_class",
        type=int,
        default=0,
        help="keep the best so many pairs of each finetune class (default: 0, no limit)",
    )


def refuse_any(o: argparse.Namespace) -> None:
    """Refuse options of a selection where no pair is selected.

    Raises:
        UserError: one was given.
    """
    parser = argparse.ArgumentParser()
    add_options(parser)
    for name, default in vars(parser.parse_args([])).items():
        if getattr(o, name) != default:
            raise UserError(
                f"--{name} is given, but --kinds leaves image-text pairs out; drop one."
            )


def resolve_screen(o: argparse.Namespace) -> ScreenConfig:
    """Check the options of what is searched.

    Raises:
        UserError: a value is out of range, or two options contradict each other.
    """
    at_least(o, 0, "min_text_words", "min_text_chars", "max_text_words", "min_image_size")
    if o.max_text_words and o.max_text_words < o.min_text_words:
        raise UserError(
            f"--max_text_words {o.max_text_words} is less than --min_text_words "
            f"{o.min_text_words}, so that no text is left; raise the one or lower the other."
        )
    for name in ("max_punsafe", "max_pwatermark"):
        if not 0 <= getattr(o, name) <= 1:
            raise UserError(f"--{name} is {getattr(o, name)}; a probability lies between 0 and 1.")
    _cosines(o, "min_similarity")
    if o.licenses and o.drop_licenses:
        raise UserError("--licenses and --drop_licenses exclude each other; give one of them.")
    return ScreenConfig(
        min_text_words=o.min_text_words,
        min_text_chars=o.min_text_chars,
        max_text_words=o.max_text_words,
        drop_boilerplate=o.drop_boilerplate,
        min_image_size=o.min_image_size,
        languages=_values(o.languages),
        drop_nsfw=_values(o.drop_nsfw),
        max_punsafe=o.max_punsafe,
        max_pwatermark=o.max_pwatermark,
        licenses=_values(o.licenses),
        drop_licenses=_values(o.drop_licenses),
        min_similarity=o.min_similarity,
        lacking=o.lacking,
    )


def resolve_select(o: argparse.Namespace) -> SelectConfig:
    """Check the options of what becomes an anchor.

    Raises:
        UserError: a value is out of range.
    """
    at_least(o, 0, "max_per_class")
    _cosines(o, "min_score", "min_clip_score")
    if o.near_duplicates is not None and not 0 < o.near_duplicates <= 1:
        raise UserError(
            f"--near_duplicates is {o.near_duplicates}; give a cosine above 0 and at most 1."
        )
    return SelectConfig(
        min_score=o.min_score,
        near_duplicates=o.near_duplicates,
        evaluation=tuple(place.rstrip("/") or "/" for place in o.evaluation),
        min_clip_score=o.min_clip_score,
        max_per_class=o.max_per_class,
    )


def _cosines(o: argparse.Namespace, *names: str) -> None:
    for name in names:
        value = getattr(o, name)
        if not -1 <= value <= 1:
            raise UserError(f"--{name} is {value}; a cosine lies between -1 and 1.")


def _values(text: str) -> tuple[str, ...]:
    """The values of a list, in lower case and sorted: their order says nothing."""
    return tuple(sorted({part.strip().casefold() for part in text.split(",") if part.strip()}))
