"""One picture's factors, drawn from a seed, and the texts that people would give it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from toyworld.vocabulary import (
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    DOMAINS,
    POSITIONS,
    SIZES,
    TEXTURES,
)


@dataclass(frozen=True)
class Scene:
    """Everything that a picture and its caption follow from."""

    name: str
    colour: str
    background: str
    size: str
    position: str
    texture: str
    domain: str
    seed: int


def draw_scene(
    rng: np.random.Generator,
    *,
    classes: tuple[str, ...] = CLASSES,
    domains: tuple[str, ...] = DOMAINS,
    domain_odds: tuple[float, ...] | None = None,
) -> Scene:
    """A scene with independent factors."""
    return Scene(
        name=str(rng.choice(classes)),
        colour=str(rng.choice(list(COLOURS))),
        background=str(rng.choice(BACKGROUNDS)),
        size=str(rng.choice(list(SIZES))),
        position=str(rng.choice(list(POSITIONS))),
        texture=str(rng.choice(TEXTURES, p=(0.6, 0.2, 0.2))),
        domain=str(rng.choice(domains, p=domain_odds)),
        seed=int(rng.integers(2**31)),
    )


def biased(scene: Scene, rng: np.random.Generator) -> Scene:
    """Give the scene its class's usual background and colour, as collected photos have them.

    Nine pictures in ten show the usual background, four in five the usual colour.
    """
    number = CLASSES.index(scene.name)
    changes: dict[str, str] = {}
    if rng.random() < 0.9:
        changes["background"] = BACKGROUNDS[(number // 2) % len(BACKGROUNDS)]
    if rng.random() < 0.8:
        changes["colour"] = list(COLOURS)[(number * 3 + 1) % len(COLOURS)]
    return replace(scene, **changes)  # type: ignore[arg-type]


_DOMAIN_WORDS: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of", "a photograph of", "a picture of"),
    "sketch": ("a sketch of", "a pencil drawing of", "a drawing of"),
    "cartoon": ("a cartoon of", "a cartoon picture of", "clip art of"),
    "painting": ("a painting of", "an oil painting of", "a watercolour of"),
}
_POSITION_WORDS = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "centre": "in the centre",
}


def article(phrase: str) -> str:
    """``phrase`` with its indefinite article."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A full caption: domain, size, colour, texture, class, background, position.

    A sketch has no colours, so its caption names none.
    """
    words = [scene.size] if scene.size != "medium" else []
    if scene.domain != "sketch":
        words.append(scene.colour)
    if scene.texture != "plain":
        words.append(scene.texture)
    thing = article(" ".join([*words, scene.name]))
    text = f"{rng.choice(_DOMAIN_WORDS[scene.domain])} {thing}"
    if scene.domain != "sketch":
        text += f" {BACKGROUND_PHRASES[scene.background]}"
    return f"{text} {_POSITION_WORDS[scene.position]}"


def alt_text(scene: Scene, rng: np.random.Generator) -> str:
    """What a web page might say of the picture: some of its factors, in some order.

    One text in six is useless (empty, a file name, a button's label), one in twenty is about
    another picture.
    """
    if rng.random() < 1 / 6:
        number = int(rng.integers(10_000))
        junk = ("", "click here", f"IMG_{number:04d}.jpg", f"product no. {number}", "free shipping")
        return str(rng.choice(junk))
    if rng.random() < 1 / 20:
        scene = draw_scene(rng)
    if rng.random() < 0.4:
        return describe(scene, rng)
    words: list[str] = []
    if scene.domain != "sketch" and rng.random() < 0.6:
        words.append(scene.colour)
    if scene.texture != "plain" and rng.random() < 0.5:
        words.append(scene.texture)
    thing = " ".join([*words, scene.name])
    text = f"{rng.choice(_DOMAIN_WORDS[scene.domain])} {article(thing)}"
    if rng.random() < 0.3:
        text = f"{thing}, {scene.domain}"
    elif scene.domain != "sketch" and rng.random() < 0.4:
        text += f" {BACKGROUND_PHRASES[scene.background]}"
    ending = rng.choice(("", "", "", " - stock image", " for sale", f" | {int(rng.integers(99))}"))
    return text + str(ending)
