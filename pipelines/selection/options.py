"""Options of the screen and select stages."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from pipelines.flags import add
from schemas.errors import UserError


@dataclass(frozen=True)
class ScreenConfig:
    """Which pool pairs are searched at all: judged one by one, by what the pool says of them."""

    def recorded(self) -> dict[str, Any]:
        """For the manifest."""
        return {}


@dataclass(frozen=True)
class SelectConfig:
    """Which of the retrieved pairs become anchors.

    Attributes:
        min_score: least cosine similarity to a finetune image.
    """

    min_score: float

    def recorded(self) -> dict[str, Any]:
        """For the manifest."""
        return {"min_score": self.min_score}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add(
        parser,
        "min_score",
        type=float,
        default=-1.0,
        help="least cosine similarity of an image-text pair (default: %(default)s, all)",
    )


def resolve_screen(o: argparse.Namespace) -> ScreenConfig:
    """Check the options of what is searched.

    Raises:
        UserError: a value is out of range.
    """
    return ScreenConfig()


def resolve_select(o: argparse.Namespace) -> SelectConfig:
    """Check the options of what becomes an anchor.

    Raises:
        UserError: a value is out of range.
    """
    if not -1 <= o.min_score <= 1:
        raise UserError(f"--min_score is {o.min_score}; a cosine lies between -1 and 1.")
    return SelectConfig(min_score=o.min_score)
