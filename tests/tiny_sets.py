"""Small anchor sets, written without a build."""

from __future__ import annotations

import hashlib
from typing import Any

from tiny_data import CLASSES, jpeg

from schemas.manifest import Counts, Manifest, ModelInfo, Provenance, set_digest
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, AnchorRecord, Kind, anchor_key
from shards.writer import write_manifest, write_shard


def _about(kind: Kind, i: int) -> dict[str, Any]:
    digest = hashlib.sha256(jpeg(i)).hexdigest()
    source = f"d/{i}.jpg" if kind == TEXT_COMPENSATED else "00000.tar"
    return {
        "key": anchor_key(kind, digest, source, str(i)),
        "kind": kind,
        "image_sha256": digest,
        "image_ext": "jpg",
        "width": 40,
        "height": 32,
        "source": source,
        "source_key": str(i),
    }


def text_record(i: int, text: str | None = None, class_name: str = "circle") -> AnchorRecord:
    return AnchorRecord(
        **_about(TEXT_COMPENSATED, i),
        text=text or f"a circle number {i}",
        class_index=0,
        class_name=class_name,
    )


def pair_record(i: int, text: str | None = None, **more: Any) -> AnchorRecord:
    values: dict[str, Any] = {
        "score": round(0.5 + 0.01 * i, 6),
        "rank": i,
        "query_count": 1 + i,
        "query_classes": [CLASSES[i % 3]],
        "url": f"https://example.org/{i}.jpg",
    }
    return AnchorRecord(
        **_about(IMAGE_TEXT_PAIR, i), text=text or f"a pair number {i}", **(values | more)
    )


def small_set(
    root: str,
    own: list[AnchorRecord] | None = None,
    pairs: list[AnchorRecord] | None = None,
    classes: tuple[str, ...] = CLASSES,
) -> Manifest:
    """Two shards of texts and one of pairs; images are those of the records' source keys."""
    own = [text_record(i) for i in range(6)] if own is None else own
    pairs = [pair_record(i) for i in range(6)] if pairs is None else pairs
    half = len(own) // 2
    shards = [
        write_shard(root, kind, number, [(r, jpeg(int(r.source_key))) for r in records])
        for kind, number, records in (
            (TEXT_COMPENSATED, 0, own[:half]),
            (TEXT_COMPENSATED, 1, own[half:]),
            (IMAGE_TEXT_PAIR, 0, pairs),
        )
        if records
    ]
    model = ModelInfo(name="some/model", weights_sha256="a" * 64)
    counts = {"caption": Counts(read=8, kept=6, dropped={"truncated_image": 2})}
    manifest = Manifest(
        name="small",
        digest=set_digest(shards),
        kinds=[k for k in (TEXT_COMPENSATED, IMAGE_TEXT_PAIR) if k in {s.kind for s in shards}],
        samples=len(own) + len(pairs),
        classes=list(classes),
        shards=shards,
        provenance=Provenance(captioner=model, encoder=model, counts=counts),
    )
    write_manifest(root, manifest)
    return manifest
