"""From a unit to decoded images: overlapped decoding, every bad sample counted."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from apache_beam.metrics import Metrics
from PIL import Image

from pipelines.parts import Part, fingerprint
from schemas.errors import BadSample, UserError
from schemas.manifest import Counts
from shards import places
from shards.images import ImageInfo, decode_image
from shards.sources import Sample, Unit
from shards.sources.files import read_list
from shards.sources.tar_sets import read_unit_tar

T = TypeVar("T")
R = TypeVar("R")
_EXAMPLES = 5


@dataclass
class Tally:
    """Counts of one unit; read = kept + dropped."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str, str]] = field(default_factory=list)

    def drop(self, key: str, problem: BadSample) -> None:
        """Count a sample that cannot be used."""
        self.dropped[problem.reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append((key, problem.reason, problem.detail))

    def counts(self) -> Counts:
        """As the manifest keeps them."""
        read = self.kept + sum(self.dropped.values())
        return Counts(read=read, kept=self.kept, dropped=dict(sorted(self.dropped.items())))


def publish(stage: str, counts: Counts) -> None:
    """Add counts to Beam's metrics under the stage's namespace."""
    Metrics.counter(stage, "read").inc(counts.read)
    Metrics.counter(stage, "kept").inc(counts.kept)
    for reason, number in counts.dropped.items():
        Metrics.counter(stage, f"dropped/{reason}").inc(number)


@dataclass(frozen=True)
class Decoded(Generic[T]):
    """A sample, its image's header and hash, and what a model wants of the image."""

    sample: Sample
    info: ImageInfo
    image_sha256: str
    prepared: T

    def where(self) -> dict[str, Any]:
        """The columns that say where the image lies and what it is."""
        return {
            "source": self.sample.source,
            "source_key": self.sample.source_key,
            "offset": self.sample.offset,
            "size": self.sample.size,
            "image_sha256": self.image_sha256,
            "image_ext": self.info.ext,
            "width": self.info.width,
            "height": self.info.height,
        }


def read_unit(unit: Unit, tally: Tally, classes: int | None) -> Iterator[Sample]:
    """The unit's samples; ``classes`` is the number of classes of a labelled source."""
    if unit.tar is None:
        return read_list(unit, tally.drop)
    return read_unit_tar(unit, tally.drop, classes)


def unit_fingerprint(unit: Unit) -> str:
    """Digest of a unit's content: a tar's bytes, or those of each file of a list.

    Raises:
        UserError: a tar is not there.
    """
    if unit.tar is not None:
        return places.content_fingerprint(places.join(unit.root, unit.tar))
    lines: list[Any] = []
    for item in unit.items:
        try:
            content = places.content_fingerprint(places.join(unit.root, item.path))
        except (UserError, OSError):
            content = "missing"  # reading will count it; here it only has to be told apart
        lines.append([item.path, item.class_index, item.text, content])
    return "sha256:" + fingerprint(lines)


def decoded_batches(
    samples: Iterable[Sample],
    prepare: Callable[[Image.Image], T],
    tally: Tally,
    *,
    batch: int,
    threads: int,
) -> Iterator[list[Decoded[T]]]:
    """Batches of decoded images in the samples' order; bad ones are tallied and left out.

    Threads read ahead of the model by two batches, so that decoding and preprocessing overlap
    with it (PIL releases the interpreter's lock while it decodes).
    """

    def work(sample: Sample) -> Decoded[T] | BadSample:
        try:
            image, info = decode_image(sample.image)
        except BadSample as problem:
            return problem
        digest = hashlib.sha256(sample.image).hexdigest()
        return Decoded(_without_bytes(sample), info, digest, prepare(image))

    full: list[Decoded[T]] = []
    for sample, result in ordered_map(work, samples, threads=threads, ahead=2 * batch):
        if isinstance(result, BadSample):
            tally.drop(sample.source_key, result)
            continue
        full.append(result)
        if len(full) == batch:
            yield full
            full = []
    if full:
        yield full


def _without_bytes(sample: Sample) -> Sample:
    fields = {name: getattr(sample, name) for name in sample.__dataclass_fields__}
    return Sample(**(fields | {"image": b""}))


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int
) -> Iterator[tuple[T, R]]:
    """``(item, function(item))`` in order, computed by threads at most ``ahead`` items early."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) >= ahead:
                    done, result = waiting.popleft()
                    yield done, result.result()
            while waiting:
                done, result = waiting.popleft()
                yield done, result.result()
        finally:
            for _, pending in waiting:
                pending.cancel()


def check_ceiling(parts: list[Part], ceiling: float) -> list[Part]:
    """Return the parts, in order, if no more than ``ceiling`` of their samples were bad.

    Raises:
        UserError: too many; the sentence names the reasons, the worst part and a sample.
    """
    parts = sorted(parts, key=lambda part: part.number)
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
