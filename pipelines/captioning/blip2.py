"""BLIP-2 (Li et al., arXiv 2301.12597): a language model that reads an image as a few tokens."""

from __future__ import annotations

from typing import Any

import torch


class Blip2:
    """``Blip2ForConditionalGeneration``, over a decoder (OPT) or an encoder-decoder (T5).

    A decoder continues the prompt, which so stays in the caption. An encoder-decoder answers
    it: the caption is the answer alone.
    """

    def model_class(self) -> Any:
        """See Family."""
        from transformers import Blip2ForConditionalGeneration

        return Blip2ForConditionalGeneration

    def start(self, tokenizer: Any, config: Any, prompt: str) -> list[int]:
        """The image's tokens, and the prompt as its tokenizer frames it."""
        image = [config.image_token_index] * config.num_query_tokens
        return [*image, *tokenizer(prompt).input_ids]

    def room(self, config: Any, start: int) -> int | None:
        """See Family."""
        if config.text_config.is_encoder_decoder:
            return None  # T5 counts distances, not places
        return int(config.text_config.max_position_embeddings) - start

    def writer(self, model: Any) -> Any:
        """See Family."""
        return model.language_model

    def generate(
        self, model: Any, pixels: torch.Tensor, start: torch.Tensor, arguments: dict[str, Any]
    ) -> torch.Tensor:
        """See Family."""
        tokens: torch.Tensor = model.generate(
            pixel_values=pixels, input_ids=start, attention_mask=torch.ones_like(start), **arguments
        )
        if model.config.text_config.is_encoder_decoder:
            return tokens
        return tokens[:, model.config.num_query_tokens :]
