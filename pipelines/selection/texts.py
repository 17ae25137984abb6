"""What a pool says of an image, as the text of an anchor."""

from __future__ import annotations


def clean_text(caption: str | None) -> str:
    """The caption on one line, without NUL and outer blanks; empty if there is none."""
    return " ".join((caption or "").replace("\0", " ").split())
