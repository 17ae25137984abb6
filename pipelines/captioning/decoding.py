"""How captions are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Decoding:
    """How captions are decoded; recorded in the manifest.

    Attributes:
        mode: greedy, beam (num_beams) or nucleus (top_p, seed; Holtzman et al., ICLR 2020).
        prompt: text that each caption continues; it stays part of the caption.
        captions_per_image: sequences returned per image.
        max_new_tokens, min_new_tokens: length limits in tokens, the prompt apart.
    """

    mode: Literal["greedy", "beam", "nucleus"] = "greedy"
    num_beams: int = 1
    top_p: float = 1.0
    prompt: str = ""
    captions_per_image: int = 1
    max_new_tokens: int = 40
    min_new_tokens: int = 0
    seed: int = 0

    def generate_arguments(self) -> dict[str, Any]:
        """Arguments of transformers' ``generate``."""
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "num_return_sequences": self.captions_per_image,
            "do_sample": self.mode == "nucleus",
            "num_beams": self.num_beams,
        }
        if self.min_new_tokens:
            arguments["min_new_tokens"] = self.min_new_tokens
        if self.mode == "nucleus":
            arguments |= {"top_p": self.top_p, "top_k": 0}
        return arguments
