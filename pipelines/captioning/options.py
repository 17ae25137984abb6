"""Options of the caption stage."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.captioning.decoding import Decoding
from pipelines.flags import add, at_least
from pipelines.inference import Precision
from schemas.errors import UserError


@dataclass(frozen=True)
class CaptionConfig:
    """What writes captions, and how.

    Attributes:
        captioner: Hub id or folder.
        decoding: how to decode.
        batch: images per forward pass.
        precision: number format that the model runs in.
    """

    captioner: str
    decoding: Decoding
    batch: int
    precision: Precision = "fp32"

    def recorded(self) -> dict[str, Any]:
        """For the manifest; the captioner stands there with its digest."""
        return {
            "decoding": asdict(self.decoding),
            "caption_batch": self.batch,
            "precision": self.precision,
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add(
        parser,
        "captioner",
        default="Salesforce/blip-image-captioning-base",
        help="image-to-text model, Hub id or folder: BLIP, BLIP-2, GIT or a vision encoder-decoder "
        "(default: %(default)s)",
    )
    add(
        parser,
        "decoding",
        choices=("greedy", "beam", "nucleus"),
        default="greedy",
        help="how captions are decoded (default: %(default)s)",
    )
    add(parser, "num_beams", type=int, help="for --decoding beam (default: 3)")
    add(parser, "top_p", type=float, help="for --decoding nucleus (default: 0.9)")
    add(
        parser,
        "captions_per_image",
        type=int,
        default=1,
        help="captions generated per image; over 1 needs beam or nucleus (default: 1)",
    )
    add(
        parser,
        "prompt",
        default="",
        help="text that each caption continues and keeps; {c} stands for the class name "
        "(default: none)",
    )
    add(
        parser,
        "max_new_tokens",
        type=int,
        default=40,
        help="most tokens of a caption (default: %(default)s)",
    )
    add(
        parser,
        "min_new_tokens",
        type=int,
        default=0,
        help="fewest tokens of a caption (default: %(default)s)",
    )
    add(
        parser,
        "repetition_penalty",
        type=float,
        default=1.0,
        help="over 1 makes words that were used less likely (default: 1, none)",
    )
    add(
        parser,
        "no_repeat_ngram",
        type=int,
        default=0,
        help="no sequence of so many tokens comes twice in a caption (default: 0, all may)",
    )
    add(parser, "caption_seed", type=int, help="for --decoding nucleus (default: 0)")
    add(
        parser,
        "caption_batch",
        type=int,
        default=32,
        help="images per forward pass of the captioner (default: %(default)s)",
    )


def resolve(o: argparse.Namespace) -> CaptionConfig:
    """Check the options.

    Raises:
        UserError: a value is out of range, or two contradict each other.
    """
    at_least(o, 1, "captions_per_image", "max_new_tokens", "caption_batch")
    at_least(o, 0, "min_new_tokens", "no_repeat_ngram")
    if o.min_new_tokens > o.max_new_tokens:
        raise UserError(f"--min_new_tokens {o.min_new_tokens} exceeds --max_new_tokens.")
    if not 0 < o.repetition_penalty < float("inf"):
        raise UserError(f"--repetition_penalty is {o.repetition_penalty}; it must be over 0.")
    return CaptionConfig(
        captioner=o.captioner,
        decoding=_decoding(o),
        batch=o.caption_batch,
        precision=o.precision,
    )


def _decoding(o: argparse.Namespace) -> Decoding:
    """How captions are decoded; an option of another mode is refused, not ignored."""
    for name, mode in (("num_beams", "beam"), ("top_p", "nucleus"), ("caption_seed", "nucleus")):
        if getattr(o, name) is not None and o.decoding != mode:
            raise UserError(f"--{name} is for --decoding {mode}, which is {o.decoding}; drop one.")
    num_beams = 3 if o.num_beams is None else o.num_beams
    top_p = 0.9 if o.top_p is None else o.top_p
    if num_beams < 1:
        raise UserError(f"--num_beams is {num_beams}; it must be at least 1.")
    if not 0 < top_p <= 1:
        raise UserError(f"--top_p is {top_p}; it must be over 0 and at most 1.")
    if o.captions_per_image > 1 and o.decoding == "greedy":
        raise UserError(
            "--captions_per_image over 1 needs --decoding beam or nucleus: greedy "
            "decoding gives one caption."
        )
    if o.decoding == "beam" and o.captions_per_image > num_beams:
        raise UserError(f"--captions_per_image {o.captions_per_image} exceeds --num_beams.")
    return Decoding(
        mode=o.decoding,
        num_beams=num_beams if o.decoding == "beam" else 1,
        top_p=top_p if o.decoding == "nucleus" else 1.0,
        prompt=o.prompt,
        captions_per_image=o.captions_per_image,
        max_new_tokens=o.max_new_tokens,
        min_new_tokens=o.min_new_tokens,
        repetition_penalty=o.repetition_penalty,
        no_repeat_ngram=o.no_repeat_ngram,
        seed=o.caption_seed or 0,
    )
