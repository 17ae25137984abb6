"""Embeddings to measure with: clustered as those of photographs are, and laid out as parts."""

from __future__ import annotations

import argparse

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.embedding.embed import POOL, write_array
from pipelines.parts import Part, array_place, fingerprint, write_part
from pipelines.selection import options as selection
from pipelines.selection.options import ScreenConfig
from pipelines.selection.screen import STAGE as SCREEN
from schemas.manifest import Counts
from schemas.tables import EMBEDDING_METADATA, SCREENED

_AT_ONCE = 100_000


def clustered(
    number: int, dimension: int, *, seed: int, clusters: int = 2000, spread: float = 0.7
) -> NDArray[np.float32]:
    """Float16 values of unit length, [N, D], around centres that are the same for every seed.

    Args:
        number: of rows.
        dimension: of each.
        seed: of the rows.
        clusters: how many; their sizes differ as those of words do (the n-th is 1/n as large).
        spread: length of what a row has of its own, beside its centre's length of 1.
    """
    centres = np.random.default_rng(0).standard_normal((clusters, dimension)).astype(np.float32)
    weights = 1 / np.arange(10, clusters + 10)
    rng = np.random.default_rng((1, seed))
    out = np.empty((number, dimension), np.float32)
    for start in range(0, number, _AT_ONCE):
        size = min(_AT_ONCE, number - start)
        which = rng.choice(clusters, size, p=weights / weights.sum())
        own = rng.standard_normal((size, dimension), dtype=np.float32)
        rows = centres[which] + spread * own
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        out[start : start + size] = rows.astype(np.float16)
    return out


def write_embeddings(
    work: str,
    stage: str,
    vectors: NDArray[np.float32],
    per_part: int,
    screened: NDArray[np.bool_] | None = None,
) -> tuple[list[Part], list[Part]]:
    """Write parts as the embed and, for a pool, the screen stage do; returns both.

    Args:
        work: the work folder.
        stage: embed.FINETUNE or embed.POOL.
        vectors: [N, D].
        per_part: rows in a part.
        screened: True for rows that are searched (default: all).
    """
    parts: list[Part] = []
    kept_parts: list[Part] = []
    for number, start in enumerate(range(0, len(vectors), per_part)):
        rows = vectors[start : start + per_part].astype(np.float16)
        digest = write_array(array_place(work, stage, number), rows)
        name = f"{number:05d}.tar"
        extra = {"npy_sha256": digest, "dimension": rows.shape[1], "options": {}}
        counts = Counts(read=len(rows), kept=len(rows))
        model = {"name": "none", "weights_sha256": "0" * 64}
        made = Part(stage, number, name, len(rows), digest, digest, counts, model, [], extra)
        parts.append(write_part(work, made, metadata(name, len(rows))))
        wanted = np.ones(len(rows), bool) if screened is None else screened[start:][: len(rows)]
        kept = np.flatnonzero(wanted).astype(np.int32)
        about = {"options": {}, "rows": fingerprint(kept.tolist())}
        judged = Part(SCREEN, number, name, len(kept), digest, digest, counts, None, [], about)
        if stage == POOL:
            write_part(work, judged, pa.table({"row": kept}, schema=SCREENED))
            kept_parts.append(judged)
    return parts, kept_parts


def no_screen() -> ScreenConfig:
    """The options' defaults; what they would leave is given by the parts here."""
    options = argparse.ArgumentParser()
    selection.add_options(options)
    return selection.resolve_screen(options.parse_args([]))


def metadata(name: str, rows: int) -> pa.Table:
    columns = {
        "image_path": [f"{name}#{row}" for row in range(rows)],
        "source": [name] * rows,
        "source_key": [str(row) for row in range(rows)],
        "size": [1] * rows,
        "image_sha256": ["0" * 64] * rows,
        "image_ext": ["jpg"] * rows,
        "width": [1] * rows,
        "height": [1] * rows,
        "class_name": [f"class {row % 10}" for row in range(rows)],
    }
    empty = {
        field.name: pa.nulls(rows, field.type)
        for field in EMBEDDING_METADATA
        if field.name not in columns
    }
    return pa.table(columns | empty, schema=EMBEDDING_METADATA)
