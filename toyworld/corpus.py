"""What the models are pretrained on: pictures in memory, their factors and two texts of each."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from schemas.errors import UserError
from toyworld.architecture import CONTEXT, IMAGE_SIZE, MEAN, STD, new_tokenizer
from toyworld.render import render
from toyworld.scene import Scene, alt_text, describe, draw_scene
from toyworld.vocabulary import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    DOMAINS,
    POSITIONS,
    SIZES,
    TEXTURES,
)

FACTORS: dict[str, tuple[str, ...]] = {
    "name": CLASSES,
    "colour": tuple(COLOURS),
    "background": BACKGROUNDS,
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
    "texture": TEXTURES,
    "domain": DOMAINS,
}
"""A scene's attributes and their values, in the order of Corpus.factors."""
PRETRAIN, CHECK, CHECK_PHOTOS = 1, 2, 3
"""Streams: seeds begin with them. Seeds of the world have three words, so none is shared."""
_DOMAIN_ODDS = (0.4, 0.2, 0.2, 0.2)
_SLICE = 1000


@dataclass(frozen=True)
class Corpus:
    """Pictures with what is known of them.

    Attributes:
        images: uint8 [N, 3, IMAGE_SIZE, IMAGE_SIZE].
        factors: int64 [N, len(FACTORS)], indices into each factor's values.
        captions: int64 [N, CONTEXT], a full description, tokenised.
        alt_texts: int64 [N, CONTEXT], what a web page says, tokenised.
    """

    images: torch.Tensor
    factors: torch.Tensor
    captions: torch.Tensor
    alt_texts: torch.Tensor

    def where(self, rows: torch.Tensor) -> Corpus:
        """The pictures that a boolean mask [N] keeps."""
        return Corpus(
            self.images[rows], self.factors[rows], self.captions[rows], self.alt_texts[rows]
        )


def make_corpus(size: int, stream: int) -> Corpus:
    """Render ``size`` pictures (a multiple of 1,000) of a stream, in two processes.

    Raises:
        UserError: another size.
    """
    if size < _SLICE or size % _SLICE:
        raise UserError(f"{size} pictures cannot be rendered; give a multiple of {_SLICE:,}.")
    numbers = range(size // _SLICE)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        made = pool.map(partial(_slice, stream=stream), numbers)
        slices = list(tqdm(made, total=len(numbers), desc="render", unit=" thousand"))
    images = np.concatenate([part[0] for part in slices])
    scenes = [scene for part in slices for scene in part[1]]
    texts = [text for part in slices for text in part[2]]
    indices = [[v.index(getattr(s, f)) for f, v in FACTORS.items()] for s in scenes]
    return Corpus(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(indices),
        tokens([caption for caption, _ in texts]),
        tokens([alt for _, alt in texts]),
    )


def _slice(
    number: int, stream: int
) -> tuple[NDArray[np.uint8], list[Scene], list[tuple[str, str]]]:
    rng = np.random.default_rng([stream, number])
    odds = (1.0, 0.0, 0.0, 0.0) if stream == CHECK_PHOTOS else _DOMAIN_ODDS
    scenes = [draw_scene(rng, domain_odds=odds) for _ in range(_SLICE)]
    small = (IMAGE_SIZE, IMAGE_SIZE)
    images = [render(scene).resize(small, Image.Resampling.BICUBIC) for scene in scenes]
    texts = [(describe(scene, rng), alt_text(scene, rng)) for scene in scenes]
    return np.stack([np.asarray(image) for image in images]), scenes, texts


def tokens(texts: list[str]) -> torch.Tensor:
    """Texts to int64 [N, CONTEXT], as both models take them."""
    batch = new_tokenizer()(
        texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    )
    return torch.as_tensor(batch["input_ids"])


def pixels(images: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] of 0 to 255 to what the models take, float32."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std
