"""Any image encoder with any text decoder, as TrOCR is one (Li et al., arXiv 2109.10282)."""

from __future__ import annotations

from typing import Any

import torch


class EncoderDecoder:
    """``VisionEncoderDecoderModel``."""

    def model_class(self) -> Any:
        """See Family."""
        from transformers import VisionEncoderDecoderModel

        return VisionEncoderDecoderModel

    def start(self, tokenizer: Any, config: Any, prompt: str) -> list[int]:
        """The mark of the decoder's beginning, and the prompt."""
        begin = config.decoder_start_token_id
        if begin is None:
            begin = config.decoder.bos_token_id
        return [begin, *tokenizer(prompt, add_special_tokens=False).input_ids]

    def room(self, config: Any, start: int) -> int | None:
        """See Family."""
        most = getattr(config.decoder, "max_position_embeddings", None)
        return None if most is None else int(most) - start

    def writer(self, model: Any) -> Any:
        """See Family."""
        return model

    def generate(
        self, model: Any, pixels: torch.Tensor, start: torch.Tensor, arguments: dict[str, Any]
    ) -> torch.Tensor:
        """See Family."""
        tokens: torch.Tensor = model.generate(
            pixel_values=pixels, decoder_input_ids=start, **arguments
        )
        return tokens
