"""A progress line per stage while a job runs: on any runner, since it only looks at files."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TextIO

from pipelines.parts import part_place, read_part
from schemas.manifest import Counts
from shards import places


@dataclass
class StageProgress:
    """What one stage has left so far."""

    stage: str
    units: int
    started: float = 0.0
    counts: Counts = field(default_factory=Counts)
    done: set[int] = field(default_factory=set)
    reused: int = 0


class Progress:
    """Watches the work folder and prints counts and rates until it is stopped.

    On a terminal one line is redrawn every second; elsewhere a plain line every ten.

    Args:
        work: the work folder.
        units: stage to the number of its units.
        out: where to print (default: standard error).
    """

    def __init__(self, work: str, units: dict[str, int], out: TextIO | None = None) -> None:
        self._work = work
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self._stages = [StageProgress(stage, number) for stage, number in units.items()]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._began = time.time()
        self._last = ""

    def __enter__(self) -> Progress:
        for stage in self._stages:  # what is there already is resumed from, not done now
            stage.reused = len(self._finished_numbers(stage))
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._print(final=True)

    def _watch(self) -> None:
        while not self._stop.wait(1.0 if self._live else 10.0):
            try:
                self._look()
                self._print()
            except OSError:  # the folder may be on a store that hiccups; progress is only a view
                continue

    def _finished_numbers(self, stage: StageProgress) -> list[int]:
        folder = places.parent_and_name(part_place(self._work, stage.stage, 0))[0]
        if not places.exists(folder):
            return []
        names = [name for name in places.list_folder(folder)[1] if name.endswith(".parquet")]
        return [int(name.removesuffix(".parquet").rpartition("_")[2]) for name in names]

    def _look(self) -> None:
        for stage in self._stages:
            for number in self._finished_numbers(stage):
                if number in stage.done or number >= stage.units:
                    continue
                part = read_part(self._work, stage.stage, number)
                if part is None:
                    continue
                stage.started = stage.started or time.time()
                stage.done.add(number)
                stage.counts = stage.counts + part.counts

    def _print(self, *, final: bool = False) -> None:
        text = "  |  ".join(self._describe(stage) for stage in self._stages if stage.done)
        if not text or (text == self._last and not (final and self._live)):
            return
        self._last = text
        if self._live:
            self._out.write(f"\r\x1b[K{text}" + ("\n" if final else ""))
        else:
            self._out.write(text + "\n")
        self._out.flush()

    def _describe(self, stage: StageProgress) -> str:
        seconds = max(time.time() - self._began, 1e-3)
        bad = sum(stage.counts.dropped.values())
        dropped = f", {bad:,} dropped" if bad else ""
        rate = "" if stage.reused else f", {stage.counts.read / seconds:,.0f}/s"
        return (
            f"{stage.stage} {len(stage.done)}/{stage.units} parts, "
            f"{stage.counts.read:,} read{dropped}{rate}"
        )
