"""What a stage reads: a unit's samples and fingerprint; what it counts: metrics and the ceiling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from apache_beam.metrics import Metrics

from pipelines.parts import Part, fingerprint
from pipelines.units import with_items
from schemas.errors import BadSample, UserError
from schemas.manifest import Counts
from shards import places
from shards.decoding import Tally
from shards.readahead import read_ahead
from shards.sources import Sample, Unit
from shards.sources.beside import beside_place, read_beside
from shards.sources.files import beside_paths, read_list
from shards.sources.tar_sets import read_unit_tar
from shards.tars import OnBad

T = TypeVar("T")


def publish(stage: str, counts: Counts) -> None:
    """Add counts to Beam's metrics under the stage's namespace."""
    Metrics.counter(stage, "read").inc(counts.read)
    Metrics.counter(stage, "kept").inc(counts.kept)
    for reason, number in counts.dropped.items():
        Metrics.counter(stage, f"dropped/{reason}").inc(number)


def read_unit(unit: Unit, tally: Tally, classes: int | None) -> Iterator[Sample]:
    """The unit's samples; ``classes`` is the number of classes of a labelled source.

    A thread reads some megabytes ahead of whoever takes them. Pairs that img2dataset could not
    fetch are noted in the tally as ``not_downloaded``: they are no samples, neither read nor bad.
    """
    # What is bad waits its turn among the good, so that the tally is of one thread, in order.
    bad: list[tuple[str, BadSample]] = []

    def told() -> Iterator[Sample | tuple[str, BadSample]]:
        for sample in _samples(unit, tally, classes, lambda *one: bad.append(one)):
            yield from _taken(bad)
            yield sample
        yield from _taken(bad)

    for one in read_ahead(told(), lambda one: len(one.image) if isinstance(one, Sample) else 0):
        if isinstance(one, Sample):
            yield one
        else:
            tally.drop(*one)


def _samples(unit: Unit, tally: Tally, classes: int | None, on_bad: OnBad) -> Iterator[Sample]:
    if unit.tar is None:
        return read_list(with_items(unit), on_bad, labelled=classes is not None)
    beside = None
    if classes is None:
        beside = read_beside(places.join(unit.root, unit.tar), on_bad)
        if beside is not None and beside.failed:
            tally.noted["not_downloaded"] = beside.failed
    return read_unit_tar(unit, on_bad, classes, beside=beside)


def _taken(items: list[T]) -> list[T]:
    taken = items.copy()
    items.clear()
    return taken


def unit_fingerprint(unit: Unit) -> str:
    """Digest of a unit's content: a tar's bytes and those of the parquet beside it, or those of
    each file of a list.

    Raises:
        UserError: a tar is not there.
    """
    if unit.tar is not None:
        tar = places.join(unit.root, unit.tar)
        content = places.content_fingerprint(tar)
        beside = beside_place(tar)
        if not places.exists(beside):
            return content
        return "sha256:" + fingerprint(content, places.content_fingerprint(beside))
    lines: list[Any] = []
    for item in with_items(unit).items:
        contents = [_content(places.join(unit.root, item.path))]
        if item.beside:
            contents += [_content(places.join(unit.root, path)) for path in beside_paths(item.path)]
        lines.append([item.path, item.class_index, item.text, item.web, contents])
    return "sha256:" + fingerprint(lines)


def _content(place: str) -> str:
    try:
        return places.content_fingerprint(place)
    except (UserError, OSError):
        return "missing"  # reading will count it; here it only has to be told apart


def in_order(parts: list[Part]) -> list[Part]:
    """The parts by number; runners hand them over in any order."""
    return sorted(parts, key=lambda part: part.number)


def check_ceiling(parts: list[Part], ceiling: float) -> list[Part]:
    """Return the parts, in order, if no more than ``ceiling`` of their samples were bad.

    Raises:
        UserError: too many; the sentence names the reasons, the worst part and a sample.
    """
    parts = in_order(parts)
    total = sum((part.counts for part in parts), Counts())
    bad = sum(total.dropped.values())
    if parts and bad > ceiling * total.read:
        worst = max(parts, key=lambda part: sum(part.counts.dropped.values()))
        reasons = ", ".join(f"{reason} {number}" for reason, number in total.dropped.items())
        key, _, detail = worst.examples[0] if worst.examples else ("?", "", "")
        raise UserError(
            f"{parts[0].stage}: {bad} of {total.read} samples are bad ({reasons}), over the "
            f"ceiling of {ceiling:.2%}; the worst part is {worst.name}, e.g. {key}: {detail}; "
            f"mend the data or raise --max_bad_fraction."
        )
    return parts
