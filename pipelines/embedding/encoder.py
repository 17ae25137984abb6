"""The encoder: images and texts to unit-length embeddings, by the frozen CLIP's two towers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.clip import load_clip, split_preprocess
from pipelines.inference import DTYPES, Precision, to_device
from schemas.manifest import ModelInfo

_TEXT_BATCH = 256


class ImageEncoder:
    """A CLIP image tower.

    Args:
        spec: as models.clip.load_clip.
        device: torch device.
        precision: number format that it runs in.

    Raises:
        UserError: the model cannot be found, fetched or read.
    """

    def __init__(self, spec: str, device: str = "cpu", precision: Precision = "fp32") -> None:
        clip = load_clip(spec)
        self.info = ModelInfo(name=clip.name, weights_sha256=clip.weights_sha256())
        self.device = device
        self._resize, mean, std = split_preprocess(clip.preprocess)
        self._mean, self._std = mean.to(device), std.to(device)
        self._most = torch.tensor(255.0, device=device)
        self._model = clip.model.to(device, DTYPES[precision])
        self._dtype = DTYPES[precision]

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """RGB image to uint8 tensor [H, W, 3] of the model's size; safe to call from many threads.

        What is left of the model's preprocessing is done by the batch and on its device.
        """
        return torch.from_numpy(np.array(self._resize(image)))

    def pixels(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Prepared images as the model's preprocessing has them, float32 [N, 3, H, W].

        The same bits as image by image: each value is rounded by itself.
        """
        batch = to_device(images, self.device).permute(0, 3, 1, 2)
        batch = batch.to(torch.float32, memory_format=torch.contiguous_format)
        return batch.div_(self._most).sub_(self._mean).div_(self._std)

    @torch.inference_mode()
    def embed(self, images: list[torch.Tensor]) -> NDArray[np.float16]:
        """Prepared images to unit rows, float16 [N, D] (as clip-retrieval stores them)."""
        batch = self.pixels(images).to(self._dtype)
        return _unit_rows(self._model.encode_image(batch))  # type: ignore[operator]


class TextEncoder:
    """A CLIP text tower; the image tower's weights are let go.

    Args:
        spec: as models.clip.load_clip.
        device: torch device.
        precision: number format that it runs in.

    Raises:
        UserError: the model cannot be found, fetched or read.
    """

    def __init__(self, spec: str, device: str = "cpu", precision: Precision = "fp32") -> None:
        clip = load_clip(spec)
        # Of both towers: the same digest as the ImageEncoder of this model has.
        self.info = ModelInfo(name=clip.name, weights_sha256=clip.weights_sha256())
        del clip.model.visual
        self._model = clip.model.to(device, DTYPES[precision])
        self._tokenizer = clip.tokenizer
        self._device = device

    @torch.inference_mode()
    def embed(self, texts: list[str], batch: int = _TEXT_BATCH) -> NDArray[np.float16]:
        """Texts to unit rows, float16 [N, D], N at least 1; too long ones are cut.

        How the model cuts is its tokenizer's affair. Rows depend on the batch in the last digits,
        so ask for the same texts together to get the same bytes.
        """
        blocks = [
            _unit_rows(
                self._model.encode_text(  # type: ignore[operator]
                    self._tokenizer(texts[start : start + batch]).to(self._device)
                )
            )
            for start in range(0, len(texts), batch)
        ]
        return np.concatenate(blocks)


def _unit_rows(features: torch.Tensor) -> NDArray[np.float16]:
    """Divided by their length in float32, whatever the tower ran in."""
    rows = torch.nn.functional.normalize(features.float(), dim=-1)
    return np.asarray(rows.cpu().numpy(), dtype=np.float16)
