"""Thumbnails of anchors as data URIs: small, made in threads, in bounded memory."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image
from tqdm import tqdm

from schemas.errors import BadSample
from shards.decoding import ordered_map
from shards.images import decode_image
from shards.reader import RangeReader, read_image

_TYPES = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp"}
_LARGE = 16_000_000
_THREADS = min(os.cpu_count() or 1, 16)

_one_large = threading.Lock()


@dataclass(frozen=True)
class Size:
    """How small: ``side`` in pixels; an image of up to ``as_it_is`` bytes is its own thumbnail."""

    side: int
    as_it_is: int


FEW, MANY = Size(176, 4096), Size(112, 2048)


def size_for(number: int) -> Size:
    """Sharp ones for a page of some hundreds, light ones for a page of thousands."""
    return FEW if number <= 1500 else MANY


Row = dict[str, Any]


def thumbnails(
    rows: Iterable[tuple[str, Row]], size: Size, total: int
) -> Iterator[tuple[Row, str | BadSample]]:
    """Each row with a data URI, in order, or with the reason why there is none.

    Args:
        rows: tars, and rows of the parquets beside them.
        size: of the thumbnails.
        total: how many rows, for the progress line.
    """

    def work(item: tuple[Row, bytes | BadSample]) -> str | BadSample:
        data = item[1]
        if isinstance(data, BadSample):
            return data
        try:
            return thumbnail(data, size)
        except BadSample as problem:
            return problem

    bar = tqdm(total=total, desc="thumbnails", unit="image", leave=False, disable=None)
    with RangeReader() as reader, bar:
        images = ((row, _read(reader, place, row)) for place, row in rows)
        for (row, _), found in ordered_map(work, images, threads=_THREADS, ahead=4 * _THREADS):
            bar.update()
            yield row, found


def _read(reader: RangeReader, place: str, row: Row) -> bytes | BadSample:
    try:
        return read_image(reader, place, row) or BadSample("not_in_the_set")
    except BadSample as problem:
        return problem


def thumbnail(data: bytes, size: Size = FEW) -> str:
    """An image as a small data URI.

    Raises:
        BadSample: it does not decode.
    """
    if _pixels(data) > _LARGE:
        with _one_large:  # a hundred megapixels take half a gigabyte: not in every thread at once
            return _thumbnail(data, size)
    return _thumbnail(data, size)


def _thumbnail(data: bytes, size: Size) -> str:
    image, info = decode_image(data)
    ext = info.ext
    if len(data) > size.as_it_is:
        image.thumbnail((size.side, size.side), reducing_gap=2.0)
        out = io.BytesIO()
        image.save(out, "WEBP", quality=60, method=3)
        data, ext = out.getvalue(), "webp"
    return f"data:image/{_TYPES[ext]};base64,{base64.b64encode(data).decode()}"


def _pixels(data: bytes) -> int:
    """By the header alone; 0 where it cannot be read, which decoding will tell of."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height
    except Exception:  # whatever a broken file drives PIL to
        return 0
