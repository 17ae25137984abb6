"""The golden sets: what format 1.1 looks like on disk, to the byte.

``python tests/golden_sets.py`` writes ``tests/golden/{tiny,captions-only}`` anew. A change in them
is a change of the format: it belongs in docs/format.md and in the same commit. Those of 1.0, in
``tests/golden/1.0``, stay as they are: older sets must be read for good. The images are files of
their own, since another Pillow would encode other bytes.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from schemas.manifest import (
    Counts,
    InputInfo,
    Manifest,
    ModelInfo,
    Provenance,
    ShardEntry,
    set_digest,
)
from schemas.record import IMAGE_TEXT_PAIR, KINDS, TEXT_COMPENSATED, AnchorRecord, Kind, anchor_key
from shards.completion import complete_set
from shards.writer import write_shard

GOLDEN = Path(__file__).parent / "golden"
CLASSES = ["circle", "square", "bär"]
SIZES = {"jpg": (40, 32), "png": (24, 16), "webp": (20, 30)}

PROVENANCE = Provenance(
    captioner=ModelInfo(name="Salesforce/blip-image-captioning-base", weights_sha256="a" * 64),
    encoder=ModelInfo(name="ViT-B-16/laion2b_s34b_b88k", weights_sha256="b" * 64),
    index={"type": "exact", "metric": "cosine", "k": 2},
    inputs=[
        InputInfo(role="finetune", name="d/circle", fingerprint=f"sha256:{'c' * 64}"),
        InputInfo(role="pool", name="00000.tar", fingerprint=f"sha256:{'d' * 64}"),
    ],
    counts={
        "caption": Counts(read=6, kept=5, dropped={"truncated_image": 1}),
        "embed-pool": Counts(read=9, kept=9),
    },
    config={"k": 2, "min_score": 0.25, "seed": 0, "max_bad_fraction": 1e-05},
    packages={"anchorft": "0.1.0", "torch": "2.13.0"},
)


def image(name: str) -> bytes:
    return (GOLDEN / "images" / name).read_bytes()


def record(kind: Kind, name: str, text: str, source: str, key: str, **more: Any) -> AnchorRecord:
    digest = hashlib.sha256(image(name)).hexdigest()
    ext = name.rpartition(".")[2]
    width, height = SIZES[ext]
    return AnchorRecord(
        key=anchor_key(kind, digest, source, key),
        kind=kind,
        image_sha256=digest,
        image_ext=ext,
        width=width,
        height=height,
        text=text,
        source=source,
        source_key=key,
        **more,
    )


def caption(name: str, number: int, *texts: str, **more: Any) -> tuple[AnchorRecord, bytes]:
    source = f"{CLASSES[number]}/{name}"
    more |= {"class_index": number, "class_name": CLASSES[number]}
    more |= {"texts": list(texts)} if len(texts) > 1 else {}
    return record(TEXT_COMPENSATED, name, texts[0], source, source, **more), image(name)


def pair(name: str, number: int, text: str, **more: Any) -> tuple[AnchorRecord, bytes]:
    key = f"0000000{number:02d}"
    return record(IMAGE_TEXT_PAIR, name, text, "00000.tar", key, **more), image(name)


CAPTIONS = [
    [
        caption("0.jpg", 0, "a red circle on grey", clip_score=0.312345),
        caption("1.png", 1, "a green square", "a square, green"),
        caption("2.webp", 2, 'ein "Bär" \\ 熊 😀\nzweite Zeile\t\x7f', mood={"a": [1, 2.5, None]}),
    ],
    [caption("3.jpg", 0, "x" * 512), caption("4.jpg", 1, "a square that lies on its side")],
]
PAIRS = [
    [
        pair("1.png", 0, "green square sticker", score=0.5, rank=0, query_count=1),
        pair(
            "3.jpg",
            1,
            "Circle | T-shirt & <more>",
            score=0.123457,
            rank=1,
            query_count=3,
            query_classes=["bär", "circle"],
            clip_score=-0.01,
            url="https://example.org/circle?a=1&b=2",
            license="?",
            nsfw="UNLIKELY",
            punsafe=1e-05,
            pwatermark=1.0,
            similarity=-0.25,
            language="en",
        ),
    ]
]


def write_golden(name: str, root: Path) -> Manifest:
    """Write a golden set into a folder."""
    with_images = name == "tiny"
    made: list[ShardEntry] = []
    for kind, groups in ((TEXT_COMPENSATED, CAPTIONS), (IMAGE_TEXT_PAIR, PAIRS)):
        if kind == TEXT_COMPENSATED or with_images:
            for number, group in enumerate(groups):
                samples = [(one, data if with_images else None) for one, data in group]
                made.append(write_shard(str(root), kind, number, samples))
    manifest = Manifest(
        name=f"golden {name}",
        digest=set_digest(made),
        kinds=[kind for kind in KINDS if any(shard.kind == kind for shard in made)],
        samples=sum(shard.samples for shard in made),
        classes=CLASSES,
        shards=made,
        provenance=PROVENANCE,
    )
    # No gallery: how the page looks is no part of the format, and changes more often.
    return complete_set(str(root), manifest, gallery=0)


if __name__ == "__main__":
    for golden in ("tiny", "captions-only"):
        shutil.rmtree(GOLDEN / golden, ignore_errors=True)
        write_golden(golden, GOLDEN / golden)
