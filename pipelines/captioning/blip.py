"""BLIP (Li et al., arXiv 2201.12086): a text decoder that looks at the image in every layer."""

from __future__ import annotations

from typing import Any

import torch


class Blip:
    """``BlipForConditionalGeneration``."""

    def model_class(self) -> Any:
        """See Family."""
        from transformers import BlipForConditionalGeneration

        return BlipForConditionalGeneration

    def start(self, tokenizer: Any, config: Any, prompt: str) -> list[int]:
        """The mark of the decoder's beginning, and the prompt."""
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        return [config.text_config.bos_token_id, *ids]

    def room(self, config: Any, start: int) -> int | None:
        """See Family."""
        return int(config.text_config.max_position_embeddings) - start

    def writer(self, model: Any) -> Any:
        """See Family."""
        return model.text_decoder

    def generate(
        self, model: Any, pixels: torch.Tensor, start: torch.Tensor, arguments: dict[str, Any]
    ) -> torch.Tensor:
        """See Family."""
        # The last token, which should be the end mark, is cut off by the model.
        ids = torch.cat([start, torch.zeros_like(start[:, :1])], dim=1)
        tokens: torch.Tensor = model.generate(
            pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), **arguments
        )
        return tokens
