"""Image bytes to pixels, the same way for the captioner, the encoder and the trainer."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from schemas.errors import BadSample
from shards.jpeg import decode_jpeg

Decoder = Literal["pil", "simplejpeg"]

MAX_PIXELS = 64_000_000
"""Larger images are refused before any pixel is decoded: a few bytes can claim gigabytes.

At the limit a decoder's buffers and the image itself stay below 800 MB.
"""

MAX_ASPECT = 100
"""Longer strips are refused: resized by its shorter side, one would fill gigabytes."""

# PIL warns of large images and odd EXIF data; what matters of that is an error below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Here, and not in whichever thread meets the first image: a thread that waits for an import while
# Ctrl-C is handled can keep the process from ending.
Image.init()

# What PIL may look at; the last are only there to be named as what they are. Others of its parsers
# are old, seldom used, and nothing that a stranger's bytes should reach.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_BAND = 256  # rows that are converted at once

# PIL's format to the member's extension; MPO is what phones call a JPEG with a second picture.
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class ImageInfo:
    """What an image's header says: file extension, width and height in pixels as stored."""

    ext: str
    width: int
    height: int


def decode_image(
    data: bytes, *, decoder: Decoder = "pil", least: int | None = None
) -> tuple[Image.Image, ImageInfo]:
    """Decode to an upright RGB image (EXIF orientation applied; CMYK, grey, palette converted).

    What is transparent becomes white.

    Args:
        data: of a JPEG, PNG or WebP.
        decoder: of JPEGs; see shards.jpeg for the one that is not PIL's.
        least: let a JPEG be halved while it is decoded, up to three times, as long as both sides
            keep so many pixels; that is faster, and not quite the same as resizing.

    Returns:
        The image (mode RGB, 8 bits a channel) and its header.

    Raises:
        BadSample: ``empty_file``, ``not_an_image``, ``unsupported_format``, ``too_many_pixels``,
            ``too_elongated``, ``truncated_image`` or ``corrupt_image``.
    """
    if not data:
        raise BadSample("empty_file", "no bytes")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        info = _header(image)
        if least is not None:
            image.draft(None, (least, least))  # of formats other than JPEG, nothing happens
        fast = decode_jpeg(image, data) if decoder == "simplejpeg" else None
        if fast is None:
            image.load()
        else:
            image = fast
        image = ImageOps.exif_transpose(image)
        return _to_rgb(image), info
    except BadSample:
        raise
    except UnidentifiedImageError:
        raise BadSample("not_an_image", "no image format was recognised") from None
    except Image.DecompressionBombError as error:
        raise BadSample("too_many_pixels", str(error)) from None
    except OSError as error:
        truncated = "truncated" in str(error) or "unexpected end" in str(error).lower()
        reason = "truncated_image" if truncated else "corrupt_image"
        raise BadSample(reason, str(error)) from None
    except Exception as error:  # PIL's decoders raise whatever a broken file drives them to
        raise BadSample("corrupt_image", f"{type(error).__name__}: {error}") from None


def _header(image: Image.Image) -> ImageInfo:
    width, height = image.size
    if image.format not in _EXTENSIONS:
        raise BadSample("unsupported_format", f"{image.format} is not one of JPEG, PNG, WebP")
    if width * height > MAX_PIXELS:
        raise BadSample("too_many_pixels", f"{width} x {height} is over {MAX_PIXELS:,} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSample("too_elongated", f"{width} x {height} is longer than {MAX_ASPECT} to 1")
    return ImageInfo(_EXTENSIONS[image.format], width, height)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, _BAND):  # in one piece, some modes take five copies
        band = image.crop((0, top, image.width, min(top + _BAND, image.height)))
        whole.paste(_band_to_rgb(band), (0, top))
    return whole


def _band_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: PIL's conversion would clip, not scale
        return image.point(lambda value: value / 256).convert("L").convert("RGB")
    if image.mode in ("P", "PA", "LA", "RGBA") or "transparency" in image.info:
        # Over white, since the colour under transparent pixels is whatever an editor left there.
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
