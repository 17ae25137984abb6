"""Copies of pictures, as a pool has them: re-encoded, resized, mirrored, slightly cropped."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageOps

from benchmarks.made import photograph
from toyworld.render import render
from toyworld.scene import Scene, draw_scene

KINDS = (
    ("re-encoded",),
    ("resized",),
    ("mirrored",),
    ("cropped",),
    ("resized", "mirrored"),
    ("cropped", "mirrored"),
    ("cropped", "resized"),
    ("cropped", "resized", "mirrored"),
)
"""Every copy is re-encoded, at a JPEG quality of 40 to 94."""

CROP = 0.08
"""Most that a crop takes from each edge; shares are drawn apart, so the aspect changes too."""
SIZES = (0.5, 1.5)
"""Of a resized copy's side, as a share of the original's."""
SIMILAR = ("name", "colour", "background")
TWIN = ("name", "colour", "background", "domain", "position", "size", "texture")


def copy_of(image: Image.Image, kind: tuple[str, ...], rng: np.random.Generator) -> bytes:
    """A copy's JPEG."""
    if "cropped" in kind:
        left, right = rng.uniform(0, CROP, 2) * image.width
        top, bottom = rng.uniform(0, CROP, 2) * image.height
        box = (left, top, image.width - right, image.height - bottom)
        image = image.crop(tuple(round(edge) for edge in box))  # type: ignore[arg-type]
    if "resized" in kind:
        share = rng.uniform(*SIZES)
        size = (round(image.width * share), round(image.height * share))
        image = image.resize(size, Image.Resampling.BICUBIC)
    if "mirrored" in kind:
        image = ImageOps.mirror(image)
    return _jpeg(image, int(rng.integers(40, 95)))


def scenes(number: int, seed: int) -> list[Scene]:
    """Scenes of the toy world, of all classes and domains."""
    rng = np.random.default_rng([seed, 31])
    return [draw_scene(rng) for _ in range(number)]


def others_like(scene: Scene, shared: tuple[str, ...], rng: np.random.Generator) -> Scene:
    """Another scene that has some factors in common with this one."""
    return replace(draw_scene(rng), **{name: getattr(scene, name) for name in shared})


def pictured(scene: Scene) -> bytes:
    """The scene's JPEG."""
    return _jpeg(render(scene), 90)


def photographs(number: int, side: int, first: int = 0) -> list[bytes]:
    """Pictures with the spectrum of photographs, each of noise of its own."""
    return [photograph(first + i, side, bases=1 << 30) for i in range(number)]


def _jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()
