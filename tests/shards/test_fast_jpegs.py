"""Either decoder gives the same pixels, and the same reason for what cannot be used."""

from __future__ import annotations

import builtins
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_data import encoded, picture

from schemas.errors import BadSample, UserError
from shards.images import ImageInfo, decode_image
from shards.jpeg import check_installed, decode_jpeg

pytest.importorskip("simplejpeg")


def seen(data: bytes, decoder: Any, least: int | None) -> tuple[str, ImageInfo, bytes] | str:
    """Mode, header and pixels; or why there are none."""
    try:
        image, info = decode_image(data, decoder=decoder, least=least)
    except BadSample as problem:
        return problem.reason
    return f"{image.mode} {image.size}", info, image.tobytes()


pictures = st.builds(
    lambda seed, width, height: picture(seed).resize((width, height), Image.Resampling.BICUBIC),
    st.integers(0, 99),
    st.integers(1, 90),
    st.integers(1, 90),
)


@st.composite
def jpegs(draw: st.DrawFn) -> bytes:
    """All that cameras and editors write."""
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(0, 9))  # 1 to 8 are ways to turn it
    image = draw(pictures).convert(draw(st.sampled_from(["RGB", "L", "CMYK"])))
    out = io.BytesIO()
    image.save(
        out,
        "JPEG",
        quality=draw(st.integers(1, 100)),
        subsampling=draw(st.integers(0, 2)),
        progressive=draw(st.booleans()),
        exif=exif,
    )
    return out.getvalue()


@settings(max_examples=150, deadline=None)
@given(data=jpegs(), least=st.none() | st.integers(1, 50))
def test_sound_jpegs_have_the_same_pixels(data: bytes, least: int | None) -> None:
    found = seen(data, "simplejpeg", least)
    assert found == seen(data, "pil", least)
    assert isinstance(found, tuple)


@settings(max_examples=150, deadline=None)
@given(data=jpegs(), where=st.floats(0, 1), cut=st.integers(0, 300), put=st.binary(max_size=20))
def test_damaged_jpegs_have_the_same_end(data: bytes, where: float, cut: int, put: bytes) -> None:
    at = int(where * len(data))
    damaged = data[:at] + put + data[at + cut :]
    assert seen(damaged, "simplejpeg", None) == seen(damaged, "pil", None)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF"])
def test_other_formats_are_left_to_pil(format: str) -> None:
    data = encoded(picture(1), format)
    assert seen(data, "simplejpeg", None) == seen(data, "pil", None)
    assert decode_jpeg(Image.open(io.BytesIO(data)), data) is None


def test_a_plain_jpeg_is_not_left_to_pil() -> None:
    data = encoded(picture(1), "JPEG")
    assert decode_jpeg(Image.open(io.BytesIO(data)), data) is not None


@pytest.mark.parametrize(
    ("size", "least", "wanted"),
    [
        ((80, 60), None, (80, 60)),
        ((80, 60), 31, (80, 60)),
        ((80, 60), 30, (40, 30)),
        ((81, 61), 30, (41, 31)),
        ((80, 60), 8, (20, 15)),
        ((80, 64), 1, (10, 8)),
    ],
)
def test_a_jpeg_is_halved_as_long_as_both_sides_keep_enough(
    size: tuple[int, int], least: int | None, wanted: tuple[int, int]
) -> None:
    smooth = Image.linear_gradient("L").resize(size).convert("RGB")
    for decoder in ("pil", "simplejpeg"):
        image, info = decode_image(encoded(smooth, quality=95), decoder=decoder, least=least)  # type: ignore[arg-type]
        assert image.size == wanted
        assert (info.width, info.height) == size, "the header is that of the file"
        off = np.asarray(image, float) - np.asarray(smooth.resize(wanted, Image.Resampling.BOX))
        assert np.abs(off).mean() < 3
    assert decode_image(encoded(smooth, "PNG"), least=least)[0].size == size


def test_without_the_package_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "simplejpeg":
            raise ModuleNotFoundError("No module named 'simplejpeg'")
        return real(name, *rest)

    check_installed()
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"simplejpeg cannot be imported .*anchorft\[jpeg\]"):
        check_installed()
