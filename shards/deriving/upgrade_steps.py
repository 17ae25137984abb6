"""Older versions of the format, each with the step to the next; docs/format.md has the layouts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schemas.record import IMAGE_EXTENSIONS, TEXT_COMPENSATED, anchor_key
from shards.tars import TarSample

Body = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """From one version of the format to the next.

    Attributes:
        source, target: the versions.
        manifest: takes the manifest's body to the next version. A body for FORMAT_VERSION has
            ``name``, ``digest``, ``classes``, ``provenance``, and ``shards`` with ``path``,
            ``sha256``, ``kind`` and ``samples`` of each tar; the rest is made new.
        record: takes the body of ``KEY.json`` to the next version; it is given the sample too.

    The functions may raise KeyError, TypeError or ValueError on what is not of their version.
    """

    source: str
    target: str
    manifest: Callable[[Body], Body]
    record: Callable[[Body, TarSample], Body]


def _manifest_0_9(body: Body) -> Body:
    """0.9 kept classes as a map, no sizes, no seal, and a digest over tars and parquets."""
    shards = body["shards"]
    files = [(s[name], s[f"{name}_sha256"]) for s in shards for name in ("tar", "parquet")]
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(files))
    if hashlib.sha256(lines.encode()).hexdigest() != body["digest"]:
        raise ValueError("its digest does not follow from its shards")
    classes = sorted(body["classes"], key=body["classes"].__getitem__)
    if [body["classes"][name] for name in classes] != list(range(len(classes))):
        raise ValueError("its classes are not numbered from 0 on")
    return {
        "name": body["name"],
        "digest": body["digest"],
        "classes": classes,
        "provenance": body.get("provenance", {}),
        "shards": [
            {
                "path": shard["tar"],
                "sha256": shard["tar_sha256"],
                "kind": shard["kind"],
                "samples": shard["count"],
            }
            for shard in shards
        ],
    }


def _record_0_9(body: Body, sample: TarSample) -> Body:
    """0.9 numbered its keys, named fields otherwise, and did not say what the image is."""
    record = dict(body)
    captions = record.pop("captions")
    origin = record.pop("origin")
    classes = record.pop("classes", [])
    record |= {
        "text": captions[0],
        "texts": captions if len(captions) > 1 else [],
        "source": origin["file"],
        "source_key": origin["key"],
        "image_ext": record.get("image_ext") or _image_ext(sample),
        "query_classes": [] if record["kind"] == TEXT_COMPENSATED else sorted(classes),
    }
    if "similarity_score" in record:
        record["score"] = record.pop("similarity_score")
    record["key"] = anchor_key(
        record["kind"], record["image_sha256"], record["source"], record["source_key"]
    )
    return record


def _image_ext(sample: TarSample) -> str:
    return next(ext for ext in IMAGE_EXTENSIONS if ext in sample.fields)


STEPS = (
    Step("0.9", "1.0", _manifest_0_9, _record_0_9),
    # 1.1 has one more field, which may be absent: what follows from it is made new anyway.
    Step("1.0", "1.1", lambda body: body, lambda body, sample: body),
)
