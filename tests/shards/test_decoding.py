"""Pixels: every mode that cameras, scanners and editors write comes out as upright RGB."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from tiny_data import encoded, jpeg, picture

from schemas.errors import BadSample
from shards.decoding import Tally, decoded_batches, ordered_map
from shards.images import decode_image
from shards.sources.base import Sample


def grey(array: np.ndarray) -> list[int]:
    return np.unique(array).tolist()


def test_jpegs_and_pngs_and_webps() -> None:
    for format, ext in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
        image, info = decode_image(encoded(picture(1), format))
        assert (image.mode, image.size) == ("RGB", (40, 32))
        assert (info.ext, info.width, info.height) == (ext, 40, 32)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1"])
def test_other_modes_keep_their_looks(mode: str) -> None:
    solid = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    image, _ = decode_image(encoded(solid, "PNG" if mode == "1" else "JPEG"))
    assert image.mode == "RGB"
    assert np.asarray(image).min() >= 250


def test_what_is_transparent_becomes_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("LA", (4, 4), (0, 128))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0] * 256)
    out = io.BytesIO()
    palette.save(out, "PNG", transparency=0)
    assert grey(np.asarray(decode_image(encoded(clear, "PNG"))[0])) == [255]
    assert grey(np.asarray(decode_image(encoded(half, "PNG"))[0])) == [127]
    assert grey(np.asarray(decode_image(out.getvalue())[0])) == [255]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = Image.fromarray(np.array([[0, 128 * 256, 255 * 256]], np.uint16))
    pixels = np.asarray(decode_image(encoded(ramp, "PNG"))[0])
    assert pixels[0, :, 0].tolist() == [0, 128, 255]


def test_a_turned_photograph_comes_out_upright() -> None:
    wide = Image.new("RGB", (20, 10), (0, 0, 0))
    wide.paste((255, 255, 255), (0, 0, 10, 10))  # the left half is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: left becomes top
    image, info = decode_image(encoded(wide, exif=exif))
    assert image.size == (10, 20)
    assert (info.width, info.height) == (20, 10)
    assert np.asarray(image)[:8].mean() > 200 > 50 > np.asarray(image)[12:].mean()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"<html>404</html>", "not_an_image"),
        (jpeg(1)[:-400], "truncated_image"),
        (jpeg(1)[:30], "corrupt_image"),
        (encoded(picture(1), "PNG")[:900], "truncated_image"),
        (encoded(picture(1), "GIF"), "unsupported_format"),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "too_many_pixels"),
        (encoded(Image.new("1", (11_000, 10_000)), "PNG"), "too_many_pixels"),
        (encoded(Image.new("L", (2, 2000)), "PNG"), "too_elongated"),
    ],
)
def test_what_cannot_be_used_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadSample) as caught:
        decode_image(data)
    assert caught.value.reason == reason


def test_batches_keep_the_order_and_count_the_bad() -> None:
    def samples() -> Iterator[Sample]:
        for i in range(10):
            yield Sample("d", str(i), None, 1, b"bad" if i in (3, 9) else jpeg(i))

    tally = Tally()
    batches = list(decoded_batches(samples(), lambda i: i.size, tally, batch=3, threads=3))
    keys = [[item.sample.source_key for item in batch] for batch in batches]
    assert keys == [["0", "1", "2"], ["4", "5", "6"], ["7", "8"]]
    assert batches[0][0].prepared == (40, 32)
    assert batches[0][0].sample.image == b"", "bytes are let go once they are decoded"
    tally.kept = 8
    counts = tally.counts()
    assert (counts.read, counts.dropped) == (10, {"not_an_image": 2})
    assert tally.examples[0][:2] == ("3", "not_an_image")


def test_without_overlap_nothing_is_decoded_while_the_caller_works() -> None:
    started = 0

    def prepare(image: Image.Image) -> int:
        nonlocal started
        started += 1
        return image.width

    def samples() -> Iterator[Sample]:
        for i in range(11):
            yield Sample("d", str(i), None, 1, b"bad" if i == 2 else jpeg(i))

    tally, seen = Tally(), []
    for batch in decoded_batches(samples(), prepare, tally, batch=4, threads=3, overlap=False):
        seen.append([item.sample.source_key for item in batch])
        before = started
        time.sleep(0.02)
        assert started == before
    assert seen == [["0", "1", "3", "4"], ["5", "6", "7", "8"], ["9", "10"]]
    assert tally.dropped == {"not_an_image": 1}


def test_ordered_map_is_in_order_and_reads_no_further_than_told() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(100):
            taken += 1
            yield i

    def slow(i: int) -> int:
        time.sleep(0.002 if i % 3 == 0 else 0)
        return i * i

    results = ordered_map(slow, items(), threads=4, ahead=10)
    assert next(results) == (0, 0)
    assert taken <= 10
    assert list(results) == [(i, i * i) for i in range(1, 100)]


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def broken(i: int) -> int:
        raise ArithmeticError(f"at {i} in {threading.current_thread().name}")

    with pytest.raises(ArithmeticError, match="at 0"):
        list(ordered_map(broken, range(5), threads=2, ahead=2))
