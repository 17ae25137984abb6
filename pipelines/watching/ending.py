"""When a build ends, however it does, its report is written."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Iterator

from pipelines.config import BuildConfig
from pipelines.watching.page import page
from pipelines.watching.progress import ASSEMBLE, Progress
from pipelines.watching.report import JSON_NAME, PAGE_NAME, draw_up
from pipelines.watching.sentences import user_sentence
from pipelines.watching.worker_deaths import SENTENCE, WorkerDeaths, worker_died
from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME, Manifest
from shards import places

GOOD_ENDS = ("complete", "stages done")


@contextlib.contextmanager
def reported(config: BuildConfig, progress: Progress, deaths: WorkerDeaths) -> Iterator[None]:
    """Write WORK/report.json and WORK/report.html when what it holds ends or fails.

    Where it fails, the page is named on standard error, ahead of what went wrong. A report that
    cannot be written takes nothing away from the build, nor from the error that ended it.
    """
    began = time.monotonic()

    def report(ended: str) -> None:
        with contextlib.suppress(UserError, OSError):
            _write(config, progress, ended, time.monotonic() - began)
            if ended not in GOOD_ENDS:
                place = places.join(config.work, PAGE_NAME)
                print(f"anchorft-build: report {place}", file=sys.stderr)

    deaths.before_end = functools.partial(report, SENTENCE)
    ended = "stopped"
    try:
        yield
        ended = GOOD_ENDS[ASSEMBLE not in config.stages]
    except Exception as error:
        ended = _sentence(error)
        raise
    finally:
        deaths.before_end = None
        report(ended)


def _sentence(error: Exception) -> str:
    seen: BaseException | None = error
    while seen is not None:  # Beam wraps an interrupt, too
        if isinstance(seen, KeyboardInterrupt):
            return "stopped"
        seen = seen.__cause__ or seen.__context__
    if worker_died(error):
        return SENTENCE
    return user_sentence(error) or f"{type(error).__name__}: {str(error)[:500]}"


def _write(config: BuildConfig, progress: Progress, ended: str, seconds: float) -> None:
    manifest = None
    place = places.join(config.output, MANIFEST_NAME)
    if ended == "complete":
        manifest = Manifest.from_json(places.read_bytes(place), place)
    report = draw_up(
        config.work,
        progress,
        name=config.name,
        ended=ended,
        digest=manifest.digest if manifest else None,
        seconds=seconds,
        index=manifest.provenance.index if manifest else None,
    )
    places.write_bytes(places.join(config.work, JSON_NAME), report.as_json())
    places.write_bytes(places.join(config.work, PAGE_NAME), page(report))
