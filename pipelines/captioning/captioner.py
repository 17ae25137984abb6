"""The captioner: images to texts. BLIP through transformers, behind a small interface."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from models.clip import public_name, state_digest
from pipelines.captioning.decoding import Decoding
from schemas.errors import UserError
from schemas.manifest import ModelInfo


class Captioner(Protocol):
    """Anything that writes texts for images."""

    info: ModelInfo

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """RGB image to what the model takes, [3, H, W]; safe to call from many threads."""
        ...

    def caption(self, images: list[torch.Tensor], seed: int) -> list[list[str]]:
        """Captions for prepared images, best first; ``seed`` fixes what is drawn for the batch."""
        ...


class BlipCaptioner:
    """A ``BlipForConditionalGeneration`` checkpoint (Li et al., arXiv 2201.12086).

    Args:
        spec: Hub id or folder.
        decoding: how to decode.
        device: torch device.

    Raises:
        UserError: the model cannot be found, fetched or read.
    """

    def __init__(self, spec: str, decoding: Decoding, device: str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, BlipForConditionalGeneration
        from transformers.utils import logging

        logging.disable_progress_bar()  # ours says more
        try:
            # float32 whatever the checkpoint holds; safetensors only, so nothing is unpickled.
            model = BlipForConditionalGeneration.from_pretrained(
                spec, dtype=torch.float32, use_safetensors=True
            )
            # PIL resizing is the same on every machine, with or without torchvision's kernels.
            self._image_processor = AutoImageProcessor.from_pretrained(spec, backend="pil")
            self._tokenizer = AutoTokenizer.from_pretrained(spec)
        except Exception as error:  # transformers and the Hub raise many kinds
            reason = str(error).strip().split("\n", 1)[0].rstrip(".")
            raise UserError(
                f"the captioner {spec!r} could not be loaded ({type(error).__name__}: {reason}); "
                f"check the name, the network or the folder."
            ) from error
        self.info = ModelInfo(
            name=public_name(spec), weights_sha256=state_digest(model.state_dict())
        )
        self._model = model.to(device).eval()
        self._device = device
        self._decoding = decoding

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """RGB image to pixels, [3, H, W]; safe to call from many threads."""
        pixels: torch.Tensor = self._image_processor(images=image, return_tensors="pt")[
            "pixel_values"
        ]
        return pixels[0]

    @torch.inference_mode()
    def caption(self, images: list[torch.Tensor], seed: int) -> list[list[str]]:
        """Captions for prepared images; a list of ``captions_per_image`` texts for each."""
        pixels = torch.stack(images)
        arguments = self._decoding.generate_arguments()
        if self._decoding.prompt:
            tokens = self._tokenizer([self._decoding.prompt] * len(images), return_tensors="pt")
            arguments["input_ids"] = tokens["input_ids"].to(self._device)
            arguments["attention_mask"] = tokens["attention_mask"].to(self._device)
        if self._decoding.mode == "nucleus":
            torch.manual_seed(seed)
        output = self._model.generate(pixel_values=pixels.to(self._device), **arguments)
        texts = [
            " ".join(text.split())
            for text in self._tokenizer.batch_decode(output, skip_special_tokens=True)
        ]
        n = self._decoding.captions_per_image
        return [texts[i : i + n] for i in range(0, len(texts), n)]


def check_captioner(spec: str, decoding: Decoding) -> None:
    """Fail early, before any worker starts, if the captions cannot be had.

    Raises:
        UserError: no such folder or Hub model, a model of another type, or captions that are
            longer than the model can count.
    """
    from transformers import AutoConfig, AutoTokenizer

    if spec.startswith((".", "/")) and not Path(spec).is_dir():
        raise UserError(f"the captioner {spec!r} is not there; give a folder or a Hub id.")
    try:
        config = AutoConfig.from_pretrained(spec)
        tokenizer = AutoTokenizer.from_pretrained(spec)
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise UserError(
            f"the captioner {spec!r} is neither a model folder nor a Hub model within reach "
            f"({type(error).__name__}: {reason})."
        ) from None
    if config.model_type != "blip":
        raise UserError(
            f"the captioner {spec!r} is of type {config.model_type!r}; give a BLIP checkpoint."
        )
    prompt = len(tokenizer(decoding.prompt).input_ids) - 1  # the end mark is cut off
    room = config.text_config.max_position_embeddings - prompt
    if decoding.max_new_tokens > room:
        raise UserError(
            f"--max_new_tokens {decoding.max_new_tokens} is more than the captioner {spec!r} can "
            f"write after the prompt; give at most {room}."
        )
