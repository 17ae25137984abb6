"""Knowing that Ctrl-C was pressed, whatever Beam makes of it."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupts:
    """Remembers a SIGINT while it is entered; the usual KeyboardInterrupt is raised all the same.

    Beam runs our code in this thread and turns a KeyboardInterrupt that is raised there into a
    RuntimeError; workers that the terminal interrupts too end the job with errors of their own.

    Attributes:
        seen: whether the signal came.
    """

    def __init__(self) -> None:
        self.seen = False
        self._installed = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        signal.default_int_handler(number, frame)

    def __enter__(self) -> Interrupts:
        # Another handler, or none (nohup), is somebody's choice; other threads may set no handler.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                signal.signal(signal.SIGINT, self._note)
            except ValueError:
                return self
            self._installed = True
        return self

    def __exit__(self, *exception: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
