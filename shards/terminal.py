"""What a terminal gets: names and texts from a set must not move its cursor or hide themselves."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Iterator
from typing import TextIO

# Control characters, those that turn the direction of writing or have no width, and halves of
# surrogate pairs, which no file can hold: written as JSON writes them, so that what --json prints
# stays JSON and keeps its meaning.
_ESCAPED = {
    number: f"\\u{number:04x}"
    for number in range(0x10000)
    if unicodedata.category(chr(number)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and number not in (9, 10)
}


class _Plain:
    """A text stream that passes on what is written with such characters escaped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(text.translate(_ESCAPED))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Within it, ``print`` writes no character that a terminal would act upon.

    Standard error keeps its own, since progress lines move the cursor; see ``plain``.
    """
    with contextlib.redirect_stdout(_Plain(sys.stdout)):  # type: ignore[type-var]
        yield


def plain(text: str) -> str:
    """One line of text without such characters."""
    return text.translate(_ESCAPED)
