"""Coloured squares, and anchor sets over them, written as a build writes them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schemas.manifest import Manifest, Provenance, set_digest
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, AnchorRecord, anchor_key
from shards.writer import write_manifest, write_shard

COLOURS = {"blue": (30, 40, 220), "green": (40, 200, 60), "red": (220, 40, 30)}
_TEXT = "a photo of the square small big dark bright it is . picture thing"
WORDS = [*COLOURS, *_TEXT.split()]
Anchor = tuple[AnchorRecord, bytes | None]


def picture(colour: tuple[int, int, int], seed: int, *, size: int = 40) -> Image.Image:
    """A noisy square of a colour."""
    noise = np.random.default_rng(seed).integers(-30, 30, (size, size, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **settings: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **settings)
    return out.getvalue()


def write_folder(root: Path, per_class: int, *, seed: int = 0) -> Path:
    """An image folder of coloured squares, one class a colour."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            data = encoded(picture(colour, seed + 1000 * number + i))
            (root / name / f"{i:03d}.jpg").write_bytes(data)
    return root


def caption_record(path: str, data: bytes, *texts: str) -> AnchorRecord:
    digest = hashlib.sha256(data).hexdigest()
    return AnchorRecord(
        key=anchor_key(TEXT_COMPENSATED, digest, path, path),
        kind=TEXT_COMPENSATED,
        image_sha256=digest,
        image_ext="jpg",
        width=40,
        height=40,
        text=texts[0],
        texts=list(texts) if len(texts) > 1 else [],
        source=path,
        source_key=path,
        class_index=0,
        class_name=path.split("/")[0],
    )


def pair_record(number: int, data: bytes, text: str) -> AnchorRecord:
    digest = hashlib.sha256(data).hexdigest()
    return AnchorRecord(
        key=anchor_key(IMAGE_TEXT_PAIR, digest, "pool.tar", str(number)),
        kind=IMAGE_TEXT_PAIR,
        image_sha256=digest,
        image_ext="jpg",
        width=40,
        height=40,
        text=text,
        source="pool.tar",
        source_key=str(number),
        score=0.5,
        rank=0,
        query_count=1,
    )


def write_set(
    root: Path,
    captions: Iterable[tuple[AnchorRecord, bytes | None]] = (),
    pairs: Iterable[tuple[AnchorRecord, bytes | None]] = (),
) -> Path:
    """An anchor set of one shard a kind."""
    captions, pairs = list(captions), list(pairs)
    shards = []
    if captions:
        shards.append(write_shard(str(root), TEXT_COMPENSATED, 0, captions))
    if pairs:
        half = len(pairs) // 2
        shards.append(write_shard(str(root), IMAGE_TEXT_PAIR, 0, pairs[:half]))
        shards.append(write_shard(str(root), IMAGE_TEXT_PAIR, 1, pairs[half:]))
    manifest = Manifest(
        name=root.name,
        digest=set_digest(shards),
        kinds=[
            kind for kind in (TEXT_COMPENSATED, IMAGE_TEXT_PAIR) if kind in {s.kind for s in shards}
        ],
        samples=sum(shard.samples for shard in shards),
        shards=shards,
        provenance=Provenance(),
    )
    write_manifest(str(root), manifest)
    return root


def captions_of(images: Path, *, bytes_too: bool = False) -> list[Anchor]:
    """A caption for every image of a folder."""
    found: list[Anchor] = []
    for path in sorted(images.glob("*/*.jpg")):
        data = path.read_bytes()
        name = path.parent.name
        text = f"a {'dark' if int(path.stem) % 2 else 'bright'} {name} square"
        record = caption_record(f"{name}/{path.name}", data, text)
        found.append((record, data if bytes_too else None))
    return found


def some_pairs(number: int = 10) -> list[Anchor]:
    """Image-text pairs of other colours."""
    pairs: list[Anchor] = []
    for i in range(number):
        data = encoded(picture((20 * i, 200, 250 - 20 * i), 500 + i))
        pairs.append((pair_record(i, data, f"a big {WORDS[i]} thing"), data))
    return pairs
