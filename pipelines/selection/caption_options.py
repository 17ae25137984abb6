"""Options of what captions are measured by: whether they are scored, and which of them stay."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from pipelines.flags import add
from schemas.errors import UserError
from schemas.record import TEXT_COMPENSATED


@dataclass(frozen=True)
class CaptionScoreConfig:
    """Whether captions are compared with their images, and which of them stay.

    Attributes:
        scores: compare them by the encoder, and record the best one's cosine as ``clip_score``.
        minimum: least cosine of a caption that stays; None: all stay.
    """

    scores: bool = False
    minimum: float | None = None

    def recorded(self) -> dict[str, Any]:
        """For the manifest; nothing where captions are not scored."""
        if not self.scores:
            return {}
        floor = {} if self.minimum is None else {"min_caption_score": self.minimum}
        return {"caption_scores": True} | floor


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add(
        parser,
        "caption_scores",
        action="store_true",
        help="compare every caption with its image by --encoder, put an image's captions best "
        "first, and record the cosine of the first (default: not computed)",
    )
    add(
        parser,
        "min_caption_score",
        type=float,
        help="drop captions whose cosine with their image is smaller, and images without another; "
        "implies --caption_scores (default: none)",
    )


def resolve(o: argparse.Namespace, kinds: tuple[str, ...]) -> CaptionScoreConfig:
    """Check the options.

    Args:
        o: the options.
        kinds: that are built.

    Raises:
        UserError: the floor is no cosine, or nothing is captioned.
    """
    if not o.caption_scores and o.min_caption_score is None:
        return CaptionScoreConfig()
    option = "--caption_scores" if o.caption_scores else "--min_caption_score"
    if TEXT_COMPENSATED not in kinds:
        raise UserError(f"{option} is given, but --kinds leaves {TEXT_COMPENSATED} out; drop one.")
    if o.min_caption_score is not None and not -1 <= o.min_caption_score <= 1:
        raise UserError(
            f"--min_caption_score is {o.min_caption_score}; a cosine lies between -1 and 1."
        )
    return CaptionScoreConfig(True, o.min_caption_score)
