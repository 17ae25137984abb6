"""The trainer's index of a set whose parquet was made to hurt, with digests that fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from malicious import changed_rows, with_parquet

from schemas.errors import BadSample, UserError
from schemas.record import TEXT_COMPENSATED
from shards.reader import AnchorSet, RangeReader
from trainer.index import index_anchors


@pytest.mark.parametrize(
    ("offset", "size"), [(-5, 100), ((1 << 63) - 1, 100), (0, 1 << 59), (0, -1), (512, 1 << 40)]
)
def test_ranges_outside_of_the_tar_are_bad_samples(tmp_path: Path, offset: int, size: int) -> None:
    data = changed_rows(tmp_path, image_offset=offset, image_size=size)
    root = with_parquet(tmp_path, data).commands[0][1]
    index = index_anchors(AnchorSet.open(root), TEXT_COMPENSATED)
    with RangeReader() as reader, pytest.raises(BadSample, match="bad_range"):
        index.read(0, reader)


def test_a_hash_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    data = changed_rows(tmp_path, image_sha256="zz")
    root = with_parquet(tmp_path, data).commands[0][1]
    with pytest.raises(UserError, match="image_sha256 that is none"):
        index_anchors(AnchorSet.open(root), TEXT_COMPENSATED)
