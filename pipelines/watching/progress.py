"""What a job has done so far, by stage, with rate and time left.

It only looks at the work folder, so that it serves every runner; a remote one is looked at gently.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from pipelines.parts import part_place, read_part
from schemas.errors import UserError
from schemas.manifest import Counts
from shards import places

ASSEMBLE = "assemble"
"""A stage whose parts are shards; how many there are is planned when all others are done."""

_LOOK_SHARE = 0.02  # of the time, at most, is spent on looking
_EVERY_LIVE, _EVERY_PLAIN, _EVERY_REMOTE = 1.0, 10.0, 30.0  # seconds


@dataclass
class StageProgress:
    """What one stage has left so far.

    Attributes:
        units: how many parts it will have; None while that is not known.
        before: parts that lay there when the job began, by name, as the store described them.
            They are reused unless they change.
        made: parts that were written since.
        counts: of the parts that were made.
        began: when it had its first chance to work; monotonic seconds, as is ``latest``.
        latest: when its last part was seen.
    """

    stage: str
    units: int | None
    before: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    began: float = 0.0
    latest: float = 0.0

    @property
    def reused(self) -> int:
        """Parts of an earlier run that were not made again."""
        return len(self.before.keys() - self.made.keys())

    @property
    def done(self) -> int:
        """Parts that are there."""
        return len(self.before.keys() | self.made.keys())

    def rate(self) -> float:
        """Samples a second, over the time in which parts were made."""
        return self.counts.read / max(self.latest - self.began, 1e-3)

    def seconds_left(self, now: float) -> float | None:
        """Until the last part, at the pace of those that were made; None if there is no telling."""
        if self.units is None or not self.made or self.done >= self.units:
            return None
        each = (self.latest - self.began) / len(self.made)
        return max(each * (self.units - self.done) - (now - self.latest), 0.0)


class Progress:
    """Watches the work folder and prints counts and rates until it is stopped.

    On a terminal a line per stage is redrawn every second; elsewhere a plain line is printed every
    ten seconds if there is news. Remote folders are looked at every 30 seconds, and any folder
    seldom enough that looking takes 2 % of the time at most.

    Args:
        work: the work folder.
        units: stage to the number of its units, or None where that shows only later.
        out: where to print (default: standard error).
    """

    def __init__(
        self, work: str, units: Mapping[str, int | None], out: TextIO | None = None
    ) -> None:
        self._work = work
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self.stages = [StageProgress(stage, number) for stage, number in units.items()]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._last = ""
        self._drawn = 0

    def __enter__(self) -> Progress:
        for stage in self.stages:
            stage.before = self._found(stage)
            stage.began = stage.latest = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self.look()
        except OSError:
            return  # the job's own error, if there is one, says more
        self._print(final=True)

    def _watch(self) -> None:
        every = _EVERY_LIVE if self._live else _EVERY_PLAIN
        if not places.is_local(self._work):
            every = max(every, _EVERY_REMOTE)
        wait = every
        while not self._stop.wait(wait):
            began = time.monotonic()
            try:
                self.look()
                self._print()
            except OSError:  # the folder may be on a store that hiccups; progress is only a view
                continue
            finally:
                wait = max(every, (time.monotonic() - began) / _LOOK_SHARE)

    def look(self) -> None:
        """See what is there now."""
        moment = max((stage.latest for stage in self.stages), default=0.0)
        for stage in self.stages:
            for name, stamp in sorted(self._found(stage).items()):
                if stamp in (stage.made.get(name), stage.before.get(name)):
                    continue
                counts = self._counts(stage, name)
                if counts is None:
                    continue  # being replaced; the next look finds it
                if not stage.made:  # stages before it kept it waiting
                    stage.began = max(stage.began, moment)
                if name not in stage.made:
                    stage.counts = stage.counts + counts
                stage.made[name] = stamp
                stage.latest = time.monotonic()

    def _found(self, stage: StageProgress) -> dict[str, str]:
        """Parts by name, each with what tells a new file from an old one of the same name."""
        if stage.stage == ASSEMBLE:
            return stamps(places.join(self._work, "shards"))
        found = stamps(places.parent_and_name(part_place(self._work, stage.stage, 0))[0])
        # An earlier run over another source may have left more.
        return {
            name: stamp
            for name, stamp in found.items()
            if (number := _number(name)) is not None
            and (stage.units is None or number < stage.units)
        }

    def _counts(self, stage: StageProgress, name: str) -> Counts | None:
        if stage.stage != ASSEMBLE:
            number = _number(name)
            part = None if number is None else read_part(self._work, stage.stage, number)
            return None if part is None else part.counts
        samples = shard_samples(self._work, name)
        return None if samples is None else Counts(read=samples, kept=samples)

    def _print(self, *, final: bool = False) -> None:
        now = time.monotonic()
        shown = [stage for stage in self.stages if stage.done]
        lines = [describe(stage, now) for stage in shown]
        if self._live:
            self._draw(lines)
            return
        # Without the time left, which changes while nothing happens.
        news = "  |  ".join(describe(stage, None) for stage in shown)
        if news and news != self._last:
            self._last = news
            self._out.write(("  |  ".join(lines)) + "\n")
            self._out.flush()

    def _draw(self, lines: list[str]) -> None:
        """Over what was drawn before; no line is longer than the terminal, which would wrap it."""
        width = shutil.get_terminal_size().columns - 1
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._out.write(up + "".join(f"\r\x1b[K{line[:width]}\n" for line in lines))
        self._out.flush()
        self._drawn = len(lines)


def shard_samples(work: str, name: str) -> int | None:
    """Anchors of the shard that a file of WORK/shards tells of; None where it cannot be read."""
    try:
        body = json.loads(places.read_bytes(places.join(work, "shards", name)))
        return int(body["entry"]["samples"])
    except (ValueError, KeyError, TypeError, UserError):
        return None


def _number(name: str) -> int | None:
    """Of a part, from its file's name; None for other files."""
    stem, dot, extension = name.rpartition(".")
    number = stem.rpartition("_")[2]
    return int(number) if dot and extension == "parquet" and number.isdecimal() else None


def describe(stage: StageProgress, now: float | None) -> str:
    """One line: parts, those of an earlier run, samples, rate and (if ``now``) the time left."""
    of = "" if stage.units is None else f"/{stage.units:,}"
    what = "shards" if stage.stage == ASSEMBLE else "parts"
    text = f"{stage.stage} {stage.done:,}{of} {what}"
    if stage.reused:
        text += f" ({stage.reused:,} of an earlier run)"
    if not stage.made:
        return text
    text += f", {stage.counts.read:,} read"
    bad = sum(stage.counts.dropped.values())
    text += f", {bad:,} dropped" if bad else ""
    rate = stage.rate()
    text += f", {rate:,.0f}/s" if rate >= 10 else f", {rate:.1f}/s"
    left = None if now is None else stage.seconds_left(now)
    return text if left is None else f"{text}, {duration(left)} left"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def stamps(folder: str) -> dict[str, str]:
    """Files of a folder, each with what the store says of it: another content, another stamp.

    Whichever of size, time, inode, version or ETag the store has takes part. Empty where there is
    no such folder.
    """
    fs, path = places.filesystem(folder)
    fs.invalidate_cache(path)  # remote filesystems remember their listings
    try:
        entries: list[dict[str, Any]] = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found: dict[str, str] = {}
    for entry in entries:
        name = str(entry["name"]).rsplit("/", 1)[-1]
        if entry["type"] == "file" and not places.is_hidden(name):
            found[name] = repr(sorted((key, str(value)) for key, value in entry.items()))
    return found
