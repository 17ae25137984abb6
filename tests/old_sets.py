"""Sets of older format versions, written as docs/format.md says that they were."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tiny_data import CLASSES, jpeg, write_tar

from schemas.record import AnchorRecord


def record_0_9(record: AnchorRecord, number: int) -> dict[str, Any]:
    """A record as format 0.9 wrote it."""
    body = record.model_dump(exclude_none=True)
    for name in ("image_ext", "text", "texts", "source", "source_key", "query_classes"):
        del body[name]
    body |= {
        "key": f"{number:09d}",
        "captions": record.texts or [record.text],
        "origin": {"file": record.source, "key": record.source_key},
    }
    if record.query_classes:
        body["classes"] = record.query_classes
    if record.score is not None:
        body["similarity_score"] = body.pop("score")
    return body


def set_0_9(root: Path, shards: list[list[AnchorRecord]], *, images: bool = True) -> dict[str, Any]:
    """Write a set of format 0.9, a shard for each list; returns the manifest's body."""
    entries: list[dict[str, Any]] = []
    number = 0
    for records in shards:
        kind = records[0].kind
        path = f"{kind}/{sum(entry['kind'] == kind for entry in entries):05d}"
        members: list[tuple[str, bytes]] = []
        rows: list[dict[str, Any]] = []
        for record in records:
            body = record_0_9(record, number)
            key = body["key"]
            members += [(f"{key}.json", json.dumps(body, indent=1).encode())]
            if images:
                members += [(f"{key}.jpg", jpeg(int(record.source_key)))]
            members += [(f"{key}.txt", record.text.encode())]
            rows.append({"key": key, "text": record.text})
            number += 1
        write_tar(root / f"{path}.tar", members)
        pq.write_table(pa.Table.from_pylist(rows), root / f"{path}.parquet")
        entry: dict[str, Any] = {"kind": kind, "count": len(records)}
        for name in ("tar", "parquet"):
            entry[name] = f"{path}.{name}"
            entry[f"{name}_sha256"] = hashlib.sha256((root / entry[name]).read_bytes()).hexdigest()
        entries.append(entry)
    pairs = [(e[name], e[f"{name}_sha256"]) for e in entries for name in ("tar", "parquet")]
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(pairs))
    manifest = {
        "format": "anchorft/anchor-set",
        "format_version": "0.9",
        "name": "old",
        "digest": hashlib.sha256(lines.encode()).hexdigest(),
        "kinds": sorted({entry["kind"] for entry in entries}, reverse=True),
        "count": number,
        "classes": {name: index for index, name in enumerate(CLASSES)},
        "shards": entries,
        "provenance": {
            "captioner": {"name": "some/model", "weights_sha256": "a" * 64},
            "inputs": [{"role": "finetune", "name": "d", "fingerprint": "sha256:1"}],
            "counts": {"caption": {"read": 8, "kept": 6, "dropped": {"truncated_image": 2}}},
            "config": {"k": 3},
        },
    }
    (root / "anchor_set.json").write_text(json.dumps(manifest, indent=1))
    return manifest
