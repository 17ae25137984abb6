"""The committed models: small, loaded by the code that loads real ones, as good as is said."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_builds import BLIP, CLIP, MODELS

from models.clip import Clip, load_clip
from pipelines.captioning.captioner import TransformersCaptioner
from pipelines.captioning.decoding import Decoding
from toyworld.demo import MAX_NEW_TOKENS
from toyworld.render import render
from toyworld.scene import Scene, draw_scene
from toyworld.vocabulary import CLASSES, COLOURS, SEEN, TEMPLATES, UNSEEN
from trainer.head import zero_shot_head

torch.set_num_threads(1)

FIGURES = json.loads((MODELS / "figures.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def photos() -> list[tuple[Scene, Image.Image]]:
    """Photos that neither pretraining nor any set of the demo has: seeds of a stream of its own."""
    scenes = [draw_scene(np.random.default_rng([99, i]), domains=("photo",)) for i in range(600)]
    return [(scene, render(scene)) for scene in scenes]


def test_they_are_small_and_hold_nothing_to_unpickle() -> None:
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}


def test_the_captioner_names_classes_and_colours(photos: list[tuple[Scene, Image.Image]]) -> None:
    captioner = TransformersCaptioner(str(BLIP), Decoding(max_new_tokens=MAX_NEW_TOKENS))
    named = {"name": 0, "colour": 0}
    for start in range(0, len(photos), 100):
        part = photos[start : start + 100]
        prepared = [captioner.prepare(image) for _, image in part]
        starts = [captioner.start("")] * len(part)
        texts = captioner.caption(prepared, starts, range(len(part)))
        for (scene, _), (text,) in zip(part, texts, strict=True):
            words = re.findall(r"[a-z]+", text)
            named["name"] += [word for word in words if word in CLASSES] == [scene.name]
            named["colour"] += [word for word in words if word in COLOURS] == [scene.colour]
    shares = {factor: 100 * number / len(photos) for factor, number in named.items()}
    assert shares["name"] >= 80
    assert shares["colour"] >= 90
    recorded = FIGURES["blip"]["photos_named"]
    assert shares["name"] == pytest.approx(recorded["class"], abs=5)
    assert shares["colour"] == pytest.approx(recorded["colour"], abs=5)


@pytest.mark.parametrize("classes", [SEEN, UNSEEN], ids=["seen", "unseen"])
def test_the_encoder_is_good_but_not_perfect(
    photos: list[tuple[Scene, Image.Image]], classes: tuple[str, ...]
) -> None:
    clip = load_clip(str(CLIP))
    accuracy = zero_shot(clip, [p for p in photos if p[0].name in classes], classes)
    assert 75 <= accuracy <= 92
    recorded = FIGURES["clip"]["zero_shot"]["photo"]
    assert accuracy == pytest.approx(recorded["seen" if classes == SEEN else "unseen"], abs=7)


@torch.inference_mode()
def zero_shot(
    clip: Clip, photos: list[tuple[Scene, Image.Image]], classes: tuple[str, ...]
) -> float:
    head = zero_shot_head(clip.model, clip.tokenizer, classes, TEMPLATES, torch.device("cpu"))
    images = torch.stack([clip.preprocess(image) for _, image in photos])
    guess = (clip.model.encode_image(images, normalize=True) @ head.T).argmax(dim=1)
    truth = torch.tensor([classes.index(scene.name) for scene, _ in photos])
    return 100 * float((guess == truth).float().mean())


def test_what_is_said_of_them_is_all_there() -> None:
    assert set(FIGURES) == {"clip", "blip"}
    assert set(FIGURES["clip"]["zero_shot"]) == {"photo", "sketch", "cartoon", "painting"}
    for model in FIGURES.values():
        assert model["images"] > 0
        assert model["epochs"] > 0


def test_pretraining_writes_folders_that_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass over a few pictures: too little to learn, enough to run every line."""
    from toyworld import corpus
    from toyworld.pretrain import pretrain

    monkeypatch.setattr(corpus, "_SLICE", 200)
    # Threads, since processes would have slices of the true size.
    monkeypatch.setattr(corpus, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))
    with torch.random.fork_rng():
        pretrain(tmp_path, images=200, clip_epochs=1, blip_epochs=0.5, only=None, checks=200)
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert set(figures) == {"clip", "blip"}
    assert (
        load_clip(str(tmp_path / "clip")).weights_sha256() != load_clip(str(CLIP)).weights_sha256()
    )
    captioner = TransformersCaptioner(str(tmp_path / "blip"), Decoding(max_new_tokens=4))
    image = captioner.prepare(Image.new("RGB", (50, 40)))
    assert captioner.caption([image], [captioner.start("")], [0])
    first = (tmp_path / "clip" / "open_clip_model.safetensors").read_bytes()
    with torch.random.fork_rng():
        pretrain(tmp_path, images=200, clip_epochs=1, blip_epochs=0.5, only="clip", checks=200)
    assert (tmp_path / "clip" / "open_clip_model.safetensors").read_bytes() == first
