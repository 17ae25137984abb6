"""The encoder's two towers: unit rows, one digest, one embedding space, in each number format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_builds import CLIP
from tiny_data import picture

from models.clip import load_clip
from pipelines.embedding.encoder import ImageEncoder, TextEncoder
from pipelines.inference import choose_device, to_device
from schemas.errors import UserError

TEXTS = ["a red circle on grey", "a photo of a square", "a bar " * 60]


def test_both_towers_are_of_one_model() -> None:
    images, texts = ImageEncoder(str(CLIP)), TextEncoder(str(CLIP))
    assert images.info == texts.info
    pictures = [images.prepare(picture(seed)) for seed in range(5)]
    rows, words = images.embed(pictures), texts.embed(TEXTS)
    assert (rows.shape[0], words.shape[0]) == (5, 3)
    assert rows.shape[1] == words.shape[1]
    for matrix in (rows, words):
        assert matrix.dtype == np.float16
        assert np.abs(np.linalg.norm(matrix.astype(np.float64), axis=1) - 1).max() < 1e-3
    clip = load_clip(str(CLIP))
    with torch.inference_mode():
        plain = clip.model.encode_text(clip.tokenizer(TEXTS), normalize=True)
        seen = clip.model.encode_image(images.pixels(pictures), normalize=True)
    assert np.abs(plain.numpy() - words).max() < 1e-3
    assert np.abs(seen.numpy() - rows).max() < 1e-3


def test_pixels_of_a_batch_are_those_of_the_models_own_preprocessing() -> None:
    encoder, clip = ImageEncoder(str(CLIP)), load_clip(str(CLIP))
    pictures = [picture(1), picture(2, (90, 41)), picture(3, (33, 64)), picture(4, (64, 64))]
    prepared = [encoder.prepare(image) for image in pictures]
    assert {image.dtype for image in prepared} == {torch.uint8}
    wanted = torch.stack([clip.preprocess(image) for image in pictures])
    assert torch.equal(encoder.pixels(prepared), wanted)
    assert encoder.pixels(prepared).is_contiguous()


def test_texts_in_several_batches_are_in_their_order() -> None:
    texts = TextEncoder(str(CLIP))
    many = [f"a picture number {i}" for i in range(7)]
    whole, cut = texts.embed(many), texts.embed(many, batch=3)
    assert np.abs(whole.astype(np.float32) - cut).max() < 2e-3
    assert len({row.tobytes() for row in whole}) == 7


def test_bf16_is_near_fp32_and_not_the_same() -> None:
    pictures = [picture(seed) for seed in range(4)]
    found = []
    for precision in ("fp32", "bf16"):
        encoder = ImageEncoder(str(CLIP), precision=precision)  # type: ignore[arg-type]
        found.append(encoder.embed([encoder.prepare(image) for image in pictures]))
        text = TextEncoder(str(CLIP), precision=precision)  # type: ignore[arg-type]
        assert text.embed(TEXTS).shape == (3, found[0].shape[1])
        assert text.info == encoder.info  # of the weights as they are on disk
    cosine = (found[0].astype(np.float64) * found[1]).sum(axis=1)
    assert cosine.min() > 0.99
    assert not np.array_equal(*found)


def test_a_format_that_the_device_lacks_is_refused() -> None:
    assert choose_device("cpu", "bf16") == "cpu"
    with pytest.raises(UserError, match="fp16 is for GPUs"):
        choose_device("cpu", "fp16")
    batch = to_device([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)], "cpu")
    assert (batch.shape, batch.dtype) == ((2, 3, 2, 2), torch.float32)
