"""What a run says while it goes: metrics.jsonl, a progress line, counts of bad samples, a plot."""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import torch
from tqdm import tqdm

from schemas.errors import UserError
from shards import places
from trainer.data import Bad, Batch
from trainer.trackers import Tracker, open_trackers

METRICS_NAME = "metrics.jsonl"
_EXAMPLES = 5
_SECONDS = 20.0
_MAXRSS_MIB = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere


@dataclass
class BadSamples:
    """Counts of samples left out, by ``images/reason``, with a few examples.

    Args:
        ceiling: largest share of an epoch's samples that may be bad.
        per_epoch: samples of an epoch by kind of images (see trainer.data.Batch) to a number.
    """

    ceiling: float
    per_epoch: dict[str, int]
    total: Counter[str] = field(default_factory=Counter)
    epoch: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, bad: Iterable[Bad]) -> None:
        """Count the bad samples of a step.

        Raises:
            UserError: too many of this epoch's samples are bad.
        """
        for images, key, reason, detail in bad:
            self.total[f"{images}/{reason}"] += 1
            self.epoch[images] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(f"{key}: {reason} ({detail.rstrip('.')})")
            if self.epoch[images] > self.ceiling * self.per_epoch[images]:
                raise UserError(
                    f"{self.epoch[images]:,} of an epoch's {self.per_epoch[images]:,} {images} "
                    f"images are bad ({self.describe()}), more than --max-bad-fraction "
                    f"{self.ceiling:g}; for example {self.examples[0]}."
                )

    def end_epoch(self) -> None:
        """The ceiling is for each epoch anew."""
        self.epoch.clear()

    def describe(self) -> str:
        """``reason number, ...``."""
        return ", ".join(f"{reason} {number:,}" for reason, number in sorted(self.total.items()))

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"total": self.total, "epoch": self.epoch, "examples": self.examples}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on counting from a checkpoint."""
        self.total = Counter(state["total"])
        self.epoch = Counter(state["epoch"])
        self.examples = list(state["examples"])


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, flushed line by line.

    Args:
        folder: of the run.
        start: the step that the run (re)starts at; lines of later steps, which will be written
            again, are removed, and so is a line that a crash cut short.
        quiet: write nothing; another process does.
        track: trackers that get every line too, by name.

    Raises:
        UserError: a tracker cannot begin.
    """

    def __init__(
        self, folder: Path, start: int, *, quiet: bool = False, track: Sequence[str] = ()
    ) -> None:
        self._file: BinaryIO | None = None
        self._trackers: list[Tracker] = []
        if quiet:
            return
        path = folder / METRICS_NAME
        kept = [line for line in read_metrics(folder) if line["step"] <= start]
        places.write_bytes(str(path), b"".join(_line(entry) for entry in kept))
        self._trackers = open_trackers(track, folder, kept)
        self._file = path.open("ab")

    def write(self, entry: dict[str, Any]) -> None:
        """Append a line; ``entry`` has a ``step``, the number of steps done."""
        if self._file is not None:
            self._file.write(_line(entry))
            self._file.flush()
        for tracker in self._trackers:
            tracker.write(entry)

    def close(self, *, finished: bool = True) -> None:
        """Close the file, and the trackers."""
        if self._file is not None:
            self._file.close()
        for tracker in self._trackers:
            tracker.close(finished=finished)


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none if there is no file yet."""
    path = folder / METRICS_NAME
    if not path.exists():
        return []
    entries = []
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            entries.append(json.loads(line))
    return entries


MEASURED = ("images_per_second", "data_wait", "peak_memory_mib")
"""What a line says of the machine; everything else follows from seed, step and data."""


class Pace:
    """Batches, and how long the loop waited for them.

    Args:
        batches: passed on in their order.

    Attributes:
        images: trained on in this lap; the loop counts them.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.start_lap()

    def __iter__(self) -> Iterator[Batch]:
        source = iter(self._batches)
        while True:
            before = time.monotonic()
            batch = next(source, None)
            self._waited += time.monotonic() - before
            if batch is None:
                return
            yield batch

    def start_lap(self) -> None:
        """Begin to count anew."""
        self._began, self._waited, self.images = time.monotonic(), 0.0, 0

    def seconds(self) -> float:
        """Of this lap so far."""
        return max(time.monotonic() - self._began, 1e-9)

    def lap(self, device: torch.device) -> dict[str, float]:
        """Images a second, share of the time spent waiting for data, and peak memory so far.

        Memory is what torch held on a GPU, else what this process held, in MiB.
        """
        seconds = self.seconds()
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MAXRSS_MIB
        found = (
            round(self.images / seconds, 1),
            round(self._waited / seconds, 4),
            round(peak, 1),
        )
        self.start_lap()
        return dict(zip(MEASURED, found, strict=True))


class Progress:
    """A bar on a terminal; elsewhere a plain line every 20 seconds, and at the end.

    Args:
        start: steps done before.
        total: steps of the run.
        out: where to print.
        quiet: print nothing; another process does.
    """

    def __init__(
        self, start: int, total: int, out: TextIO | None = None, *, quiet: bool = False
    ) -> None:
        self._quiet = quiet
        self._out = out or sys.stderr
        self._total = total
        self._bar = tqdm(
            total=total,
            initial=start,
            desc="training",
            unit="step",
            file=self._out,
            disable=quiet or not self._out.isatty(),
        )
        self._said = time.monotonic()

    def update(self, step: int, text: str) -> None:
        """One more step is done; ``text`` says the latest losses."""
        if self._quiet:
            return
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        elif step == self._total or time.monotonic() - self._said > _SECONDS:
            self._said = time.monotonic()
            print(f"step {step:,} of {self._total:,}: {text}", file=self._out, flush=True)

    def close(self) -> None:
        """End the line."""
        self._bar.close()


_NOT_DRAWN = {
    *("step", "epoch", "grad_norm", "logit_scale", "lr", "bad", "nonfinite", "eval"),
    *MEASURED,
}


def _drawn(entries: list[dict[str, Any]]) -> list[str]:
    """The objective and its terms, in the order in which they are first named."""
    names = dict.fromkeys(name for entry in entries for name in entry)
    return [name for name in names if name not in _NOT_DRAWN]


def plot_losses(folder: Path) -> None:
    """Draw ``loss.png``: the objective and its terms over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, used once
    from matplotlib.figure import Figure

    entries = read_metrics(folder)
    figure = Figure(figsize=(7, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for name in _drawn(entries):
        points = [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
    if entries:
        axes.legend()
    data = io.BytesIO()
    canvas.print_png(data)
    places.write_bytes(str(folder / "loss.png"), data.getvalue())
