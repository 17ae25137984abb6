"""TensorBoard: ``tensorboard --logdir OUTPUT`` shows the run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.trackers.points import points

FOLDER = "tensorboard"


class TensorBoard:
    """Event files in ``OUTPUT/tensorboard``.

    They are made anew from metrics.jsonl whenever a run starts or goes on: that file has every
    point once, also where a kill came between a point and the checkpoint after it.

    Args:
        folder: of the run.
        lines: that metrics.jsonl holds.
    """

    def __init__(self, folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        self._writer = SummaryWriter(str(folder / FOLDER))
        for line in lines:
            self.write(line)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add a line's numbers as scalars, and hand them to the system."""
        for name, value in points(entry).items():
            self._writer.add_scalar(name, value, entry["step"])
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the event file."""
        del finished  # it keeps no state of a run
        self._writer.close()
