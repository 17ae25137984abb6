"""What can be seen in the world, and the words for it."""

from __future__ import annotations

CLASSES: tuple[str, ...] = (
    "arrow",
    "bell",
    "boat",
    "bottle",
    "car",
    "chair",
    "cloud",
    "cross",
    "crown",
    "cup",
    "fish",
    "flower",
    "hammer",
    "heart",
    "house",
    "key",
    "kite",
    "ladder",
    "lamp",
    "moon",
    "mushroom",
    "star",
    "tree",
    "umbrella",
)
SEEN: tuple[str, ...] = CLASSES[0::2]
"""Classes of the finetune set."""
UNSEEN: tuple[str, ...] = CLASSES[1::2]
"""Classes that the finetune set lacks; zero-shot evaluation is over these."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (245, 220, 50),
    "green": (45, 150, 60),
    "blue": (45, 85, 210),
    "purple": (130, 55, 175),
    "pink": (245, 140, 190),
    "white": (245, 245, 240),
}
BACKGROUNDS: tuple[str, ...] = ("grass", "sand", "water", "snow", "wood", "night")
BACKGROUND_PHRASES: dict[str, str] = {
    "grass": "on grass",
    "sand": "on sand",
    "water": "on water",
    "snow": "on snow",
    "wood": "on a wooden table",
    "night": "at night",
}
SIZES: dict[str, float] = {"small": 0.46, "medium": 0.62, "large": 0.80}
"""Size of the object as a share of the picture's side."""
POSITIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "top": (0.0, -1.0),
    "bottom": (0.0, 1.0),
    "centre": (0.0, 0.0),
}
"""Where the object stands, in units of the room that its size leaves."""
TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted")
DOMAINS: tuple[str, ...] = ("photo", "sketch", "cartoon", "painting")

TEMPLATES: tuple[str, ...] = (
    "a photo of a {c}.",
    "a picture of a {c}.",
    "an image of a {c}.",
    "a {c}.",
    "one {c}.",
)
"""Written beside every data set; they say nothing of the domain, as a benchmark's do not."""
