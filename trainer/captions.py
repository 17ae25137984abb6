"""Which caption belongs to which finetune image: by its place, else by its content."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from schemas.errors import BadSample, UserError
from shards.decoding import ordered_map
from shards.reader import RangeReader
from trainer.index import Anchors, ImageIndex


@dataclass(frozen=True)
class Captions:
    """Text-compensated anchors, joined to the finetune images.

    Attributes:
        anchors: all of the kind.
        row: int64 [images], the anchor of each finetune image; -1 if it has none.
        by_content: how many images were found by their bytes, not by their place.
    """

    anchors: Anchors
    row: NDArray[np.int64]
    by_content: int

    def matched(self) -> int:
        """Finetune images that have a caption."""
        return int((self.row >= 0).sum())

    def check(self, i: int, data: bytes) -> None:
        """Make sure that image i is the one its caption was made for.

        Raises:
            BadSample: ``caption_of_another_image``.
        """
        row = self.row[i]
        if row >= 0 and hashlib.sha256(data).digest() != self.anchors.sha256[row].tobytes():
            raise BadSample(
                "caption_of_another_image",
                f"its bytes are not those of anchor {self.anchors.keys[int(row)].as_py()}",
            )


def join_captions(index: ImageIndex, anchors: Anchors, *, where: str) -> Captions:
    """Find each finetune image's caption.

    First by (source, source_key): the file below the finetune root, and the key in it. If images
    and captions are left over then (another team may keep the same images elsewhere), the
    images left are read and hashed, and joined by ``image_sha256``.

    Args:
        index: the finetune images.
        anchors: of kind text-compensated.
        where: the anchor set, for errors.

    Raises:
        UserError: not one image has a caption.
    """
    row = _positions(_pair(index.sources(), index.keys), _pair(anchors.source, anchors.source_key))
    by_content = 0
    left = np.flatnonzero(row < 0)
    if len(left) and len(np.unique(row[row >= 0])) < len(anchors):
        digests = pa.array(_hash(index, left), pa.binary(32))
        known = pa.array([digest.tobytes() for digest in anchors.sha256], pa.binary(32))
        row[left] = _positions(digests, known)
        by_content = int((row[left] >= 0).sum())
    if not (row >= 0).any():
        raise UserError(
            f"none of the {len(index):,} finetune images has a caption in {where!r}, neither by "
            f"its place nor by its content; was the set made from other images?"
        )
    return Captions(anchors, row, by_content)


def _pair(left: pa.Array, right: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(left, right, pa.scalar("\0", pa.large_string()))


def _positions(wanted: pa.Array, known: pa.Array) -> NDArray[np.int64]:
    """Where each wanted value first stands in ``known``; -1 if nowhere."""
    found = pc.index_in(wanted, value_set=known).fill_null(-1)
    return np.array(found.to_numpy(zero_copy_only=False), np.int64)


def _hash(index: ImageIndex, which: NDArray[np.int64]) -> list[bytes | None]:
    """SHA-256 of images; None for one that cannot be read, which training will count."""
    with RangeReader() as reader:

        def digest(i: int) -> bytes | None:
            try:
                return hashlib.sha256(index.read(i, reader)).digest()
            except BadSample:
                return None

        # A RangeReader serves one thread; images that are files of their own do not need it.
        threads = 1 if (index.offset >= 0).any() else min(8, os.cpu_count() or 1)
        hashed = ordered_map(digest, which.tolist(), threads=threads, ahead=64)
        bar = tqdm(
            hashed,
            total=len(which),
            desc="finding captions by content",
            unit="image",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        return [result for _, result in bar]
