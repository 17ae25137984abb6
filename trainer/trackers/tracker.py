"""What a tracker is, and how those that are asked for are opened."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from schemas.errors import UserError
from trainer.trackers.tensorboard import TensorBoard


class Tracker(Protocol):
    """Takes the lines of metrics.jsonl as they are written."""

    def write(self, entry: Mapping[str, Any]) -> None:
        """A line; ``step`` is the number of steps done."""
        ...

    def close(self) -> None:
        """The run ends, or is interrupted."""
        ...


TRACKERS: dict[str, Callable[[Path, Sequence[Mapping[str, Any]]], Tracker]] = {
    "tensorboard": TensorBoard,
}
"""By name: made from the run's folder and the lines that metrics.jsonl holds already. A tracker
sees to it that a run which goes on has each point once."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse names that no tracker has.

    Raises:
        UserError: naming the nearest.
    """
    for name in names:
        if name not in TRACKERS:
            nearest = difflib.get_close_matches(name, TRACKERS, n=1, cutoff=0.0)[0]
            raise UserError(f"--track {name!r} is not known; did you mean {nearest!r}?")


def open_trackers(
    names: Sequence[str], folder: Path, lines: Sequence[Mapping[str, Any]]
) -> list[Tracker]:
    """Open trackers.

    Args:
        names: each once, as TRACKERS has them.
        folder: of the run.
        lines: that metrics.jsonl holds.

    Raises:
        UserError: a tracker's package is not installed.
    """
    return [TRACKERS[name](folder, lines) for name in dict.fromkeys(names)]
