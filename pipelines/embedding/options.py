"""Options of the embed stage."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from pipelines.flags import add, at_least
from pipelines.inference import Precision


@dataclass(frozen=True)
class EmbedConfig:
    """What embeds images, and how.

    Attributes:
        encoder: as models.clip.load_clip.
        batch: images per forward pass.
        existing: place of embeddings of the pool that exist already; None: the pool is embedded.
        precision: number format that the model runs in.
    """

    encoder: str
    batch: int
    existing: str | None = None
    precision: Precision = "fp32"

    def recorded(self) -> dict[str, Any]:
        """What shapes embeddings of ours; the encoder stands in the manifest with its digest."""
        return {"embed_batch": self.batch, "precision": self.precision}


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
    add(
        parser,
        "pool_embeddings",
        help="embeddings of the pool by --encoder that exist already, as clip-retrieval and LAION "
        "lay them out: a folder with img_emb/*.npy and metadata/*.parquet; --pool still names the "
        "images (default: the pool is embedded)",
    )


def resolve(o: argparse.Namespace) -> EmbedConfig:
    """Check the options.

    Raises:
        UserError: a value is out of range.
    """
    at_least(o, 1, "embed_batch")
    return EmbedConfig(
        encoder=o.encoder,
        batch=o.embed_batch,
        existing=o.pool_embeddings or None,
        precision=o.precision,
    )
