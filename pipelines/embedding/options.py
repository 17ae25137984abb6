"""Options of the embed stage."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from pipelines.flags import add, at_least


@dataclass(frozen=True)
class EmbedConfig:
    """What embeds images, and how.

    Attributes:
        encoder: as models.clip.load_clip.
        batch: images per forward pass.
    """

    encoder: str
    batch: int

    def recorded(self) -> dict[str, Any]:
        """For the manifest; the encoder stands there with its digest."""
        return {"embed_batch": self.batch}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add(
        parser,
        "encoder",
        default="ViT-B-16/laion2b_s34b_b88k",
        help="CLIP whose image embeddings are compared: NAME/TAG, hf-hub:ORG/REPO or a folder "
        "(default: %(default)s)",
    )
    add(
        parser,
        "embed_batch",
        type=int,
        default=128,
        help="images per forward pass of the encoder (default: %(default)s)",
    )


def resolve(o: argparse.Namespace) -> EmbedConfig:
    """Check the options.

    Raises:
        UserError: a value is out of range.
    """
    at_least(o, 1, "embed_batch")
    return EmbedConfig(encoder=o.encoder, batch=o.embed_batch)
