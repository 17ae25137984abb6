"""How captions are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

CLASS = "{c}"
"""Stands for the class name in a prompt, as in CLIP_benchmark's templates."""


@dataclass(frozen=True)
class Decoding:
    """How captions are decoded; recorded in the manifest.

    Attributes:
        mode: greedy, beam (num_beams) or nucleus (top_p, seed; Holtzman et al., ICLR 2020).
        prompt: text that each caption continues; ``{c}`` stands for the class name. It stays part
            of the caption where the model continues it (see the families).
        captions_per_image: sequences returned per image.
        max_new_tokens, min_new_tokens: length limits in tokens, the prompt apart.
        repetition_penalty: divides the scores of tokens that were used (Keskar et al.,
            arXiv 1909.05858); 1 is none.
        no_repeat_ngram: no sequence of so many tokens comes twice; 0 allows all.
    """

    mode: Literal["greedy", "beam", "nucleus"] = "greedy"
    num_beams: int = 1
    top_p: float = 1.0
    prompt: str = ""
    captions_per_image: int = 1
    max_new_tokens: int = 40
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    seed: int = 0

    def prompt_for(self, class_name: str) -> str:
        """The prompt for an image of a class."""
        return self.prompt.replace(CLASS, class_name)

    def prompts(self, classes: Sequence[str]) -> list[str]:
        """Every prompt that the images of these classes get, each once."""
        return list(dict.fromkeys(map(self.prompt_for, classes))) or [self.prompt]

    def generate_arguments(self, draws: Sequence[int]) -> dict[str, Any]:
        """Arguments of transformers' ``generate``.

        Args:
            draws: per image, a number that what is drawn for it follows from.
        """
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "num_return_sequences": self.captions_per_image,
            "do_sample": self.mode == "nucleus",
            "num_beams": self.num_beams,
            "repetition_penalty": self.repetition_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram,
        }
        if self.min_new_tokens:
            arguments["min_new_tokens"] = self.min_new_tokens
        if self.mode == "nucleus":
            from pipelines.captioning.nucleus import NucleusDraw  # it takes transformers along

            rows = [(draw, number) for draw in draws for number in range(self.captions_per_image)]
            # It leaves one token a row, so that what torch draws after it is no draw any more.
            arguments["logits_processor"] = [NucleusDraw(self.top_p, rows)]
            arguments |= {"top_p": 1.0, "top_k": 0, "temperature": 1.0}
        return arguments
