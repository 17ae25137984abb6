"""Families of image-to-text models, told apart by ``model_type`` of their configuration.

All are transformers' own classes: what makes a family is how a prompt and an image enter
``generate``, and what comes back. Images are pixels [3, H, W] for all of them.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Family(Protocol):
    """What a captioner must know of its model."""

    def model_class(self) -> Any:
        """transformers' class, which ``from_pretrained`` is called on."""
        ...

    def start(self, tokenizer: Any, config: Any, prompt: str) -> list[int]:
        """The tokens that stand for the prompt; at least one."""
        ...

    def room(self, config: Any, start: int) -> int | None:
        """Most tokens that can follow so many at the start; None: there is no such limit."""
        ...

    def writer(self, model: Any) -> Any:
        """The part of the model that writes; its generation settings count."""
        ...

    def generate(
        self, model: Any, pixels: torch.Tensor, start: torch.Tensor, arguments: dict[str, Any]
    ) -> torch.Tensor:
        """Tokens of the captions, int64 [N x captions, L], the prompt's first if it stays.

        Args:
            model: of model_class.
            pixels: [N, 3, H, W].
            start: int64 [N, T].
            arguments: of transformers' ``generate``.
        """
        ...


def family_of(model_type: str) -> Family | None:
    """The family of a model, None if there is none."""
    from pipelines.captioning.blip import Blip
    from pipelines.captioning.blip2 import Blip2
    from pipelines.captioning.encoder_decoder import EncoderDecoder
    from pipelines.captioning.git import Git

    families: dict[str, Family] = {
        "blip": Blip(),
        "blip-2": Blip2(),
        "git": Git(),
        "vision-encoder-decoder": EncoderDecoder(),
    }
    return families.get(model_type)


KNOWN = "BLIP, BLIP-2, GIT or a vision encoder-decoder"
