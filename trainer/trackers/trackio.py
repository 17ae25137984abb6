"""Trackio: ``trackio show --project anchorft`` shows the run."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from trainer.run_file import read_run
from trainer.trackers.identity import run_id, run_name
from trainer.trackers.points import points

PROJECT = "anchorft"


class Trackio:
    """A run in trackio's database on this machine, with what config.json holds as its config.

    It is made anew from metrics.jsonl whenever a run starts or goes on. Where ``TRACKIO_SPACE_ID``
    or ``TRACKIO_SERVER_URL`` name a server, nothing can be taken back: there the run is continued,
    and lines of steps that it has are left out. ``TRACKIO_PROJECT`` names another project.

    Args:
        folder: of the run.
        lines: that metrics.jsonl holds.

    Raises:
        UserError: the server does not answer, or takes no run.
    """

    def __init__(self, folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        import trackio

        project = os.environ.get("TRACKIO_PROJECT") or PROJECT
        name = f"{run_name(folder)}-{run_id(folder)}"  # trackio resumes by name
        server = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
        try:
            if not server:
                _forget(project, name)
            with _aside(), warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                self._run = trackio.init(
                    project=project,
                    name=name,
                    config=read_run(folder),
                    resume="allow",
                    embed=False,
                )
            for one in warned:
                if server:  # unreachable: it would keep the points here until somebody sends them
                    self._run.finish()
                    raise RuntimeError(str(one.message))
                print(one.message, file=sys.stderr)
        except Exception as error:  # of many kinds, also of httpx and of the Hub's client
            text = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"--track trackio cannot begin ({text}); mend that, unset TRACKIO_SPACE_ID and "
                f"TRACKIO_SERVER_URL to keep the run here, or leave it out."
            ) from error
        self._next = self._run._next_step if server else 0
        for line in lines:
            self.write(line)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Hand a line's numbers to trackio's thread, which stores or sends them."""
        if entry["step"] >= self._next:
            self._run.log(dict(points(entry)), step=entry["step"])

    def close(self, *, finished: bool) -> None:
        """Wait until all is stored."""
        del finished  # it keeps no state of a run
        with _aside():
            self._run.finish()


def _forget(project: str, name: str) -> None:
    """Remove a run from the database on this machine."""
    import trackio

    with contextlib.suppress(ValueError):  # there is no such project yet
        for run in trackio.Api().runs(project):
            if run.name == name:
                run.delete()


def _aside() -> contextlib.redirect_stdout[Any]:
    """What trackio prints goes where progress goes: stdout is for what a run came to."""
    return contextlib.redirect_stdout(sys.stderr)
