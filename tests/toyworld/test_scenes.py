"""Scenes: the same seed gives the same picture and texts; texts tell what is to be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from toyworld.render import SIDE, render
from toyworld.scene import Scene, alt_text, biased, describe, draw_scene
from toyworld.shapes import SHAPES
from toyworld.vocabulary import (
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    DOMAINS,
    POSITIONS,
    SEEN,
    TEXTURES,
    UNSEEN,
)


def some_scenes(size: int, **how: object) -> list[Scene]:
    rng = np.random.default_rng(5)
    return [draw_scene(rng, **how) for _ in range(size)]  # type: ignore[arg-type]


def test_the_world_is_as_large_as_promised() -> None:
    assert len(CLASSES) >= 24
    assert set(CLASSES) == set(SHAPES)
    assert len(DOMAINS) >= 4
    assert not set(SEEN) & set(UNSEEN)
    assert set(SEEN) | set(UNSEEN) == set(CLASSES)
    assert len(SEEN) == len(UNSEEN)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_class_renders_in_every_domain_the_same_twice(domain: str) -> None:
    for name in CLASSES:
        scene = replace(some_scenes(1)[0], name=name, domain=domain)
        image = render(scene)
        assert image.size == (SIDE, SIDE)
        assert image.mode == "RGB"
        assert image.tobytes() == render(scene).tobytes()
        assert image.tobytes() != render(replace(scene, seed=scene.seed + 1)).tobytes()


def test_each_attribute_can_be_seen() -> None:
    base = Scene("star", "red", "grass", "large", "centre", "plain", "photo", 7)
    before = np.asarray(render(base), np.float32)
    for change in (
        {"name": "moon"},
        {"colour": "blue"},
        {"background": "night"},
        {"size": "small"},
        {"position": "left"},
        {"texture": "striped"},
        *({"domain": domain} for domain in DOMAINS[1:]),
    ):
        after = np.asarray(render(replace(base, **change)), np.float32)  # type: ignore[arg-type]
        assert np.abs(after - before).mean() > 3, change


def test_a_sketch_has_no_colours_and_its_texts_name_none() -> None:
    rng = np.random.default_rng(0)
    for scene in some_scenes(50, domains=("sketch",)):
        pixels = np.asarray(render(scene)).astype(int)
        assert (pixels.max(axis=2) == pixels.min(axis=2)).all()
        assert not set(COLOURS) & set(describe(scene, rng).split())


def test_a_description_names_what_a_caption_can_name() -> None:
    rng = np.random.default_rng(0)
    for scene in some_scenes(200, domains=("photo", "cartoon", "painting")):
        text = describe(scene, rng)
        for word in (scene.name, scene.colour, BACKGROUND_PHRASES[scene.background]):
            assert word in text
        assert (scene.texture in text) == (scene.texture != "plain")
        others = (set(CLASSES) | set(COLOURS)) - {scene.name, scene.colour}
        assert not others & set(text.split())
    assert len(POSITIONS) == 5
    assert len(TEXTURES) == 3


def test_web_texts_are_noisy_and_mostly_about_the_picture() -> None:
    rng = np.random.default_rng(0)
    scenes = some_scenes(3000)
    texts = [alt_text(scene, rng) for scene in scenes]
    right = np.mean([s.name in t for s, t in zip(scenes, texts, strict=True)])
    none = np.mean([not any(name in t for name in CLASSES) for t in texts])
    assert 0.75 < right < 0.85
    assert 0.13 < none < 0.20
    assert "" in texts
    assert any(text.startswith("IMG_") for text in texts)


def test_the_bias_ties_classes_to_backgrounds() -> None:
    rng = np.random.default_rng(0)
    scenes = [biased(scene, rng) for scene in some_scenes(4000, classes=SEEN, domains=("photo",))]
    for name in SEEN:
        mine = [scene.background for scene in scenes if scene.name == name]
        most = max(mine.count(background) for background in BACKGROUNDS)
        assert 0.85 < most / len(mine) < 0.97
