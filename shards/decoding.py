"""From samples to decoded images: decoding overlaps with the model, every bad sample is counted."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Generic, TypeVar

from PIL import Image

from schemas.errors import BadSample
from schemas.manifest import Counts
from shards.images import ImageInfo, decode_image
from shards.sources.base import Sample

T = TypeVar("T")
R = TypeVar("R")
_EXAMPLES = 5


@dataclass
class Tally:
    """Counts of one unit; read = kept + dropped. ``noted`` counts what is neither."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
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


def decoded_batches(
    samples: Iterable[Sample],
    prepare: Callable[[Image.Image], T],
    tally: Tally,
    *,
    batch: int,
    threads: int,
    overlap: bool = True,
) -> Iterator[list[Decoded[T]]]:
    """Batches of decoded images in the samples' order; bad ones are tallied and left out.

    Args:
        samples: with their bytes.
        prepare: what is kept of an image; called from the threads.
        tally: of bad samples.
        batch: images in each but the last.
        threads: that decode; PIL releases the interpreter's lock while it does.
        overlap: decode two batches ahead, while the caller works on one; for callers who leave
            cores for it.
    """

    def work(sample: Sample) -> Decoded[T] | BadSample:
        try:
            image, info = decode_image(sample.image)
        except BadSample as problem:
            return problem
        digest = hashlib.sha256(sample.image).hexdigest()
        return Decoded(replace(sample, image=b""), info, digest, prepare(image))

    full: list[Decoded[T]] = []
    if overlap:
        results = ordered_map(work, samples, threads=threads, ahead=2 * batch)
    else:
        results = burst_map(work, samples, threads=threads, size=batch)
    for sample, result in results:
        if isinstance(result, BadSample):
            tally.drop(sample.source_key, result)
            continue
        full.append(result)
        if len(full) == batch:
            yield full
            full = []
    if full:
        yield full


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


def burst_map(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, size: int
) -> Iterator[tuple[T, R]]:
    """``(item, function(item))`` in order; threads compute ``size`` at once, then rest."""
    source = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        while some := list(islice(source, size)):
            yield from zip(some, list(pool.map(function, some)), strict=True)
