"""Signals that ask a run to end: SIGTERM, as preemptible machines send it, and SIGUSR1."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

STOPPED_STATUS = 143
"""Exit status of a run that a signal ended: 128 + 15, as a shell gives it for SIGTERM."""
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):
    """A signal asked the run to end; its state after ``step`` steps is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"stopped by a signal; the state after step {step:,} is saved, and the same command "
            f"goes on from there"
        )
        self.step = step


class StopSignals:
    """Notes SIGTERM and SIGUSR1 while it is entered; what it replaces comes back afterwards.

    Elsewhere than in the main thread, where Python allows no handlers, it notes nothing.

    Attributes:
        asked: one of them came.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def ignore_signals(worker: int) -> None:
    """For the loader's workers: a signal to the whole group must not take the batches away."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
