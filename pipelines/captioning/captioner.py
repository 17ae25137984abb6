"""The captioner: images to texts, behind a small interface; transformers' models implement it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from models.clip import public_name, state_digest
from pipelines.captioning.decoding import Decoding
from pipelines.captioning.families import KNOWN, family_of
from pipelines.inference import DTYPES, Precision, to_device
from schemas.errors import UserError
from schemas.manifest import ModelInfo

# Of a checkpoint's own settings only these count: how to decode is the user's to say.
_SPECIAL_TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


class Captioner(Protocol):
    """Anything that writes texts for images."""

    info: ModelInfo
    device: str

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """RGB image to what the model takes, [3, H, W]; safe to call from many threads."""
        ...

    def start(self, prompt: str) -> tuple[int, ...]:
        """The tokens that stand for a prompt; images whose prompts have one length go together."""
        ...

    def caption(
        self,
        images: Sequence[torch.Tensor],
        starts: Sequence[tuple[int, ...]],
        draws: Sequence[int],
    ) -> list[list[str]]:
        """Captions for prepared images, best first; safe to call from many threads.

        Args:
            images: prepared.
            starts: of each image's prompt, all of one length.
            draws: per image, a number that fixes what is drawn for it.
        """
        ...


class TransformersCaptioner:
    """A model of one of the known families (see families.py).

    Args:
        spec: Hub id or folder; safetensors only, and no code of the model's own is run.
        decoding: how to decode.
        device: torch device.
        precision: number format that it runs in.

    Raises:
        UserError: the model cannot be found, fetched or read, or is of no known family.
    """

    def __init__(
        self, spec: str, decoding: Decoding, device: str = "cpu", precision: Precision = "fp32"
    ) -> None:
        from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # ours says more
        try:
            self._config = AutoConfig.from_pretrained(spec)
            family = family_of(self._config.model_type)
            if family is None:
                raise UserError(_no_family(spec, self._config.model_type))
            # float32 whatever the checkpoint holds; safetensors only, so nothing is unpickled.
            model = family.model_class().from_pretrained(
                spec, dtype=torch.float32, use_safetensors=True
            )
            # PIL resizing is the same on every machine, with or without torchvision's kernels.
            self._image_processor = AutoImageProcessor.from_pretrained(spec, backend="pil")
            self._tokenizer = AutoTokenizer.from_pretrained(spec)
        except UserError:
            raise
        except Exception as error:  # transformers and the Hub raise many kinds
            raise UserError(
                f"the captioner {spec!r} could not be loaded ({_reason(error)}); check the name, "
                f"the network or the folder."
            ) from error
        self.info = ModelInfo(
            name=public_name(spec), weights_sha256=state_digest(model.state_dict())
        )
        _forget_settings(family.writer(model))
        self._family = family
        self._model = model.to(device, DTYPES[precision]).eval()
        self.device = device
        self._dtype = DTYPES[precision]
        self._decoding = decoding
        # One at a time: a model takes all cores or the GPU anyway, and memory for one batch.
        self._lock = threading.Lock()

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """RGB image to pixels, [3, H, W]; safe to call from many threads."""
        pixels: torch.Tensor = self._image_processor(images=image, return_tensors="pt")[
            "pixel_values"
        ]
        return pixels[0]

    def start(self, prompt: str) -> tuple[int, ...]:
        """The tokens that stand for a prompt."""
        return tuple(self._family.start(self._tokenizer, self._config, prompt))

    @torch.inference_mode()
    def caption(
        self,
        images: Sequence[torch.Tensor],
        starts: Sequence[tuple[int, ...]],
        draws: Sequence[int],
    ) -> list[list[str]]:
        """Captions for prepared images; ``captions_per_image`` texts for each."""
        arguments = self._decoding.generate_arguments(draws)
        with self._lock:
            pixels = to_device(images, self.device).to(self._dtype)
            start = torch.tensor(starts, device=self.device)
            tokens = self._family.generate(self._model, pixels, start, arguments).cpu()
        texts = [
            " ".join(text.split())
            for text in self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ]
        n = self._decoding.captions_per_image
        return [texts[i : i + n] for i in range(0, len(texts), n)]


def _forget_settings(writer: Any) -> None:
    """Beams, penalties and lengths that a checkpoint brings would act unseen; drop them."""
    from transformers import GenerationConfig

    held = writer.generation_config
    kept = {name: getattr(held, name, None) for name in _SPECIAL_TOKENS}
    if kept["pad_token_id"] is None:  # what follows an end is cut off anyway
        end = kept["eos_token_id"]
        kept["pad_token_id"] = end[0] if isinstance(end, list) else end
    writer.generation_config = GenerationConfig(**kept)


def _reason(error: Exception) -> str:
    said = str(error).strip().split("\n", 1)[0].rstrip(".")
    return f"{type(error).__name__}: {said}"


def _no_family(spec: str, model_type: str) -> str:
    return f"the captioner {spec!r} is of type {model_type!r}; give a {KNOWN} checkpoint."


def check_captioner(spec: str, decoding: Decoding, classes: Sequence[str] = ()) -> None:
    """Fail early, before any worker starts, if the captions cannot be had.

    Args:
        spec: Hub id or folder.
        decoding: how to decode.
        classes: whose names may be in the prompts.

    Raises:
        UserError: no such folder or Hub model, a model of no known family, or captions that are
            longer than the model can count.
    """
    from transformers import AutoConfig, AutoTokenizer

    if spec.startswith((".", "/")) and not Path(spec).is_dir():
        raise UserError(f"the captioner {spec!r} is not there; give a folder or a Hub id.")
    try:
        config = AutoConfig.from_pretrained(spec)
        tokenizer = AutoTokenizer.from_pretrained(spec)
    except Exception as error:
        raise UserError(
            f"the captioner {spec!r} is neither a model folder nor a Hub model within reach "
            f"({_reason(error)})."
        ) from None
    family = family_of(config.model_type)
    if family is None:
        raise UserError(_no_family(spec, config.model_type))
    longest = max(
        decoding.prompts(classes), key=lambda prompt: len(family.start(tokenizer, config, prompt))
    )
    room = family.room(config, len(family.start(tokenizer, config, longest)))
    if room is not None and room < 1:
        raise UserError(
            f"the prompt {longest!r} is longer than the captioner {spec!r} can read; shorten it."
        )
    if room is not None and decoding.max_new_tokens > room:
        raise UserError(
            f"--max_new_tokens {decoding.max_new_tokens} is more than the captioner {spec!r} can "
            f"write after the prompt; give at most {room}."
        )
