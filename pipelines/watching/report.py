"""The report of a build: what each stage did, how fast, and what it left out.

``WORK/report.json`` for programs, ``WORK/report.html`` for people: one page, which loads nothing.
It is drawn from the parts and the timings beside them, so that it also tells how far a build came
that failed, and what earlier runs of it did. It holds clocks and rates; nothing of it enters the
set.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.parts import Part, part_place, read_parquet, read_part
from pipelines.watching.progress import ASSEMBLE, Progress, StageProgress, shard_samples
from pipelines.watching.timing import read_timing
from schemas.errors import UserError
from schemas.manifest import Counts
from shards import places
from shards.showing.summary import Spread, spread

JSON_NAME, PAGE_NAME = "report.json", "report.html"
_SAMPLED = 200  # parts whose rows are read for the distributions, spread evenly over the stage
_SLOWEST = 10
_EXAMPLES = 5  # of each stage and reason
_AT_ONCE = 16  # files read at once: on a store, each costs a round trip


@dataclass
class StageReport:
    """What one stage did.

    Attributes:
        parts: that are there, ``reused`` of them made by an earlier run.
        units: how many there should be; None where that is not known before the stage ends.
        seconds: that the parts took, summed over all workers; ``timed`` parts have a timing.
        samples: read by the parts that have a timing.
        slowest: the parts that took longest, as name, seconds, samples.
        examples: of what was dropped, as reason, key, detail, part.
        noted: what was seen that is no sample, such as pairs that could not be downloaded.
    """

    stage: str
    parts: int = 0
    units: int | None = None
    reused: int = 0
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    timed: int = 0
    samples: int = 0
    slowest: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, str]] = field(default_factory=list)
    noted: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float | None:
        """Samples per second of one worker's time."""
        return self.samples / self.seconds if self.seconds else None


@dataclass
class Distribution:
    """Numbers of one column, from some parts of a stage."""

    title: str
    note: str
    unit: str
    parts: int
    of_parts: int
    spread: Spread


@dataclass
class Report:
    """The whole of ``report.json``.

    Attributes:
        name: of the set.
        ended: ``complete``, ``stopped``, ``stages done`` or the sentence that the build ended with.
        digest: of the set, where it is complete.
        seconds: that this run took.
        index: the search's index as the parts of its stage describe it, recall included.
    """

    name: str
    ended: str
    digest: str | None
    seconds: float
    stages: list[StageReport]
    distributions: list[Distribution]
    rejected: list[dict[str, Any]]
    index: dict[str, Any]

    def as_json(self) -> bytes:
        """For programs; keys are those of the classes above."""
        body = asdict(self)
        for stage, made in zip(body["stages"], self.stages, strict=True):
            stage["counts"] = made.counts.model_dump(exclude_none=True)
            stage["samples_per_worker_second"] = None if made.rate is None else round(made.rate, 2)
        return (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()


def draw_up(
    work: str,
    progress: Progress,
    *,
    name: str,
    ended: str,
    digest: str | None,
    seconds: float,
    index: dict[str, Any] | None = None,
) -> Report:
    """Read what lies in the work folder.

    Args:
        work: the work folder.
        progress: of the job that ends now; it knows the stages, and which parts were reused.
        name: of the set.
        ended: how the job ended.
        digest: of the set, if there is one.
        seconds: that the job took.
        index: what the manifest says of the index, where there is a manifest.
    """
    stages: list[StageReport] = []
    parts: dict[str, list[Part]] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for stage in progress.stages:
            if stage.stage == ASSEMBLE:
                stages.append(_shards(work, stage))
                continue
            if stage.units is None and not stage.done:
                continue  # a step that this build did without, such as training an index
            numbers = sorted(
                int(file.removesuffix(".parquet").rpartition("_")[2])
                for file in stage.before.keys() | stage.made.keys()
            )
            found = pool.map(lambda n, s=stage: read_part(work, s.stage, n), numbers)
            parts[stage.stage] = [part for part in found if part is not None]
            timings = pool.map(lambda n, s=stage: read_timing(work, s.stage, n), numbers)
            taken = dict(zip(numbers, timings, strict=True))
            stages.append(_stage(stage, parts[stage.stage], taken))
        return Report(
            name=name,
            ended=ended,
            digest=digest,
            seconds=round(seconds, 3),
            stages=stages,
            distributions=list(_distributions(work, parts, pool)),
            rejected=_rejected(work, pool),
            index=index or {},
        )


def _shards(work: str, stage: StageProgress) -> StageReport:
    """Shards are no parts; their timings lie under their kind."""
    made = StageReport(stage.stage, stage.done, None, stage.reused, stage.counts)
    for name in sorted(stage.before.keys() | stage.made.keys()):
        kind, _, number = name.removesuffix(".json").rpartition("-")
        seconds = (
            read_timing(work, f"{ASSEMBLE}-{kind}", int(number)) if number.isdecimal() else None
        )
        samples = shard_samples(work, name)
        if seconds is not None and samples is not None:
            made.seconds = round(made.seconds + seconds, 3)
            made.timed += 1
            made.samples += samples
            made.slowest.append(
                {"part": f"{kind}/{number}", "seconds": seconds, "samples": samples}
            )
    made.slowest = sorted(made.slowest, key=lambda row: (-row["seconds"], row["part"]))[:_SLOWEST]
    return made


def _stage(stage: StageProgress, parts: list[Part], taken: dict[int, float | None]) -> StageReport:
    made = StageReport(stage.stage, len(parts), stage.units, stage.reused)
    made.counts = sum((part.counts for part in parts), Counts())
    seen: Counter[str] = Counter()
    timed: list[tuple[float, Part]] = []
    for part in parts:
        for what, number in part.extra.get("noted", {}).items():
            made.noted[what] = made.noted.get(what, 0) + number
        seconds = taken.get(part.number)
        if seconds is not None:
            timed.append((seconds, part))
        for key, reason, detail in part.examples:
            seen[reason] += 1
            if seen[reason] <= _EXAMPLES:
                made.examples.append(
                    {"reason": reason, "key": key, "detail": detail, "part": part.name}
                )
    made.seconds = round(sum(seconds for seconds, _ in timed), 3)
    made.timed = len(timed)
    made.samples = sum(part.counts.read for _, part in timed)
    timed.sort(key=lambda pair: (-pair[0], pair[1].number))
    made.slowest = [
        {"part": part.name, "seconds": seconds, "samples": part.counts.read}
        for seconds, part in timed[:_SLOWEST]
    ]
    return made


@dataclass(frozen=True)
class _Column:
    """A column that is worth a histogram; ``words`` counts those of texts."""

    stage: str
    name: str
    title: str
    note: str
    words: bool = False


_COLUMNS = (
    _Column("select", "score", "Retrieval scores", "cosine to the nearest finetune image"),
    _Column("caption", "texts", "Caption lengths", "words per caption", words=True),
    _Column(
        "select-captions", "clip_score", "Captions and images", "CLIP score of the best caption"
    ),
    _Column("select", "texts", "Text lengths of pairs", "words per text", words=True),
    _Column("select", "clip_score", "Text and image of pairs", "CLIP score of each pair"),
)


def _distributions(
    work: str, parts: dict[str, list[Part]], pool: ThreadPoolExecutor
) -> Iterable[Distribution]:
    for column in _COLUMNS:
        all_parts = [part for part in parts.get(column.stage, []) if part.rows]
        chosen = evenly(all_parts, _SAMPLED)
        blocks = pool.map(lambda part, c=column: _values(work, part, c), chosen)
        found = spread(np.concatenate([np.zeros(0), *blocks]), whole=column.words)
        if found is not None:
            unit = "texts" if column.words else "scores"
            yield Distribution(column.title, column.note, unit, len(chosen), len(all_parts), found)


def evenly(parts: Sequence[Part], most: int) -> list[Part]:
    """At most so many, from the first on at equal distances."""
    step = max(len(parts) / most, 1.0)
    return [parts[int(i * step)] for i in range(min(len(parts), most))]


def _values(work: str, part: Part, column: _Column) -> NDArray[np.float64]:
    try:
        with places.open_read(part_place(work, part.stage, part.number)) as file:
            held = pq.ParquetFile(file)
            if column.name not in held.schema_arrow.names:
                return np.zeros(0)
            values = held.read([column.name], use_threads=False).column(column.name)
    except (UserError, OSError, pa.ArrowException):
        return np.zeros(0)
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = pc.list_flatten(values)
    values = pc.drop_null(values)
    if column.words:
        words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(values))
        values = pc.list_value_length(words)
    return np.asarray(values.to_numpy(), dtype=np.float64)


def _rejected(work: str, pool: ThreadPoolExecutor) -> list[dict[str, Any]]:
    """Reasons of ``WORK/rejected``, each with how many and a few examples."""
    folder = places.join(work, "rejected")
    if not places.exists(folder):
        return []
    names = [name for name in places.find_files(folder) if name.endswith(".parquet")]
    total: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for table in _a_few_at_a_time(pool, [places.join(folder, name) for name in names]):
        if "reason" not in table.column_names:
            continue
        stages = "stage" if "stage" in table.column_names else None
        for pair in pc.value_counts(table.column("reason")).to_pylist():
            reason = pair["values"]
            mine = table.filter(pc.equal(table.column("reason"), reason))
            stage = str(mine.column(stages)[0].as_py()) if stages else ""
            total[stage, reason] += pair["counts"]
            kept = examples.setdefault((stage, reason), [])
            kept += mine.slice(0, _EXAMPLES - len(kept)).to_pylist()
    return [
        {"stage": stage, "reason": reason, "samples": number, "examples": examples[stage, reason]}
        for (stage, reason), number in sorted(total.items())
    ]


def _a_few_at_a_time(pool: ThreadPoolExecutor, files: list[str]) -> Iterator[pa.Table]:
    """The tables that can be read; no more than a few are held."""
    for start in range(0, len(files), _AT_ONCE):
        for table in pool.map(_table, files[start : start + _AT_ONCE]):
            if table is not None:
                yield table


def _table(place: str) -> pa.Table | None:
    try:
        return read_parquet(place)
    except (UserError, OSError, pa.ArrowException):
        return None
