"""How long each part took: noted beside the parts, which stay the same in every run.

``WORK/timings/STAGE/NUMBER.json`` holds the wall-clock seconds of the run that made the part; the
report of a build reads them. Beam's own consoles get the same as metrics:

=========================  ============  ====================================================
name (namespace: stage)    kind          of
=========================  ============  ====================================================
``parts_made``             counter       parts that this job made
``part_milliseconds``      distribution  wall clock of each
``part_image_bytes``       distribution  bytes of the images that were kept, where it read images
``read``, ``kept``         counters      samples of all parts, reused ones included
``dropped/REASON``         counters      samples left out, likewise
=========================  ============  ====================================================
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator

import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from pipelines.parts import Part, read_table
from schemas.errors import UserError
from shards import places

READ_IMAGES = ("caption", "embed-finetune", "embed-pool")


def timed(work: str, make: Callable[[], Part], *, before: float = 0.0) -> Part:
    """Make a part, and note how long that took.

    Args:
        work: the work folder.
        make: leaves the part.
        before: seconds to add, its share of what was done for several parts at once.
    """
    began = time.perf_counter() - before
    part = make()
    note(work, part.stage, part.number, time.perf_counter() - began)
    if part.stage in READ_IMAGES:
        total = pc.sum(read_table(work, part, ["size"]).column("size")).as_py() or 0
        Metrics.distribution(part.stage, "part_image_bytes").update(total)
    return part


@contextlib.contextmanager
def stopwatch(work: str, stage: str, number: int) -> Iterator[None]:
    """Note how long it took to make what is no part, such as a shard."""
    began = time.perf_counter()
    yield
    note(work, stage, number, time.perf_counter() - began)


def note(work: str, stage: str, number: int, seconds: float) -> None:
    """Write one timing, and tell Beam."""
    body = json.dumps({"seconds": round(seconds, 3)}).encode()
    places.write_bytes(timing_place(work, stage, number), body)
    Metrics.counter(stage, "parts_made").inc()
    Metrics.distribution(stage, "part_milliseconds").update(round(seconds * 1000))


def timing_place(work: str, stage: str, number: int) -> str:
    """Where the timing of a part lies."""
    return places.join(work, "timings", stage, f"{number:05d}.json")


def read_timing(work: str, stage: str, number: int) -> float | None:
    """Seconds that the part took; None where nothing was noted, or it cannot be read."""
    try:
        return float(json.loads(places.read_bytes(timing_place(work, stage, number)))["seconds"])
    except (UserError, ValueError, KeyError, TypeError, OSError):
        return None
