"""GIT (Wang et al., arXiv 2205.14100): one decoder over the image's tokens and the text's."""

from __future__ import annotations

from typing import Any

import torch


class Git:
    """``GitForCausalLM``."""

    def model_class(self) -> Any:
        """See Family."""
        from transformers import GitForCausalLM

        return GitForCausalLM

    def start(self, tokenizer: Any, config: Any, prompt: str) -> list[int]:
        """The mark of a text's beginning, and the prompt."""
        return [config.bos_token_id, *tokenizer(prompt, add_special_tokens=False).input_ids]

    def room(self, config: Any, start: int) -> int | None:
        """See Family."""
        return int(config.max_position_embeddings) - start

    def writer(self, model: Any) -> Any:
        """See Family."""
        return model

    def generate(
        self, model: Any, pixels: torch.Tensor, start: torch.Tensor, arguments: dict[str, Any]
    ) -> torch.Tensor:
        """See Family."""
        tokens: torch.Tensor = model.generate(
            pixel_values=pixels, input_ids=start, attention_mask=torch.ones_like(start), **arguments
        )
        return tokens
