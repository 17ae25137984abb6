"""What Beam's worker processes print, kept apart from what we say."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def set_aside() -> Iterator[BinaryIO]:
    """Send what child processes write to standard error into a file, which is yielded.

    Beam's workers inherit our standard error, and print the traceback of every exception there
    before it reaches us as the job's; so do the threads that wait for them, when they die. Our own
    output still goes where it went.
    """
    ours, ours_of_threads = sys.stderr, threading.excepthook
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log, os.fdopen(saved, "w", buffering=1) as direct:
        os.dup2(log.fileno(), 2)
        if _writes_to(ours, 2):
            sys.stderr = direct
        threading.excepthook = _to_the_file
        try:
            yield log
        finally:
            os.dup2(saved, 2)
            sys.stderr = ours
            threading.excepthook = ours_of_threads


def _to_the_file(died: threading.ExceptHookArgs) -> None:
    lines = traceback.format_exception(died.exc_type, died.exc_value, died.exc_traceback)
    os.write(2, "".join(lines).encode())


def _writes_to(stream: object, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
