"""Texts that say nothing of an image: file names, camera counters, addresses, placeholders."""

from __future__ import annotations

import html
import re

_FILE = re.compile(
    r"\S*[^\s.]\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif|jfif|pdf|mp4|mov|html?|php|aspx?)"
    r"(?:\?\S*)?",
    re.IGNORECASE,
)
# IMG_1234, DSC0001, DSCN1234, P1010001, 100_0001, _MG_1234, PXL_20230401_101112345, WhatsApp's
_CAMERA = re.compile(
    r"[_(]?(?:IMG|DSC[FNP]?|DCIM|MG|PXL|SAM|CIMG|PICT|PIC|IMAG|HPIM|GOPR|DJI|VID|MOV|WP|SNAP|"
    r"P10[0-9]|IMAGE|PHOTO|PICTURE|SCAN|SCREENSHOT|BILD|FOTO|UNNAMED|FULLSIZERENDER)"
    r"(?:[-_ .()#:]*(?:[0-9]+|WA[0-9]+|E[0-9]+|COPY|EDIT|AT|[AP]M))*[-_ .()]*",
    re.IGNORECASE,
)
_URL = re.compile(
    r"(?:https?:?//|www\.)\S+|[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|net|org|io|co)(?:/\S*)?",
    re.IGNORECASE,
)
_UUID = re.compile(r"\{?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\}?", re.IGNORECASE)
_HEX = re.compile(r"(?:0x)?(?=[0-9a-f]*[0-9])[0-9a-f]{8,}", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:a|b|br|div|em|font|h[1-6]|hr|i|img|li|p|script|span|strong|style|table|td|tr|u|ul)"
    r"\b[^<>]*/?>",
    re.IGNORECASE,
)
_NUMBERS = re.compile(r"[\s_#(-]*[0-9]+(?:\s*(?:of|/)\s*[0-9]+)?\)?$")  # image 3 of 5, untitled-12
_PLACEHOLDERS = {
    *("image", "images", "img", "photo", "photos", "picture", "pictures", "pic", "foto", "bild"),
    *("untitled", "no title", "no caption", "no description", "no alt text", "alt text", "alt"),
    *("unnamed", "unknown", "none", "null", "nan", "undefined", "n/a", "na", "title", "caption"),
    *("default", "placeholder", "thumbnail", "thumb", "icon", "logo", "banner", "avatar", "file"),
    *("image not available", "image not found", "no image", "no image available", "loading"),
    *("click here", "click to enlarge", "read more", "enlarge", "share", "download", "slide"),
    *("image may contain", "featured image", "product image", "main image", "post image"),
}


def boilerplate(text: str) -> str | None:
    """What kind of boilerplate the text is, or None where it may say something.

    It has to be nothing else: a text that merely mentions a file or an address is none, however
    dull. Tags of HTML are an exception, since what is left between them is seldom a sentence.

    Args:
        text: on one line, as by texts.clean_text.
    """
    if _TAG.search(text):
        return "html"
    bare = html.unescape(text).strip(" \t.,;:!?'\"*#|/\\-–—_()[]<>")
    if not any(character.isalpha() for character in bare):
        return "no letters"
    words = bare.split()
    for kind, pattern in (("address", _URL), ("file name", _FILE), ("identifier", _UUID)):
        if all(pattern.fullmatch(word) for word in words):
            return kind
    if _CAMERA.fullmatch(bare) and any(character.isdigit() for character in bare):
        return "camera counter"
    if _NUMBERS.sub("", bare.casefold()) in _PLACEHOLDERS:
        return "placeholder"
    if all(_HEX.fullmatch(word) for word in words):
        return "identifier"
    # "Summer holiday 2014.jpg" is a file's name too, but one that says something: see the words.
    if _FILE.fullmatch(words[-1]) and not _says_something(bare):
        return "file name"
    return None


def _says_something(name: str) -> bool:
    """True if a file's name with blanks holds a word besides counters and sizes."""
    stem = name.rsplit(".", 1)[0]
    words = re.split(r"[\s_.-]+", stem)
    return any(re.fullmatch(r"[^\W\d]{3,}", word) and not _CAMERA.fullmatch(word) for word in words)
