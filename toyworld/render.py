"""A scene to pixels, in the manner of its domain."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from toyworld.scene import Scene
from toyworld.shapes import SHAPES, Pen, Point
from toyworld.vocabulary import COLOURS, POSITIONS, SIZES

SIDE = 64
"""Pixels of a picture's side."""
_OVERSAMPLE = 2

Pixels = NDArray[Any]  # float32 or float64, 0 to 255 or 0 to 1

_BASES: dict[str, tuple[int, int, int]] = {
    "grass": (95, 140, 70),
    "sand": (215, 190, 140),
    "water": (80, 140, 190),
    "snow": (226, 232, 240),
    "wood": (140, 95, 55),
    "night": (28, 30, 58),
}


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB image of SIDE x SIDE pixels; the same scene gives the same pixels."""
    rng = np.random.default_rng(scene.seed)
    mask = _object_mask(scene, rng)
    pixels = _STYLES[scene.domain](scene, mask, rng)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encode_jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _object_mask(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Coverage of each pixel by the object, 0 to 255."""
    side = SIDE * _OVERSAMPLE
    extent = SIZES[scene.size] * side * rng.uniform(0.92, 1.08)
    angle = math.radians(rng.normal(0, 7))
    stretch = rng.uniform(0.88, 1.14)
    room = (side - extent) / 2
    dx, dy = POSITIONS[scene.position]
    cx = side / 2 + dx * room * 0.75 + rng.uniform(-0.03, 0.03) * side
    cy = side / 2 + dy * room * 0.75 + rng.uniform(-0.03, 0.03) * side
    cos, sin = math.cos(angle) * extent, math.sin(angle) * extent

    def place(point: Point) -> Point:
        x, y = (point[0] - 0.5) * stretch, (point[1] - 0.5) / stretch
        return (cx + x * cos - y * sin, cy + x * sin + y * cos)

    pen = Pen(side, place)
    SHAPES[scene.name](pen)
    return pen.mask.resize((SIDE, SIDE), Image.Resampling.BOX)


def _smooth_noise(rng: np.random.Generator, cells: int, channels: int = 1) -> Pixels:
    """Noise of ``cells`` x ``cells`` grain, about -1 to 1, [SIDE, SIDE, channels]."""
    grid = rng.uniform(-1, 1, (channels, cells, cells)).astype(np.float32)
    planes = [
        np.asarray(Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for plane in grid
    ]
    return np.stack(planes, axis=2)


_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE


def _background(name: str, rng: np.random.Generator, strength: float) -> Pixels:
    """A background with its texture; ``strength`` 0 leaves the flat colour."""
    flat = np.full((SIDE, SIDE, 3), _BASES[name], np.float32)
    if not strength:
        return flat
    flat = flat + rng.normal(0, 8, 3).astype(np.float32)
    texture = _smooth_noise(rng, 5) * 22
    grain = rng.normal(0, 1, (SIDE, SIDE, 1)).astype(np.float32)
    if name == "grass":
        blades = rng.normal(0, 1, (1, SIDE, 1)).astype(np.float32)
        texture = texture + blades * 12 + grain * 10
    elif name == "sand":
        texture = texture * 0.6 + grain * 12
    elif name == "water":
        phase = rng.uniform(0, 6.28)
        waves = np.sin(_Y * rng.uniform(40, 60) + np.sin(_X * 9 + phase) * 1.5 + phase)
        texture = texture + waves[..., None] * 14
    elif name == "snow":
        texture = texture * 0.4 + (grain > 2.2) * 14 + grain * 3
    elif name == "wood":
        rings = np.sin(_X * rng.uniform(50, 80) + _smooth_noise(rng, 4)[..., 0] * 5)
        texture = texture * 0.5 + rings[..., None] * 12
    else:
        texture = texture * 0.6 + (grain > 2.7) * 170
    return np.asarray(flat + texture * np.float32(strength), np.float32)


def _paint(scene: Scene, rng: np.random.Generator, jitter: float) -> Pixels:
    """The object's own colour with its texture, before light and style."""
    colour = np.asarray(COLOURS[scene.colour], np.float32) + rng.normal(0, jitter, 3)
    surface = np.broadcast_to(colour.astype(np.float32), (SIDE, SIDE, 3))
    if scene.texture == "plain":
        return surface
    if scene.texture == "striped":
        direction = rng.uniform(0, math.pi)
        along = _X * math.cos(direction) + _Y * math.sin(direction)
        marks = np.sin(along * 55 + rng.uniform(0, 6.28)) > 0.15
    else:
        marks = (np.sin(_X * 50 + rng.uniform(0, 6.28)) > 0.35) & (
            np.sin(_Y * 50 + rng.uniform(0, 6.28)) > 0.35
        )
    second = colour * 0.45 if colour.mean() > 130 else colour * 0.5 + 120
    return np.where(marks[..., None], second.astype(np.float32), surface)


def _alpha(mask: Image.Image) -> Pixels:
    return (np.asarray(mask, np.float32) / 255)[..., None]


def _photo(scene: Scene, mask: Image.Image, rng: np.random.Generator) -> Pixels:
    alpha = _alpha(mask)
    ground = _background(scene.background, rng, 1.0)
    shadow = mask.transform(mask.size, Image.Transform.AFFINE, (1, 0, -2, 0, 1, -2))
    ground = ground * (1 - 0.45 * _alpha(shadow.filter(ImageFilter.BoxBlur(1.5))))
    angle = rng.uniform(0, 6.28)
    light = 1 + 0.28 * ((_X - 0.5) * math.cos(angle) + (_Y - 0.5) * math.sin(angle))
    thickness = _alpha(mask.filter(ImageFilter.BoxBlur(3)))
    surface = _paint(scene, rng, 12) * light[..., None] * (0.72 + 0.32 * thickness)
    picture = ground * (1 - alpha) + surface * alpha
    picture = picture * rng.uniform(0.85, 1.12) + rng.normal(0, 4, picture.shape)
    return np.asarray(picture, np.float32)


def _sketch(scene: Scene, mask: Image.Image, rng: np.random.Generator) -> Pixels:
    wide = 3 if rng.random() < 0.6 else 5
    outline = _alpha(mask.filter(ImageFilter.MaxFilter(wide))) - _alpha(
        mask.filter(ImageFilter.MinFilter(3))
    )
    paper = 238 + _smooth_noise(rng, 8) * 6 + rng.normal(0, 3, (SIDE, SIDE, 1))
    pressure = 0.8 + 0.2 * _smooth_noise(rng, 10)
    ink = np.clip(outline, 0, 1) * pressure
    hatch = (np.sin((_X + _Y) * rng.uniform(60, 90)) > 0.55)[..., None]
    ink = np.maximum(ink, _alpha(mask) * hatch * rng.uniform(0.1, 0.4))
    if scene.texture != "plain":
        bare = _paint(scene, rng, 0).mean(axis=2, keepdims=True)
        ink = np.maximum(ink, _alpha(mask) * (np.abs(bare - bare.max()) > 5) * 0.45)
    return np.repeat(paper - ink * 185, 3, axis=2).astype(np.float32)


def _cartoon(scene: Scene, mask: Image.Image, rng: np.random.Generator) -> Pixels:
    alpha = _alpha(mask)
    ground = _background(scene.background, rng, 0.0)
    sky = np.asarray(rng.uniform(0.9, 1.15, 3), np.float32)
    horizon = rng.uniform(0.4, 0.7)
    ground = np.where((horizon < _Y)[..., None], ground, ground * 0.6 + 255 * 0.4)
    line = np.clip(_alpha(mask.filter(ImageFilter.MaxFilter(5))) - alpha, 0, 1)
    surface = _paint(scene, rng, 6) * 1.08 + 6
    picture = ground * sky * (1 - alpha) + surface * alpha
    return np.asarray(picture * (1 - line) + 12 * line, np.float32)


def _painting(scene: Scene, mask: Image.Image, rng: np.random.Generator) -> Pixels:
    warp = rng.uniform(-1.2, 1.2, (2, 6, 6)).astype(np.float32)
    shift = [
        np.asarray(Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for plane in warp
    ]
    rows = np.clip(np.rint(_Y * SIDE + shift[0]), 0, SIDE - 1).astype(int)
    columns = np.clip(np.rint(_X * SIDE + shift[1]), 0, SIDE - 1).astype(int)
    alpha = _alpha(mask)[rows, columns]
    ground = _background(scene.background, rng, 0.8) + _smooth_noise(rng, 9, 3) * 34
    surface = _paint(scene, rng, 14) + _smooth_noise(rng, 12, 3) * 38
    picture = np.clip(ground * (1 - alpha) + surface * alpha, 0, 255).astype(np.uint8)
    dabs = np.asarray(Image.fromarray(picture).filter(ImageFilter.ModeFilter(5)), np.float32)
    canvas = ((np.arange(SIDE)[:, None] + np.arange(SIDE)[None]) % 2)[..., None] * 7
    warmth = np.asarray((1.05, 1.0, 0.9), np.float32)
    return ((dabs + canvas) * warmth).astype(np.float32)


_STYLES = {"photo": _photo, "sketch": _sketch, "cartoon": _cartoon, "painting": _painting}
