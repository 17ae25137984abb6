"""Weights & Biases: the run at wandb.ai, at a server of your own, or in files to send later."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from trainer.run_file import read_run
from trainer.trackers.identity import run_id, run_name
from trainer.trackers.points import points

PROJECT = "anchorft"
FOLDER = "wandb"


class Wandb:
    """A run at Weights & Biases, with what config.json holds as its config.

    Environment variables of wandb hold (``WANDB_MODE``, ``WANDB_PROJECT``, ``WANDB_ENTITY``, ...).
    The run's id is kept in its folder, so that a run which goes on is the same one there. A server
    takes no step again that it has: lines before its next step are left out, which repeat what it
    has been told, and lines that it lacks are sent. Without a server there is nothing to go on
    from: the files of before are removed and made anew from metrics.jsonl.

    Args:
        folder: of the run.
        lines: that metrics.jsonl holds.

    Raises:
        UserError: the server does not answer, or takes no run.
    """

    def __init__(self, folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        import wandb

        given = os.environ.get
        identity = given("WANDB_RUN_ID") or run_id(folder)
        place = Path(given("WANDB_DIR") or folder)
        for stale in (place / FOLDER).glob(f"offline-run-*-{identity}"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            self._run = wandb.init(
                id=identity,
                name=given("WANDB_NAME") or run_name(folder),
                project=given("WANDB_PROJECT") or PROJECT,
                dir=str(place),
                config=read_run(folder),
                resume="allow",
                allow_val_change=True,
            )
        except Exception as error:  # of many kinds, also of requests and of wandb's own process
            text = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"--track wandb cannot begin ({text}); mend that, set WANDB_MODE=offline, or leave "
                f"it out."
            ) from error
        self._next = self._run.starting_step
        for line in lines:
            self.write(line)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Hand a line's numbers to wandb's process, which sends them."""
        if entry["step"] >= self._next:
            self._run.log(dict(points(entry)), step=entry["step"])

    def close(self, *, finished: bool) -> None:
        """Wait until all is sent; a run that is not finished is marked as failed."""
        self._run.finish(exit_code=0 if finished else 1)
