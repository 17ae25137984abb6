"""The encoder: images to unit-length embeddings, by the frozen CLIP's image tower."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.clip import load_clip
from schemas.errors import UserError
from schemas.manifest import ModelInfo


class ImageEncoder:
    """A CLIP image tower.

    Args:
        spec: as models.clip.load_clip.
        device: torch device.

    Raises:
        UserError: the model cannot be found, fetched or read.
    """

    def __init__(self, spec: str, device: str = "cpu") -> None:
        clip = load_clip(spec, device=device)
        self.info = ModelInfo(name=clip.name, weights_sha256=clip.weights_sha256())
        self.preprocess = clip.preprocess
        self._model = clip.model
        self._device = device

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """RGB image to float32 tensor [3, H, W]; safe to call from many threads."""
        return self.preprocess(image)

    @torch.inference_mode()
    def embed(self, images: list[torch.Tensor]) -> NDArray[np.float16]:
        """Prepared images to unit rows, float16 [N, D] (as clip-retrieval stores them)."""
        batch = torch.stack(images).to(self._device)
        features = self._model.encode_image(batch, normalize=True)  # type: ignore[operator]
        return np.asarray(features.float().cpu().numpy(), dtype=np.float16)


def choose_device(device: str) -> str:
    """``auto`` is the first GPU if there is one.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(
            f"--device {device} is not to be had on this machine; give auto or cpu."
        ) from None
    return device
