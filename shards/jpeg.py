"""JPEGs by simplejpeg, which hands out what libjpeg-turbo decodes without a detour through lines.

It takes the plain ones only: what it does not take, or finds fault with, is PIL's to decode or to
refuse, so images and reasons are the same with either.
"""

from __future__ import annotations

from PIL import Image

from schemas.errors import UserError

PACKAGE = "simplejpeg"


def check_installed() -> None:
    """Make sure that the package is there.

    Raises:
        UserError: it is not.
    """
    try:
        import simplejpeg  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{PACKAGE} cannot be imported ({error}); install it (pip install 'anchorft[jpeg]'), "
            f"or decode with pil."
        ) from None


def decode_jpeg(opened: Image.Image, data: bytes) -> Image.Image | None:
    """Decode what PIL has opened and checked, but not loaded.

    Args:
        opened: its header; ``draft`` may have asked for a smaller size.
        data: all bytes of the image.

    Returns:
        The RGB image with the header's metadata, not turned yet; None if PIL should do it.
    """
    if opened.format not in ("JPEG", "MPO") or opened.mode not in ("RGB", "L"):
        return None
    import simplejpeg  # as late as this: it is an extra

    width, height = opened.size
    try:
        # The least size that it may have is the size that it gets: PIL's is a power of two.
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except ValueError:
        return None
    if pixels.shape[:2] != (height, width):
        return None
    image = Image.fromarray(pixels)
    image.info = dict(opened.info)  # EXIF and XMP say which way is up
    return image
