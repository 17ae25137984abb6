"""Data to measure with: anchor sets of pictures whose spectrum is that of photographs."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

from schemas.manifest import Manifest, Provenance, set_digest
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, AnchorRecord, Kind, anchor_key
from shards.completion import complete_set
from shards.writer import write_shard

SIDE = 256
"""Of the pictures, which are 1.25 times as wide: the size to which img2dataset shrinks by default.

At quality 90 they take about 45 kB.
"""
_BASES = 24


@lru_cache(_BASES)
def _base(number: int, side: int) -> np.ndarray:
    """Noise with amplitude 1/f, as photographs have, in three correlated colours."""
    rng = np.random.default_rng(number)
    height, width = side * 2, side * 5 // 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    planes = [
        np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency**1.1)
        for _ in range(3)
    ]
    common, *others = [plane / plane.std() for plane in planes]
    picture = np.stack([common, common + 0.3 * others[0], common + 0.3 * others[1]], axis=-1)
    pixels: np.ndarray = np.clip(128 + 52 * picture, 0, 255).astype(np.uint8)
    return pixels


def photograph(seed: int, side: int = SIDE, bases: int = _BASES) -> bytes:
    """A JPEG that no other seed gives: a window of one of a few large pictures.

    Windows of one large picture may overlap; with as many ``bases`` as seeds none does.
    """
    base = _base(seed % bases, side)
    rng = np.random.default_rng((7, seed))
    top, left = (int(rng.integers(0, room)) for room in (side, side * 5 // 4))
    window = base[top : top + side, left : left + side * 5 // 4]
    out = io.BytesIO()
    Image.fromarray(window).save(out, "JPEG", quality=90)
    return out.getvalue()


def anchors(
    kind: Kind, start: int, number: int, classes: int, side: int
) -> Iterator[tuple[AnchorRecord, bytes]]:
    """Records with their images."""
    for i in range(start, start + number):
        image = photograph(i, side)
        digest = hashlib.sha256(image).hexdigest()
        name = f"class {i % classes:03d}"
        own = kind == TEXT_COMPENSATED
        more = (
            {"class_index": i % classes, "class_name": name}
            if own
            else {
                "score": round(0.5 + (i * 7919 % 4000) / 10_000, 4),
                "rank": i % 20,
                "query_count": 1 + i % 3,
                "query_classes": [name],
                "url": f"https://example.org/{i}.jpg",
                "license": ("?", "CC BY 4.0")[i % 2],
                "nsfw": "UNLIKELY",
                "punsafe": round(i % 100 / 1000, 4),
                "similarity": round(0.3 + i % 50 / 1000, 4),
                "language": "en",
            }
        )
        source = f"{name}/{i}.jpg" if own else f"{i // 10_000:05d}.tar"
        source_key = source if own else f"{i:09d}"
        yield (
            AnchorRecord(
                key=anchor_key(kind, digest, source, source_key),
                kind=kind,
                image_sha256=digest,
                image_ext="jpg",
                width=side * 5 // 4,
                height=side,
                text=f"a picture of {name} number {i}, with some words on what else is in it",
                source=source,
                source_key=source_key,
                **more,
            ),
            image,
        )


def make_set(
    root: str, number: int, *, shards: int = 4, classes: int = 100, side: int = SIDE
) -> Manifest:
    """A set of ``number`` anchors, half of each kind, in ``shards`` shards of each."""
    written = []
    each = number // 2
    for kind in (TEXT_COMPENSATED, IMAGE_TEXT_PAIR):
        first = 0 if kind == TEXT_COMPENSATED else each
        edges = [first + each * i // shards for i in range(shards + 1)]
        for i, (start, end) in enumerate(itertools.pairwise(edges)):
            written.append(
                write_shard(root, kind, i, anchors(kind, start, end - start, classes, side))
            )
    manifest = Manifest(
        name="benchmark",
        digest=set_digest(written),
        kinds=[TEXT_COMPENSATED, IMAGE_TEXT_PAIR],
        samples=2 * each,
        classes=[f"class {i:03d}" for i in range(classes)],
        shards=written,
        provenance=Provenance(),
    )
    return complete_set(root, manifest, gallery=0)
