"""What a tracker is, and how those that are asked for are opened."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from schemas.errors import UserError
from trainer.trackers.tensorboard import TensorBoard
from trainer.trackers.trackio import Trackio
from trainer.trackers.wandb import Wandb


class Tracker(Protocol):
    """Takes the lines of metrics.jsonl as they are written."""

    def write(self, entry: Mapping[str, Any]) -> None:
        """A line; ``step`` is the number of steps done."""
        ...

    def close(self, *, finished: bool) -> None:
        """The run ends; ``finished`` is False if it was interrupted, or failed."""
        ...


TRACKERS: dict[str, Callable[[Path, Sequence[Mapping[str, Any]]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}
"""By name, which is that of the package too: made from the run's folder and the lines that
metrics.jsonl holds already. A tracker sees to it that a run which goes on has each point once. It
raises UserError if it cannot begin; what it raises later costs its curves, not the run."""


class Guarded:
    """A tracker that is left alone after its first failure, with a line on stderr.

    Args:
        name: of the tracker.
        tracker: that may fail.
    """

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name = name
        self._tracker: Tracker | None = tracker

    def write(self, entry: Mapping[str, Any]) -> None:
        """Pass a line on."""
        if self._tracker is not None:
            try:
                self._tracker.write(entry)
            except Exception as error:  # whatever a package of other people may raise
                self._give_up(error)

    def close(self, *, finished: bool) -> None:
        """Pass the end on."""
        if self._tracker is not None:
            try:
                self._tracker.close(finished=finished)
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._tracker = None
        text = " ".join(str(error).split()).rstrip(".")
        print(
            f"--track {self._name} failed ({type(error).__name__}: {text}) and gets nothing more; "
            "the run goes on, and metrics.jsonl has every point",
            file=sys.stderr,
        )


def check_trackers(names: Sequence[str]) -> None:
    """Refuse names that no tracker has, and trackers whose package is not installed.

    Raises:
        UserError: naming the nearest, or the package.
    """
    for name in names:
        if name not in TRACKERS:
            nearest = difflib.get_close_matches(name, TRACKERS, n=1, cutoff=0.0)[0]
            raise UserError(f"--track {name!r} is not known; did you mean {nearest!r}?")
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a mere folder of that name has no origin
            raise UserError(
                f"--track {name} needs the package {name}; run pip install {name}, or leave it out."
            )


def open_trackers(
    names: Sequence[str], folder: Path, lines: Sequence[Mapping[str, Any]]
) -> list[Tracker]:
    """Open trackers.

    Args:
        names: each once, as TRACKERS has them.
        folder: of the run.
        lines: that metrics.jsonl holds.

    Raises:
        UserError: as check_trackers; or a tracker cannot begin.
    """
    check_trackers(names)
    opened: list[Tracker] = []
    try:
        for name in dict.fromkeys(names):
            opened.append(Guarded(name, TRACKERS[name](folder, lines)))
    except BaseException:
        for tracker in opened:
            tracker.close(finished=False)
        raise
    return opened
